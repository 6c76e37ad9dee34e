"""TRL's SFTTrainer: as it comes, with padded batches; packed by itself; and with the same flat batches as ours."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from common import Clock, Options, Trained, main
from datasets import Dataset
from jobs import Job
from trainers import ClockCallback, SameSteps, attention, examples, finished, load, load_tokenizer, settings, tokens_of
from trl import SFTConfig, SFTTrainer

DEFAULT_ROWS = 8  # TRL's own per_device_train_batch_size


class FlatSFTTrainer(SameSteps, SFTTrainer):
    """SFTTrainer with the job's batches."""


def train(job: Job, options: Options, clock: Clock) -> Trained:
    """Train variant `default`, `tuned`, `tuned-bf16`, `packing`, `packing-checkpointing` or `same-steps`.

    Default: eight padded rows, checkpointing, fp32 weights under bf16 autocast; only its limit of 1,024 tokens, which
    would cut rows, is lifted. Tuned: its best-fit packing, packs as large as the batch, no checkpointing, fused AdamW,
    no check of each loss for bad numbers; `-bf16` has bf16 weights, which is fastest and changes few of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = settings(job, Path(folder))
        match options.variant:
            case "default":
                trainer, tokens, setting = _default(job, arguments, clock)
            case "same-steps":
                trainer, tokens, setting = _same_steps(job, arguments, options, clock)
            case _:
                trainer, tokens, setting = _packing(job, arguments, options, clock)
        trainer.train()
    return finished(trainer, tokens, setting)


def _default(job: Job, arguments: dict[str, Any], clock: Clock) -> tuple[Any, list[int], str]:
    rows = job.first_rows(job.plan.steps * DEFAULT_ROWS)
    arguments |= {"bf16": job.on_card, "max_length": max(map(len, rows)), "per_device_train_batch_size": DEFAULT_ROWS}
    trainer = _make_trainer(SFTTrainer, job, rows, arguments, clock, _load(job, packed=False))
    return trainer, tokens_of(rows, DEFAULT_ROWS, job.plan.steps), f"fp32 weights, {DEFAULT_ROWS} padded rows"


def _same_steps(job: Job, arguments: dict[str, Any], options: Options, clock: Clock) -> tuple[Any, list[int], str]:
    arguments |= _fast_settings(job) | {
        "gradient_accumulation_steps": job.batches_per_step(options.batch_tokens),
        "padding_free": True,
        "max_length": None,
        "pad_to_multiple_of": None,
    }
    trainer = _make_trainer(FlatSFTTrainer, job, job.rows, arguments, clock, _load(job))
    trainer.same_batches = job.batches(options.batch_tokens)
    return trainer, job.step_tokens, "fp32 weights, padding-free"


def _packing(job: Job, arguments: dict[str, Any], options: Options, clock: Clock) -> tuple[Any, list[int], str]:
    arguments |= packing_settings(job, options)
    dtype = torch.bfloat16 if options.variant == "tuned-bf16" else torch.float32
    trainer = _make_trainer(SFTTrainer, job, job.rows_in_order, arguments, clock, _load(job, dtype))
    weights = "fp32 weights" if dtype == torch.float32 else "bf16 weights"
    return trainer, step_tokens_of_packs(trainer, job, options), f"{weights}, packs of {arguments['max_length']:,}"


def packing_settings(job: Job, options: Options) -> dict[str, Any]:
    """Return the settings of TRL's best-fit packing."""
    return _fast_settings(job) | {
        "gradient_accumulation_steps": job.batches_per_step(options.batch_tokens),
        "per_device_train_batch_size": 1,
        "packing": True,
        "packing_strategy": "bfd",
        "max_length": options.batch_tokens or _pack_tokens(job),
        "gradient_checkpointing": options.variant == "packing-checkpointing",
    }


def step_tokens_of_packs(trainer: Any, job: Job, options: Options) -> list[int]:
    """Return the tokens of each step; raise AssertionError if packing lost some. Used-up packs start over."""
    packed, rows, packs = trainer.train_dataset, job.rows_in_order, job.batches_per_step(options.batch_tokens)
    lengths = [len(ids) for ids in packed["input_ids"]]
    assert sum(lengths) == sum(map(len, rows)), "packing cut rows or left some out"
    learned = sum(label != -100 for pack in packed["labels"] for label in pack)
    assert learned == sum(len(row) - row.prompt for row in rows), "other tokens are learned than by us"
    sums = [sum(lengths[start : start + packs]) for start in range(0, len(lengths), packs)]
    return [sums[step % len(sums)] for step in range(job.plan.steps)]


def _fast_settings(job: Job) -> dict[str, Any]:
    return {
        "bf16": job.on_card,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "logging_nan_inf_filter": False,
        "dataloader_num_workers": 2 if job.on_card else 0,
    }


def _make_trainer(kind: Any, job: Job, rows: Any, arguments: dict[str, Any], clock: Clock, model: Any) -> Any:
    return kind(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(examples(rows, mask=False)),
        processing_class=load_tokenizer(job),
        callbacks=[ClockCallback(clock, job.plan.steps)],
    )


def _load(job: Job, dtype: torch.dtype = torch.float32, *, packed: bool = True) -> Any:
    return load(job, dtype, attention(job, packed=packed))


def _pack_tokens(job: Job) -> int:
    """Return the smallest pack size with which TRL, one pack per step, needs no more steps than the others."""
    lengths = sorted(map(len, job.rows_in_order), reverse=True)
    size = max(lengths[0], sum(lengths) // job.plan.steps)
    while _packs(lengths, size) > job.plan.steps:
        size += 1
    return size


def _packs(lengths: list[int], size: int) -> int:
    """Return how many packs best-fit decreasing makes, as in TRL."""
    free: list[int] = []
    for length in lengths:
        fitting = [tokens for tokens in free if tokens >= length]
        if fitting:
            free.remove(min(fitting))
        free.append((min(fitting) if fitting else size) - length)
    return len(free)


if __name__ == "__main__":
    main(train)
