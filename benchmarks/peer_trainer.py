"""transformers' Trainer: as it comes, with padded batches; and tuned, with the same flat batches as ours."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from common import Clock, Options, Trained, main
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


def train(job: Job, options: Options, clock: Clock) -> Trained:
    """Train variant `default` or `tuned`.

    Default: eight padded rows, the weights' own type (bf16 on a card), everything else as it comes. Tuned: fp32 weights
    under bf16 autocast, flat batches without padding, fused AdamW, no checkpointing, no check of each loss for
    bad numbers, Liger's kernels if installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = settings(job, Path(folder))
        match options.variant:
            case "default":
                trainer, step_tokens, setting = _default(job, arguments, clock)
            case _:
                trainer, step_tokens, setting = _tuned(job, arguments, options, clock)
        trainer.train()
    return finished(trainer, step_tokens, setting)


def _default(job: Job, arguments: dict[str, Any], clock: Clock) -> tuple[Any, list[int], str]:
    rows = job.first_rows(job.plan.steps * DEFAULT_ROWS)
    dtype = torch.bfloat16 if job.on_card else torch.float32
    trainer = Trainer(
        model=load(job, dtype, attention(job, packed=False)),
        args=TrainingArguments(**arguments, per_device_train_batch_size=DEFAULT_ROWS),
        train_dataset=examples(rows),
        data_collator=DataCollatorForSeq2Seq(load_tokenizer(job), padding=True),
        callbacks=[ClockCallback(clock, job.plan.steps)],
    )
    kind = str(dtype).removeprefix("torch.")
    return trainer, tokens_of(rows, DEFAULT_ROWS, job.plan.steps), f"{kind} weights, {DEFAULT_ROWS} padded rows"


def _tuned(job: Job, arguments: dict[str, Any], options: Options, clock: Clock) -> tuple[Any, list[int], str]:
    liger = has_liger() and job.on_card
    arguments |= {
        "bf16": job.on_card,
        "optim": "adamw_torch_fused",
        "gradient_accumulation_steps": job.batches_per_step(options.batch_tokens),
        "use_liger_kernel": liger,
        "logging_nan_inf_filter": False,
        "dataloader_num_workers": 2 if job.on_card else 0,
    }
    trainer = FlatTrainer(
        model=load(job, torch.float32, attention(job, packed=True)),
        args=TrainingArguments(**arguments),
        train_dataset=examples(job.rows, mask=False),
        data_collator=DataCollatorWithFlattening(return_flash_attn_kwargs=job.on_card),
        callbacks=[ClockCallback(clock, job.plan.steps)],
    )
    trainer.same_batches = job.batches(options.batch_tokens)
    setting = f"fp32 weights, bf16 autocast, {'Liger' if liger else 'no Liger'}" if job.on_card else "fp32 weights"
    return trainer, job.step_tokens, setting


if __name__ == "__main__":
    main(train)
