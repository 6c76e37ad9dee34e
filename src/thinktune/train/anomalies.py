"""Anomalies of training: refused steps, loss spikes, and when a run has to stop for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, ClassVar

from thinktune.distributed import SINGLE
from thinktune.model import evaluate_loss, pack
from thinktune.train.context import RunContext
from thinktune.train.step import StepReport

WINDOW_STEPS = 64  # steps that a loss is compared with
MIN_WINDOW_STEPS = 16  # with fewer there is too little to compare with
SPIKE_DEVIATIONS = 6.0
SPIKE_RATIO = 1.25  # of the median; where losses hardly differ, six deviations would be nothing
MAD_TO_STANDARD_DEVIATION = 1.4826  # of a normal distribution
MAX_REFUSED_STEPS_IN_A_ROW = 10  # one bad row is the row's fault; this many steps in a row are the run's


def is_spike(loss: float, previous_losses: Sequence[float]) -> bool:
    """Return True if a loss is far above those before it (robust z-score: Iglewicz, Hoaglin, 1993)."""
    recent = previous_losses[-WINDOW_STEPS:]
    if len(recent) < MIN_WINDOW_STEPS:
        return False
    middle = median(recent)
    deviation = MAD_TO_STANDARD_DEVIATION * median(abs(value - middle) for value in recent)
    return loss > middle + SPIKE_DEVIATIONS * deviation and loss > SPIKE_RATIO * middle


@dataclass(slots=True)
class AnomalyDetector:
    """Finds refused steps and loss spikes, and keeps what the next steps are compared with."""

    NOT_CARRIED: ClassVar = frozenset({"refused"})

    refused: list[int] = field(default_factory=list[int])  # steps, of those last examined
    refused_in_a_row: int = 0
    recent_losses: list[float] = field(default_factory=list[float])

    def detect(
        self, context: RunContext, step: int, reports: Sequence[StepReport], norms: Sequence[float]
    ) -> list[dict[str, Any]]:
        """Return an event for each step that was refused or whose loss is a spike, with its rows.

        The reports, and the gradient norms, are those of the steps up to `step`.
        """
        events: list[dict[str, Any]] = []
        self.refused = []
        for number, (report, norm) in enumerate(zip(reports, norms, strict=True), step - len(reports) + 1):
            loss = sum(report.losses.sums.tolist()) / max(1, sum(report.losses.counts.tolist()))
            if not math.isfinite(norm):
                self.refused.append(number)
                self.refused_in_a_row += 1
                events.append({"kind": "event", "step": number, "text": _describe_refused_step(context, number, loss)})
                continue
            self.refused_in_a_row = 0
            if is_spike(loss, self.recent_losses):
                text = f"loss {loss:.3f} is a spike; rows: {', '.join(context.row_sources(number))}"
                events.append({"kind": "event", "step": number, "text": text})
            self.recent_losses = [*self.recent_losses, loss][-WINDOW_STEPS:]
        return events

    def stop_reason(self, context: RunContext, step: int) -> str | None:
        """Return why the run should not continue after the steps last examined, in a sentence, or None."""
        if self.refused_in_a_row >= MAX_REFUSED_STEPS_IN_A_ROW:
            return (
                f"train.learning_rate: is {context.recipe.train.learning_rate:g}, and no gradient of the last "
                f"{self.refused_in_a_row} steps is finite; lower it, or check the rows named above"
            )
        if self.refused and context.recipe.train.bad_numbers == "stop":
            return (
                f"expert.bad_numbers: is stop, and step {self.refused[0]} was refused; check the rows named above, "
                f"then run the same command to resume after step {step}, or set skip to continue after such steps"
            )
        return None

    def refused_all(self, context: RunContext) -> str | None:
        """Return why a run that ends has trained nothing, in a sentence, or None; a short run is not stopped before."""
        if not context.steps or self.refused_in_a_row < len(context.steps):
            return None
        return (
            f"model.name: none of the {len(context.steps)} steps had a finite gradient, so "
            f"{context.recipe.model.name} was not trained; check the rows named above, download the model again, "
            "or lower train.learning_rate, and start a new run with name=..."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the refused steps in a row and the losses that the next ones are compared with."""
        return {"refused_in_a_row": self.refused_in_a_row, "recent_losses": list(self.recent_losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.refused_in_a_row, self.recent_losses = state["refused_in_a_row"], state["recent_losses"]


def _describe_refused_step(context: RunContext, step: int, loss: float) -> str:
    what = "gradient" if math.isfinite(loss) else "loss"
    effect = "weights from the bad one on left as they were" if context.optimizer.in_backward else "step refused"
    if bad := _non_finite_rows(context, step):
        return f"{what} not finite, {effect}; rows whose own loss is not finite: {', '.join(bad)}"
    return f"{what} not finite, {effect}; rows: {', '.join(context.row_sources(step))}"


def _non_finite_rows(context: RunContext, step: int) -> list[str]:
    """Return the rows of a refused step whose loss is not finite when each is evaluated alone.

    Each is padded as in training: compiled layers know no other shape, and would be compiled again for every length.
    """
    bad: list[str] = []
    for row in context.prepared.train.replies(context.steps[step - 1].rows):
        alone = pack([row], context.capacity if context.pad else len(row), pad=context.pad, packed=context.packed)
        # On all ranks the same row at the same time: their weights may be shards of one model.
        batches = map(context.share.slice, alone)
        world = context.world if context.share.size > 1 else SINGLE  # where a rank has a part of the row
        losses = evaluate_loss(
            context.model, batches, context.device, context.precision, context.chunk_rows, world=world
        )
        if not all(map(math.isfinite, losses.sums.tolist())):
            bad.append(row.source)
    return bad
