"""State of a run in progress, and what of it a checkpoint carries.

Each part has one owner, whose methods alone write it. Apart from weights and optimizer states, a checkpoint carries
what `Run.state_dict` returns, as JSON; an owner's `NOT_CARRIED` names the fields that start afresh.
"""

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

from thinktune.model import Batch
from thinktune.train.anomalies import AnomalyDetector
from thinktune.train.context import RunContext
from thinktune.train.metrics import MetricsLogger
from thinktune.train.samples import SampleBudget


@dataclass(slots=True)
class TrainState:
    """Progress of a run: the last step, whether it is evaluated, and the last one saved."""

    NOT_CARRIED: ClassVar = frozenset({"step", "evaluated", "saved"})  # a checkpoint's own name, and the folder's marks

    step: int = 0
    evaluated: bool = False
    saved: int = 0

    def advance(self, step: int) -> None:
        """Record that a step was made."""
        self.step, self.evaluated = step, False

    def record_evaluation(self) -> None:
        """Record that the evaluation of the last step is complete."""
        self.evaluated = True

    def record_save(self) -> None:
        """Record that the last step has a checkpoint."""
        self.saved = self.step


@dataclass(slots=True)
class CheckpointClock:
    """Times of checkpoints: the last one, the slowest one, and the waits of training for them."""

    NOT_CARRIED: ClassVar = frozenset({"saved_at", "slowest_save_seconds", "waited_seconds"})

    slowest_save_seconds: float  # before the first save, an estimate
    saved_at: float = field(default_factory=time.monotonic)
    waited_seconds: float = 0.0
    unsaved: list[int] = field(default_factory=list[int])  # steps whose checkpoint found no room on the disk

    def is_due(self, interval_minutes: float) -> bool:
        """Return True if the last save, or attempt, is longer ago than the interval."""
        return time.monotonic() - self.saved_at > 60 * interval_minutes

    def start_save(self) -> None:
        """Record an attempt, so that a full disk is not tried again at every step."""
        self.saved_at = time.monotonic()

    def record_save(self, seconds: float) -> None:
        """Record a checkpoint and the seconds it took."""
        self.saved_at, self.slowest_save_seconds = time.monotonic(), max(self.slowest_save_seconds, seconds)

    def record_unsaved(self, step: int) -> None:
        """Record a step whose checkpoint was not written."""
        self.unsaved.append(step)

    def record_wait(self, seconds: float) -> None:
        """Record seconds in which training waited for a checkpoint."""
        self.waited_seconds += seconds

    def state_dict(self) -> dict[str, Any]:
        """Return the steps without a checkpoint."""
        return {"unsaved": list(self.unsaved)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.unsaved = state["unsaved"]


@dataclass(slots=True)
class Prefetcher:
    """Batches of the next step, on the device before it begins."""

    NOT_CARRIED: ClassVar = frozenset({"batches"})

    batches: dict[int, list[Batch]] = field(default_factory=dict[int, list[Batch]])  # by step

    def prefetch(self, context: RunContext, step: int) -> list[Batch]:
        """Make a step's batches ahead."""
        self.batches[step] = context.step_batches(step)
        return self.batches[step]

    def take(self, context: RunContext, step: int) -> list[Batch]:
        """Return a step's batches: those made ahead, or else made now."""
        return self.batches.pop(step, None) or context.step_batches(step)


@dataclass(frozen=True, slots=True)
class Run:
    """A run in progress: its fixed context and the owners of everything that changes."""

    context: RunContext
    state: TrainState
    checkpoints: CheckpointClock
    metrics: MetricsLogger = field(default_factory=MetricsLogger)
    anomalies: AnomalyDetector = field(default_factory=AnomalyDetector)
    samples: SampleBudget = field(default_factory=SampleBudget)
    prefetcher: Prefetcher = field(default_factory=Prefetcher)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs, as JSON; reading it waits for the device."""
        return {**self.metrics.state_dict(), **self.anomalies.state_dict(), **self.checkpoints.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned: the next line of metrics covers the steps before it too."""
        self.metrics.load_state_dict(state, self.context.device)
        self.anomalies.load_state_dict(state)
        self.checkpoints.load_state_dict(state)
