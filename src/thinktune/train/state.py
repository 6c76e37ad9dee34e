"""What a run carries from step to step beside its weights, as JSON: numbers not logged yet, its clock, its losses."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinktune.config import Recipe
from thinktune.data import Prepared, StepRows, Subset
from thinktune.data.packing import balance
from thinktune.distributed import World
from thinktune.model import Batch, LossReport, pick_precision
from thinktune.model.batch import Padding, collate
from thinktune.optim import Optimizer, learning_rate_factor
from thinktune.planner import Setting
from thinktune.progress import Bar, Say, no_bar
from thinktune.train.step import StepReport


def evaluation_interval_steps(recipe: Recipe, steps: Sequence[StepRows]) -> int:
    """Steps between two evaluations: as the recipe says, or four an epoch."""
    return recipe.train.evaluate_every_steps or max(1, math.ceil(len(steps) / recipe.train.epochs / 4))


@dataclass(slots=True)
class Run:
    """A run in progress: what was decided before it, the model that it trains, and how far it is."""

    recipe: Recipe
    folder: Path
    prepared: Prepared
    tokenizer: Any
    model: Any
    optimizer: Optimizer
    steps: list[StepRows]
    tokens_left: Sequence[int]  # to train on, after so many steps
    setting: Setting
    done: int
    say: Say
    pad: Padding | None = None  # on an accelerator, what batches are filled up with
    compiled: bool = False
    replies_at_once: int | None = None  # of samples, where the device does not hold all that the recipe asks for
    prefetched_batches: dict[int, list[Batch]] = field(
        default_factory=dict[int, list[Batch]]
    )  # of the next step, on the device
    world: World = field(default_factory=World)
    pending: list[StepReport] = field(default_factory=list[StepReport])
    started: float = 0.0
    trained_tokens: int = 0
    refused: list[int] = field(default_factory=list[int])  # steps, of those last logged
    logged: tuple[float, int] = (0.0, 0)  # seconds and tokens at the last line of metrics
    opened: float = field(default_factory=time.monotonic)
    sampled_seconds: float = 0.0
    sampled_tokens_per_second: float | None = None
    bar: Bar = no_bar
    refused_in_a_row: int = 0
    recent_losses: list[float] = field(default_factory=list[float])
    evaluated: bool = False  # whether the evaluation of step `done` is whole
    saved: int = 0  # the last step with a checkpoint
    saved_at: float = field(default_factory=time.monotonic)
    unsaved: list[int] = field(default_factory=list[int])  # steps whose checkpoint found no room
    slowest_save: float = 0.0  # in seconds; before the first one, what is believed of the disk
    saving_seconds: float = 0.0  # in which training waited for checkpoints
    restored_state: dict[str, Any] | None = (
        None  # what the checkpoint that the run goes on from knows beside the weights
    )

    @property
    def capacity(self) -> int:
        """Tokens in one forward pass."""
        return self.setting.batch_tokens

    @property
    def chunk_rows(self) -> int | None:
        """Of logits that exist at a time; none means what suits the device."""
        return self.setting.chunk_rows

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def precision(self) -> torch.dtype:
        """What it computes in."""
        return pick_precision(self.recipe.train.precision, self.device, self.optimizer.memory)

    @property
    def epoch(self) -> float:
        """How many times the training rows were seen."""
        rows = sum(len(dealt.rows) for dealt in self.steps[: self.done])
        return round(rows / len(self.prepared.train.lengths), 4)

    def batches(self, number: int) -> list[Batch]:
        """This rank's batches of a step, on the device: those that were made ahead, or made now."""
        if made := self.prefetched_batches.pop(number, None):
            return made
        rows = self.steps[number - 1].rows
        return [batch.to(self.device) for batch in self.rank_batches(self.prepared.train, rows, self.capacity)]

    def rank_batches(self, rows: Subset, chosen: Sequence[int], capacity: int) -> list[Batch]:
        """This rank's share of some rows; every rank has the same number of batches."""
        lengths: list[int] = rows.lengths[list(chosen)].tolist()
        groups = balance(lengths, capacity, self.world.size)[self.world.rank]
        return [
            collate(rows.replies([chosen[index] for index in group]) if group else [], capacity, self.pad)
            for group in groups
        ]

    def row_sources(self, number: int) -> list[str]:
        """Where the rows of a step stand."""
        return self.prepared.train.sources(self.steps[number - 1].rows)

    def learning_rate(self, number: int) -> float:
        """The learning rate of a step."""
        settings = self.recipe.train
        share = learning_rate_factor(number, len(self.steps), settings.warmup_fraction, settings.schedule)
        return settings.learning_rate * share


def state_dict(run: Run) -> dict[str, Any]:
    """Everything that `load_state_dict` needs; reading it waits for the device."""
    return {
        "pending": [_report_to_json(made) for made in run.pending],
        "trained_tokens": run.trained_tokens,
        "seconds": time.monotonic() - run.started,
        "logged": run.logged,
        "refused_in_a_row": run.refused_in_a_row,
        "recent_losses": run.recent_losses,
        "unsaved": run.unsaved,
    }


def load_state_dict(run: Run, state: dict[str, Any]) -> None:
    """Go on as if the run had never stopped: the next line of metrics covers the steps before the stop as well."""
    run.pending = [_report_from_json(made, run.device) for made in state["pending"]]
    run.trained_tokens = state["trained_tokens"]
    run.started = time.monotonic() - state["seconds"]
    seconds, tokens = state["logged"]
    run.logged = (seconds, tokens)
    run.refused_in_a_row = state["refused_in_a_row"]
    run.recent_losses = state["recent_losses"]
    run.unsaved = state["unsaved"]


def _report_to_json(made: StepReport) -> dict[str, Any]:
    # A float of Python holds every fp32 exactly, and JSON as Python writes it every float.
    return {
        "sums": _tensor_to_json(made.losses.sums),
        "counts": _tensor_to_json(made.losses.counts),
        "gradient_norm": _tensor_to_json(made.gradient_norm),
        "learned_tokens": made.label_tokens,
    }


def _report_from_json(written: dict[str, Any], device: torch.device) -> StepReport:
    sums, counts, norm = (
        torch.tensor(written[key]["values"], dtype=getattr(torch, written[key]["dtype"]), device=device)
        for key in ("sums", "counts", "gradient_norm")
    )
    return StepReport(LossReport(sums, counts), norm, written["learned_tokens"])


def _tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "values": tensor.tolist()}
