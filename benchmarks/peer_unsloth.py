"""Unsloth's full fine-tuning: its model and kernels under TRL's trainer, with best-fit packing."""

from unsloth import FastLanguageModel  # isort: skip  (before transformers and TRL, which it patches)

import tempfile
from pathlib import Path

import torch
from common import Clock, Options, Trained, main
from datasets import Dataset
from jobs import Job
from peer_trl import packing_settings, step_tokens_of_packs
from trainers import ClockCallback, examples, finished, load_tokenizer, settings
from trl import SFTConfig, SFTTrainer


def train(job: Job, options: Options, clock: Clock) -> Trained:
    """Train bf16 weights without checkpointing, in packs as large as the batch: its documented full fine-tuning."""
    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(job.model),
        max_seq_length=max(map(len, job.rows)),
        dtype=torch.bfloat16,
        load_in_4bit=False,
        full_finetuning=True,
        use_gradient_checkpointing=False,
        local_files_only=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = settings(job, Path(folder)) | packing_settings(job, options)
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**arguments),
            train_dataset=Dataset.from_list(examples(job.rows_in_order, mask=False)),
            processing_class=load_tokenizer(job),
            callbacks=[ClockCallback(clock, job.plan.steps)],
        )
        tokens = step_tokens_of_packs(trainer, job, options)
        trainer.train()
    return finished(trainer, tokens, f"bf16 weights, packs of {arguments['max_length']:,}")


if __name__ == "__main__":
    main(train)
