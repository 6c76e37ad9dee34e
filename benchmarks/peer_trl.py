"""TRL's SFTTrainer: as it comes, with padded batches; packed by itself; and with the same flat batches as ours."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from common import Chosen, Clock, Trained, main
from datasets import Dataset
from jobs import Job
from trainers import ClockCallback, SameSteps, attention, examples, finished, load, load_tokenizer, settings, tokens_of
from trl import SFTConfig, SFTTrainer

DEFAULT_ROWS = 8  # TRL's own per_device_train_batch_size


class FlatSFTTrainer(SameSteps, SFTTrainer):
    """SFTTrainer with the job's batches."""


def train(job: Job, chosen: Chosen, clock: Clock) -> Trained:
    """Variant `default`, `tuned`, `tuned-bf16`, `packing`, `packing-checkpointing` or `same-steps`.

    Default: eight padded rows, checkpointing, fp32 weights under bf16 autocast; only its limit of 1,024 tokens, which
    would cut rows, is lifted. Tuned: its best-fit packing, packs as large as the batch, no checkpointing, fused AdamW,
    no look at each loss for bad numbers; `-bf16` over bf16 weights, which is fastest and moves few of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = settings(job, Path(folder))
        match chosen.variant:
            case "default":
                trainer, tokens, setting = _default(job, told, clock)
            case "same-steps":
                trainer, tokens, setting = _same_steps(job, told, chosen, clock)
            case _:
                trainer, tokens, setting = _packing(job, told, chosen, clock)
        trainer.train()
    return finished(trainer, tokens, setting)


def _default(job: Job, told: dict[str, Any], clock: Clock) -> tuple[Any, list[int], str]:
    rows = job.first_rows(job.plan.steps * DEFAULT_ROWS)
    told |= {"bf16": job.on_card, "max_length": max(map(len, rows)), "per_device_train_batch_size": DEFAULT_ROWS}
    trainer = _made(SFTTrainer, job, rows, told, clock, torch.float32, packed=False)
    return trainer, tokens_of(rows, DEFAULT_ROWS, job.plan.steps), f"fp32 weights, {DEFAULT_ROWS} padded rows"


def _same_steps(job: Job, told: dict[str, Any], chosen: Chosen, clock: Clock) -> tuple[Any, list[int], str]:
    told |= _quick(job) | {
        "gradient_accumulation_steps": job.batches_per_step(chosen.batch_tokens),
        "padding_free": True,
        "max_length": None,
        "pad_to_multiple_of": None,
    }
    trainer = _made(FlatSFTTrainer, job, job.rows, told, clock, torch.float32)
    trainer.same_batches = job.batches(chosen.batch_tokens)
    return trainer, job.step_tokens, "fp32 weights, padding-free"


def _packing(job: Job, told: dict[str, Any], chosen: Chosen, clock: Clock) -> tuple[Any, list[int], str]:
    told |= packing_settings(job, chosen)
    dtype = torch.bfloat16 if chosen.variant == "tuned-bf16" else torch.float32
    trainer = _made(SFTTrainer, job, job.rows_in_order, told, clock, dtype)
    weights = "fp32 weights" if dtype == torch.float32 else "bf16 weights"
    return trainer, step_tokens_of_packs(trainer, job, chosen), f"{weights}, packs of {told['max_length']:,}"


def packing_settings(job: Job, chosen: Chosen) -> dict[str, Any]:
    """TRL's best-fit packing at its best."""
    return _quick(job) | {
        "gradient_accumulation_steps": job.batches_per_step(chosen.batch_tokens),
        "per_device_train_batch_size": 1,
        "packing": True,
        "packing_strategy": "bfd",
        "max_length": chosen.batch_tokens or _pack_tokens(job),
        "gradient_checkpointing": chosen.variant == "packing-checkpointing",
    }


def step_tokens_of_packs(trainer: Any, job: Job, chosen: Chosen) -> list[int]:
    """Tokens of each step; AssertionError where packing lost some. Packs start again where they are used up."""
    packed, rows, packs = trainer.train_dataset, job.rows_in_order, job.batches_per_step(chosen.batch_tokens)
    lengths = [len(ids) for ids in packed["input_ids"]]
    assert sum(lengths) == sum(map(len, rows)), "packing cut rows or left some out"
    learned = sum(label != -100 for pack in packed["labels"] for label in pack)
    assert learned == sum(len(row) - row.prompt for row in rows), "other tokens are learned than by us"
    sums = [sum(lengths[start : start + packs]) for start in range(0, len(lengths), packs)]
    return [sums[step % len(sums)] for step in range(job.plan.steps)]


def _quick(job: Job) -> dict[str, Any]:
    return {
        "bf16": job.on_card,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "logging_nan_inf_filter": False,
        "dataloader_num_workers": 2 if job.on_card else 0,
    }


def _made(
    kind: Any, job: Job, rows: Any, told: dict[str, Any], clock: Clock, dtype: torch.dtype, *, packed: bool = True
) -> Any:
    return kind(
        model=load(job, dtype, attention(job, packed=packed)),
        args=SFTConfig(**told),
        train_dataset=Dataset.from_list(examples(rows, mask=False)),
        processing_class=load_tokenizer(job),
        callbacks=[ClockCallback(clock, job.plan.steps)],
    )


def _pack_tokens(job: Job) -> int:
    """The smallest pack with which TRL, one pack a step, needs no more steps than the others."""
    lengths = sorted(map(len, job.rows_in_order), reverse=True)
    size = max(lengths[0], sum(lengths) // job.plan.steps)
    while _packs(lengths, size) > job.plan.steps:
        size += 1
    return size


def _packs(lengths: list[int], size: int) -> int:
    """How many packs best-fit decreasing makes, as TRL's does."""
    rooms: list[int] = []
    for length in lengths:
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else size) - length)
    return len(rooms)


if __name__ == "__main__":
    main(train)
