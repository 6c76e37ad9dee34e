"""LLaMA-Factory's full fine-tuning, through its own entry point, on packs that are tokenized already."""

import os

os.environ.setdefault("DISABLE_VERSION_CHECK", "1")  # it pins older releases than the other contenders run with

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import Clock, Options, Trained, main
from datasets import Dataset, DatasetDict
from jobs import Job
from llamafactory.train.tuner import run_exp
from trainers import ClockCallback, finished, has_liger, settings
from transformers import TrainerCallback

UNKNOWN_TO_IT = ("train_sampling_strategy", "use_cpu")  # names that the transformers it pins may not have


class KeepCallback(TrainerCallback):
    """Keep the model and the log, which its entry point does not return."""

    def on_train_end(self, arguments: Any, state: Any, control: Any, **rest: Any) -> None:
        """Keep them when training ends."""
        self.kept = SimpleNamespace(state=state, model=rest["model"])


def train(job: Job, options: Options, clock: Clock) -> Trained:
    """Train with `pure_bf16`, FlashAttention, neat packing and Liger if installed, on the job's batches."""
    keep = KeepCallback()
    with tempfile.TemporaryDirectory() as folder:
        packs = [_pack(job, batch) for batch in job.batches(options.batch_tokens)]
        DatasetDict({"train": Dataset.from_list(packs)}).save_to_disk(f"{folder}/packs")
        arguments = settings(job, Path(folder) / "out")
        arguments = {name: value for name, value in arguments.items() if name not in UNKNOWN_TO_IT} | {
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "model_name_or_path": str(job.model),
            "template": "empty",
            "dataset": "benchmark",  # required, but not read when packs are on the disk
            "tokenized_path": f"{folder}/packs",
            "cutoff_len": max(len(pack["input_ids"]) for pack in packs),
            "neat_packing": True,
            "flash_attn": "fa2",
            "pure_bf16": True,
            "optim": "adamw_torch_fused",
            "enable_liger_kernel": has_liger(),
            "disable_gradient_checkpointing": True,
            "disable_shuffling": True,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": job.batches_per_step(options.batch_tokens),
        }
        run_exp(arguments, callbacks=[ClockCallback(clock, job.plan.steps), keep])
    return finished(keep.kept, job.step_tokens, f"bf16 weights, {'Liger' if has_liger() else 'no Liger'}")


def _pack(job: Job, batch: list[int]) -> dict[str, Any]:
    """Return a batch as its neat packing makes it: the mask counts rows from one, positions restart in each."""
    rows = [job.rows[row] for row in batch]
    ends = [sum(len(row) for row in rows[:count]) for count in range(len(rows) + 1)]
    nothing = [2**31 - 1]
    return {
        "input_ids": [token for row in rows for token in row.ids.tolist()],
        "attention_mask": [number for number, row in enumerate(rows, start=1) for _ in range(len(row))],
        "position_ids": [place for row in rows for place in range(len(row))],
        "labels": [label for row in rows for label in row.labels],
        "packing_params": {
            "sequence_boundaries": ends,
            "image_subseq_ids": nothing,
            "video_subseq_ids": nothing,
            "audio_subseq_ids": nothing,
            "right_padding_length": 0,
        },
        "images": None,
        "videos": None,
        "audios": None,
    }


if __name__ == "__main__":
    main(train)
