"""TRL's SFTTrainer with packing (best-fit decreasing), one pack a step."""

import tempfile
from pathlib import Path

from common import Clock, Job, Trained, labels, load_plain, load_tokenizer, main, trainer_settings
from datasets import Dataset
from peer_trainer import ClockCallback, finished
from trl import SFTConfig, SFTTrainer

from thinktune.pack import fit


def train(job: Job, variant: str, clock: Clock) -> Trained:
    """One pass over the job's rows; `checkpointing` is TRL's default, `plain` keeps activations.

    TRL packs the rows before training, outside the clock; which rows share a step is up to its packing.
    """
    rows = [{"input_ids": row.ids.tolist(), "labels": labels(row)} for row in job.rows]
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            **trainer_settings(Path(folder)),
            per_device_train_batch_size=1,
            gradient_checkpointing=variant == "checkpointing",
            packing=True,
            max_length=pack_tokens(job),
        )
        trainer = SFTTrainer(
            model=load_plain(job),
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(job),
            callbacks=[ClockCallback(clock)],
        )
        packed = trainer.train_dataset
        assert sum(map(len, packed["input_ids"])) == job.tokens, "TRL cut rows or left some out"
        learned = sum(label != -100 for pack in packed["labels"] for label in pack)
        assert learned == sum(row.learned_tokens for row in job.rows), "TRL learns other tokens than we do"
        trainer.train()
    return finished(trainer)


def pack_tokens(job: Job) -> int:
    """The smallest pack with which TRL, that takes one pack a step, needs no more steps than the others."""
    lengths = [len(row) for row in job.rows]
    size = max(max(lengths), sum(lengths) // job.steps)
    while len(fit(lengths, size)) > job.steps:
        size += 1
    return size


if __name__ == "__main__":
    main(train)
