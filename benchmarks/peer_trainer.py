"""The tutorial's loop: transformers' Trainer, one row a batch, four batches a step."""

import tempfile
from pathlib import Path
from typing import Any

from common import ROWS_PER_STEP, Clock, Job, Trained, labels, load_plain, load_tokenizer, main, trainer_settings
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments


class ClockCallback(TrainerCallback):
    """Starts the clock after everything is built, just before the first step, and stops it after the last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_begin(self, *arguments: Any, **state: Any) -> None:
        """The model stands, the optimizer is made, no batch is read."""
        self._clock.start()

    def on_train_end(self, *arguments: Any, **state: Any) -> None:
        """The last step is taken."""
        self._clock.stop()


def finished(trainer: Any) -> Trained:
    """What a trainer reports of itself after training."""
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    return Trained(trainer.model, trainer.state.global_step, float(norms[0]))


def train(job: Job, variant: str, clock: Clock) -> Trained:
    """One pass over the job's rows; `checkpointing` recomputes activations as the tutorial does, `plain` keeps them."""
    rows = [
        {"input_ids": row.ids.tolist(), "attention_mask": [1] * len(row), "labels": labels(row)} for row in job.rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            **trainer_settings(Path(folder)),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=ROWS_PER_STEP,
            gradient_checkpointing=variant == "checkpointing",
        )
        trainer = Trainer(
            model=load_plain(job),
            args=settings,
            train_dataset=Dataset.from_list(rows),
            data_collator=DataCollatorForSeq2Seq(load_tokenizer(job), padding=True),
            callbacks=[ClockCallback(clock)],
        )
        trainer.train()
    return finished(trainer)


if __name__ == "__main__":
    main(train)
