"""The tutorial's loop: Trainer over bf16 weights, one row a batch, four batches a step, activation checkpointing."""

import tempfile
from pathlib import Path

import torch
from common import Clock, Options, Trained, main
from jobs import Job
from trainers import ClockCallback, attention, examples, finished, load, load_tokenizer, settings, tokens_of
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

ROWS_PER_STEP = 4


def train(job: Job, options: Options, clock: Clock) -> Trained:
    """Train in its own steps of four rows; variant `kept` keeps activations, `checkpointing` is the tutorial's own.

    On the CPU the weights are fp32, as for all contenders there.
    """
    rows = job.first_rows(job.plan.steps * ROWS_PER_STEP)
    dtype = torch.bfloat16 if job.on_card else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            **settings(job, Path(folder)),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=ROWS_PER_STEP,
            gradient_checkpointing=options.variant == "checkpointing",
        )
        trainer = Trainer(
            model=load(job, dtype, attention(job, packed=False)),
            args=arguments,
            train_dataset=examples(rows),
            data_collator=DataCollatorForSeq2Seq(load_tokenizer(job), padding=True),
            callbacks=[ClockCallback(clock, job.plan.steps)],
        )
        trainer.train()
    kind = str(dtype).removeprefix("torch.")
    return finished(trainer, tokens_of(rows, ROWS_PER_STEP, job.plan.steps), f"{kind} weights, 1 row x {ROWS_PER_STEP}")


if __name__ == "__main__":
    main(train)
