"""Numbers gone bad: steps refused, their rows found, losses that jump; and when a run had better not go on."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from thinktune.model import evaluate_loss, pack
from thinktune.train.state import Run
from thinktune.train.step import StepReport

WINDOW_STEPS = 64  # steps that a loss is held against


MIN_WINDOW_STEPS = 16  # before so many there is nothing to hold it against


SPIKE_DEVIATIONS = 6.0


SPIKE_RATIO = 1.25  # of the median; where losses hardly differ, six deviations would be nothing


MAD_TO_STANDARD_DEVIATION = (
    1.4826  # the median distance of a normal distribution, times this, is its standard deviation
)


def is_spike(loss: float, previous_losses: Sequence[float]) -> bool:
    """Whether a step's loss stands out above those of the steps before it (robust z-score: Iglewicz, Hoaglin, 1993)."""
    recent = previous_losses[-WINDOW_STEPS:]
    if len(recent) < MIN_WINDOW_STEPS:
        return False
    middle = median(recent)
    deviation = MAD_TO_STANDARD_DEVIATION * median(abs(value - middle) for value in recent)
    return loss > middle + SPIKE_DEVIATIONS * deviation and loss > SPIKE_RATIO * middle


MAX_REFUSED_STEPS_IN_A_ROW = 10  # one bad row is the row's fault; this many steps in a row are the run's


def detect_anomalies(run: Run, reports: Sequence[StepReport], norms: Sequence[float]) -> list[dict[str, Any]]:
    """An event for each finished step that was refused, or whose loss jumped, with its rows; the run remembers both."""
    found: list[dict[str, Any]] = []
    run.refused = []
    for number, (made, norm) in enumerate(zip(reports, norms, strict=True), run.done - len(reports) + 1):
        loss = sum(made.losses.sums.tolist()) / max(1, sum(made.losses.counts.tolist()))
        if not math.isfinite(norm):
            run.refused.append(number)
            run.refused_in_a_row += 1
            found.append({"kind": "event", "step": number, "text": _describe_refused_step(run, number, loss)})
            continue
        run.refused_in_a_row = 0
        if is_spike(loss, run.recent_losses):
            text = f"loss {loss:.3f} is a spike; rows: {', '.join(run.row_sources(number))}"
            found.append({"kind": "event", "step": number, "text": text})
        run.recent_losses = [*run.recent_losses, loss][-WINDOW_STEPS:]
    return found


def stop_reason(run: Run) -> str | None:
    """Why the run should not go on after the steps of the last `detect_anomalies`, in a sentence, or none."""
    if run.refused_in_a_row >= MAX_REFUSED_STEPS_IN_A_ROW:
        return (
            f"train.learning_rate: is {run.recipe.train.learning_rate:g}, and no gradient of the last "
            f"{run.refused_in_a_row} steps is finite; lower it, or look at the rows named above"
        )
    if run.refused and run.recipe.train.bad_numbers == "stop":
        return (
            f"train.bad_numbers: step {run.refused[0]} was refused, and stop was asked for; look at the rows named "
            f"above; the same command goes on after step {run.done}, and skip in its place goes on by itself"
        )
    return None


def _describe_refused_step(run: Run, number: int, loss: float) -> str:
    what = "gradient" if math.isfinite(loss) else "loss"
    done = "weights from the bad one on left as they were" if run.optimizer.in_backward else "step refused"
    bad = _non_finite_rows(run, number)
    which = (
        f"rows whose own loss is not finite: {', '.join(bad)}" if bad else f"rows: {', '.join(run.row_sources(number))}"
    )
    return f"{what} not finite, {done}; {which}"


def _non_finite_rows(run: Run, number: int) -> list[str]:
    """Of a refused step, the rows that give no finite loss by themselves."""
    bad: list[str] = []
    for row in run.prepared.train.replies(run.steps[number - 1].rows):
        # On all ranks, each the same row by itself: their weights are everybody's.
        losses = evaluate_loss(run.model, pack([row], len(row)), run.device, run.precision)
        if not all(map(math.isfinite, losses.sums.tolist())):
            bad.append(row.source)
    return bad
