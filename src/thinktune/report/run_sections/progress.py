"""How far a running run is: share, time spent, time left, and the newest losses."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinktune.progress import format_duration
from thinktune.report.run_charts import has_finite_value
from thinktune.report.run_sections.answer import RunTime
from thinktune.run import Record


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a running run; times are formatted, and empty where nothing says how long a step takes."""

    step: int
    steps: int
    elapsed: str
    left: str
    train_loss: float | None
    eval_loss: float | None

    @property
    def percent(self) -> int:
        """Whole per cent of the steps that are done."""
        return 100 * self.step // max(1, self.steps)


def read_progress(
    step: int, steps: int | None, train: Sequence[Record], evals: Sequence[Record], time: RunTime
) -> Progress | None:
    """Return the progress at a step; None where the plan's length is not known.

    What is left takes as long a step as what is done: steps have about as many tokens each. Evaluations are counted at
    the share of time that they took so far.
    """
    if not steps:
        return None
    timed = [record for record in train if has_finite_value(record, "seconds") and record["step"] > 0]
    left = ""
    if timed:
        trained = timed[-1]
        left = format_duration(time.seconds / trained["step"] * max(0, steps - trained["step"]))
    return Progress(
        step,
        steps,
        format_duration(time.seconds) if timed else "",
        left,
        _last_loss(train),
        _last_loss(evals),
    )


def _last_loss(records: Sequence[Record]) -> float | None:
    return next((record["loss"] for record in reversed(records) if has_finite_value(record, "loss")), None)
