"""The choice among runs: the lowest held-out loss, what is level with it, what of that forgets and trains least."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thinktune.eval.statistics import Interval, paired_difference
from thinktune.run.diagnosis import LossByRow
from thinktune.run.pilot_folder import ComparedRun, PilotRun, Span


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run and the losses of its final model on the held-out rows."""

    run: PilotRun
    rows: LossByRow

    @property
    def loss(self) -> float:
        """Mean loss per token; infinite where it is not finite."""
        return math.inf if self.run.loss is None else self.run.loss


def loss_difference(lowest: LossByRow, other: LossByRow) -> Interval:
    """Return the loss per token of `other` minus that of `lowest`, with its paired bootstrap interval over rows.

    Each row counts by the linear form of the ratio of summed losses over tokens, so that the mean over rows is the
    loss per token. Raises ValueError where they share no row.
    """
    shared = sorted(lowest.keys() & other.keys())
    if not shared:
        raise ValueError("no row has a loss on both sides")
    ours, theirs = ([rows[name] for name in shared] for rows in (lowest, other))
    return paired_difference(_linear(ours), _linear(theirs), bounded=False)


def _linear(rows: Sequence[tuple[float, int]]) -> list[float]:
    tokens = sum(count for _, count in rows)
    mean = sum(loss * count for loss, count in rows) / tokens
    return [mean + (loss - mean) * count * len(rows) / tokens for loss, count in rows]


def is_level(lowest: LossByRow, other: LossByRow) -> bool:
    """Return True if the second loss is not clearly above the first; a row without a finite loss is."""
    return lowest.keys() == other.keys() and loss_difference(lowest, other).low <= 0


def compare_runs(measured: Sequence[MeasuredRun]) -> list[ComparedRun]:
    """Compare every run with the one of lowest loss, and the level ones with the one of them that answers most."""
    finite = [each for each in measured if math.isfinite(each.loss)]
    if not finite:
        return [ComparedRun(each.run, None, level=False, keeps=False) for each in measured]
    lowest = min(finite, key=_preference)
    level = [each is lowest or (each in finite and is_level(lowest.rows, each.rows)) for each in measured]
    most = max((each.run.right for each, is_it in zip(measured, level, strict=True) if is_it), key=sum)
    compared: list[ComparedRun] = []
    for each, is_it in zip(measured, level, strict=True):
        change = loss_difference(lowest.rows, each.rows) if each in finite else None
        span = Span(change.value, change.low, change.high) if change else None
        compared.append(ComparedRun(each.run, span, level=is_it, keeps=_keeps(most, each.run.right)))
    return compared


def _keeps(most: Sequence[bool], right: Sequence[bool]) -> bool:
    """Return True if not clearly fewer questions are answered correctly; where nothing was asked, nothing was lost."""
    if len(most) != len(right) or not most:
        return not most
    return paired_difference(list(map(float, most)), list(map(float, right)), bounded=True).high >= 0


def choose(compared: Sequence[ComparedRun]) -> int | None:
    """Return the place of the recommended run: level, keeping, of the smallest rate, and then the fewest epochs."""
    places = [place for place, each in enumerate(compared) if each.level and each.keeps]
    return min(places, key=lambda place: (compared[place].run.learning_rate, compared[place].run.epochs), default=None)


def _preference(measured: MeasuredRun) -> tuple[float, float, int]:
    return measured.loss, measured.run.learning_rate, measured.run.epochs


def rates_that_go_on(rates: Sequence[float], stage: Mapping[float, MeasuredRun]) -> list[float]:
    """Return the rates to run with more epochs, from what those of the grid showed with fewer.

    Out are those whose loss is clearly above the lowest (a race by paired intervals, as in Maron and Moore, "Hoeffding
    Races", 1994). The next rate below those that stay goes on as well: more steps favour smaller rates (Bjorck et al.,
    "Scaling Optimal LR Across Token Horizons", 2025), so being worse with few of them says least against it.
    """
    finite = {rate: each for rate, each in stage.items() if math.isfinite(each.loss)}
    if not finite:
        return []
    lowest = min(finite.values(), key=_preference)
    level = [rate for rate in sorted(finite) if finite[rate] is lowest or is_level(lowest.rows, finite[rate].rows)]
    below = [rate for rate in sorted(rates) if rate < level[0] and rate in finite]
    return [*below[-1:], *level]


def is_clearly_below(rows: LossByRow, base: LossByRow) -> bool:
    """Return True if a run's loss is below the base's by more than its paired interval."""
    return loss_difference(base, rows).high < 0
