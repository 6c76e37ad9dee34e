"""Code of peers built on transformers' Trainer: their settings, the clock as a callback, the same steps."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from common import Clock, Trained
from jobs import Job, Row
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback


class ClockCallback(TrainerCallback):
    """Report every step to the clock; the last one ends when training does, with everything that was logged."""

    def __init__(self, clock: Clock, steps: int) -> None:
        self._clock, self._steps = clock, steps

    def on_train_begin(self, *arguments: Any, **state: Any) -> None:
        """Start the clock: model and optimizer exist, and no batch is read yet."""
        self._clock.begin()

    def on_step_end(self, arguments: Any, state: Any, *others: Any, **rest: Any) -> None:
        """Record a step, before it is logged."""
        if state.global_step < self._steps:
            self._clock.step(state.global_step, self._steps)

    def on_train_end(self, *arguments: Any, **state: Any) -> None:
        """Record the last step, after it was logged."""
        self._clock.step(self._steps, self._steps)


class SameSteps:
    """Base class, put before a Trainer, that gives it the job's batches, so that it computes the same as ours."""

    same_batches: list[list[int]]

    def get_train_dataloader(self: Any) -> Any:
        """Return a loader of the job's batches in their order."""
        batches = DataLoader(
            self.train_dataset,
            batch_sampler=self.same_batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(batches)


def settings(job: Job, folder: Path) -> dict[str, Any]:
    """Return the settings of every Trainer, with which it takes the same steps as ours and does nothing else."""
    plan = job.plan
    return {
        "output_dir": str(folder),
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "max_steps": plan.steps,
        "logging_steps": plan.log_every,
        "logging_first_step": True,  # for its gradient norm, the only one that all compute at the same weights
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not job.on_card,
        "bf16": False,
        "train_sampling_strategy": "sequential",
    }


def attention(job: Job, *, packed: bool) -> str:
    """Return FlashAttention's interface, behind which is torch's kernel, for packed rows on a card; otherwise SDPA."""
    return "flash_attention_2" if packed and job.on_card else "sdpa"


def load(job: Job, dtype: torch.dtype, attention: str) -> Any:
    """Load the initial weights as a plain transformers model."""
    return AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype, attn_implementation=attention)


def load_tokenizer(job: Job) -> Any:
    """Load the model's tokenizer; contenders need it for its padding token."""
    return AutoTokenizer.from_pretrained(job.model)


def examples(rows: Iterable[Row], *, mask: bool = True) -> list[dict[str, list[int]]]:
    """Return rows as token ids and labels; a plain list, so that contenders with Trainer need no other package."""
    made = [{"input_ids": row.ids.tolist(), "labels": row.labels} for row in rows]
    return [example | {"attention_mask": [1] * len(example["labels"])} for example in made] if mask else made


def tokens_of(rows: list[Row], rows_per_step: int, steps: int) -> list[int]:
    """Return the tokens of each step of a contender that takes `rows_per_step` rows at a time, in order."""
    starts = range(0, steps * rows_per_step, rows_per_step)
    return [sum(map(len, rows[start : start + rows_per_step])) for start in starts]


def has_liger() -> bool:
    """Return True if Liger's kernels are installed; without them, contenders run without, and report it."""
    return importlib.util.find_spec("liger_kernel") is not None


def finished(trainer: Any, step_tokens: list[int], setting: str) -> Trained:
    """Return a trainer's model, steps, gradient norms and losses after training."""
    entries = trainer.state.log_history
    norms = [float(entry["grad_norm"]) for entry in entries if "grad_norm" in entry]
    losses = [(int(entry["step"]), float(entry["loss"])) for entry in entries if "loss" in entry]
    assert trainer.state.global_step == len(step_tokens), f"{trainer.state.global_step} steps"
    return Trained(trainer.model, step_tokens, norms, losses, setting)
