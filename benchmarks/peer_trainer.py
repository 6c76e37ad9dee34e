"""transformers' Trainer: as it comes, with padded batches; and tuned, with the same flat batches as ours."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from common import Chosen, Clock, Trained, main
from jobs import Job
from trainers import (
    ClockCallback,
    SameSteps,
    attention,
    examples,
    finished,
    has_liger,
    load,
    load_tokenizer,
    settings,
    tokens_of,
)
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening, Trainer, TrainingArguments

DEFAULT_ROWS = 8  # Trainer's own per_device_train_batch_size


class FlatTrainer(SameSteps, Trainer):
    """Trainer with the job's batches."""


def train(job: Job, chosen: Chosen, clock: Clock) -> Trained:
    """Variant `default` or `tuned`.

    Default: eight padded rows, the weights' own type (bf16 on a card), everything else as it comes. Tuned: fp32 weights
    under bf16 autocast, flat batches without padding, fused AdamW, no checkpointing, no look at each loss for bad
    numbers, Liger's kernels where they are installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = settings(job, Path(folder))
        made = _default(job, told, clock) if chosen.variant == "default" else _tuned(job, told, chosen, clock)
        trainer, step_tokens, setting = made
        trainer.train()
    return finished(trainer, step_tokens, setting)


def _default(job: Job, told: dict[str, Any], clock: Clock) -> tuple[Any, list[int], str]:
    rows = job.first_rows(job.plan.steps * DEFAULT_ROWS)
    dtype = torch.bfloat16 if job.on_card else torch.float32
    trainer = Trainer(
        model=load(job, dtype, attention(job, packed=False)),
        args=TrainingArguments(**told, per_device_train_batch_size=DEFAULT_ROWS),
        train_dataset=examples(rows),
        data_collator=DataCollatorForSeq2Seq(load_tokenizer(job), padding=True),
        callbacks=[ClockCallback(clock, job.plan.steps)],
    )
    kind = str(dtype).removeprefix("torch.")
    return trainer, tokens_of(rows, DEFAULT_ROWS, job.plan.steps), f"{kind} weights, {DEFAULT_ROWS} padded rows"


def _tuned(job: Job, told: dict[str, Any], chosen: Chosen, clock: Clock) -> tuple[Any, list[int], str]:
    liger = has_liger() and job.on_card
    told |= {
        "bf16": job.on_card,
        "optim": "adamw_torch_fused",
        "gradient_accumulation_steps": job.batches_per_step(chosen.batch_tokens),
        "use_liger_kernel": liger,
        "logging_nan_inf_filter": False,
        "dataloader_num_workers": 2 if job.on_card else 0,
    }
    trainer = FlatTrainer(
        model=load(job, torch.float32, attention(job, packed=True)),
        args=TrainingArguments(**told),
        train_dataset=examples(job.rows, mask=False),
        data_collator=DataCollatorWithFlattening(return_flash_attn_kwargs=job.on_card),
        callbacks=[ClockCallback(clock, job.plan.steps)],
    )
    trainer.same_batches = job.batches(chosen.batch_tokens)
    setting = f"fp32 weights, bf16 autocast, {'Liger' if liger else 'no Liger'}" if job.on_card else "fp32 weights"
    return trainer, job.step_tokens, setting


if __name__ == "__main__":
    main(train)
