"""Says of a run's eval losses whether it still learns, is at its best or overfits, beyond what chance explains."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

State = Literal["waiting", "learning", "best", "overfitting", "diverging"]
Rows = Mapping[str, tuple[float, int]]  # of each held-out row: its mean loss and its learned tokens
Margin = Callable[[int, int], float]

TWO_SIDED_95 = 1.959964
UNKNOWN_MARGIN = 0.01  # of the loss, where no rows were kept to compute the margin from
CONFIRMED = 2  # evaluations in a row that stand above the best one: a single one may be a peak of the training itself
LOOKBACK = 2  # evaluations: a loss that falls slowly is seen to fall over two of them
WITHIN_TRAINING = 0.5  # of the rise in eval loss; if train loss rises by more, the run diverges


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the eval losses say at a run's last evaluation.

    `best_step` has the lowest loss after step 0, which is the base model's. `since` is the last evaluation that is
    not clearly above it; if `last_step` is another one, the loss rose from there on. `gained` says whether the best is
    clearly below the base.
    """

    state: State
    best_step: int = 0
    best_loss: float = math.nan
    last_step: int = 0
    last_loss: float = math.nan
    since: int = 0
    gained: bool | None = None


def judge(losses: Mapping[int, float], margin: float | Margin, train: Mapping[int, float] | None = None) -> Verdict:
    """The verdict over eval losses by step.

    The held-out loss is the usual stopping rule of early stopping (Prechelt, "Early Stopping - But When?", 1998),
    which calls a run overfitted when the loss stands a fixed share above its lowest. Here it must stand above it by
    more than chance explains, in the spirit of the one-standard-error rule (Breiman et al., CART, 1984), and twice in
    a row, as Prechelt's second criterion asks.

    Args:
        losses: eval loss by step; step 0 is the base model.
        margin: the largest difference between two evaluations that chance explains, or a function that gives it
            for two steps (see `paired_margin`).
        train: train loss around the same steps, where known. If it rises along with the eval loss, the run is not
            overfitting but diverging.
    """
    apart = margin if callable(margin) else _fixed(margin)
    finite = {step: loss for step, loss in losses.items() if math.isfinite(loss)}
    steps = sorted(step for step in finite if step > 0)
    if not steps:
        return Verdict("waiting")
    best, last = min(steps, key=lambda step: (finite[step], step)), steps[-1]
    level = [step for step in steps if step >= best and finite[step] - finite[best] <= apart(step, best)]
    gained = finite[0] - finite[best] > apart(0, best) if 0 in finite else None
    before = sorted(finite)[-1 - LOOKBACK : -1]
    above = [step for step in steps if step > level[-1]]
    if len(above) >= CONFIRMED:
        state = "diverging" if _rises_too(train or {}, level[-1], last, finite) else "overfitting"
    elif best == last and any(finite[step] - finite[last] > apart(step, last) for step in before):
        state = "learning"
    else:
        state = "best" if len(finite) > 1 else "waiting"
    return Verdict(state, best, finite[best], last, finite[last], level[-1], gained)


def evaluations_above(losses: Mapping[int, float], margin: float | Margin) -> int:
    """How many of the last evaluations in a row stand clearly above the best one."""
    return sum(step > judge(losses, margin).since > 0 for step in losses)


def paired_margin(one: Rows, other: Rows) -> float:
    """The difference between two eval losses over the same rows that chance explains in 95 cases of 100.

    The rows are a sample of all questions that could be asked. The two losses are means over tokens, so their
    difference is a ratio of sums over rows, with the standard error of a ratio estimate (Cochran, Sampling
    Techniques, 1977, section 6.3); both losses are of the same rows, which makes it far smaller than the error of
    either. With fewer than two rows it is infinite.
    """
    shared = one.keys() & other.keys()
    tokens = sum(one[row][1] for row in shared)
    if len(shared) < 2 or not tokens:
        return math.inf
    changes = {row: one[row][0] - other[row][0] for row in shared}
    mean = sum(changes[row] * one[row][1] for row in shared) / tokens
    squares = sum(((changes[row] - mean) * one[row][1]) ** 2 for row in shared)
    error = math.sqrt(squares * len(shared) / (len(shared) - 1)) / tokens
    return student_t(len(shared) - 1) * error


def student_t(freedom: int) -> float:
    """The two-sided 95 % point of Student's t, by the series of Abramowitz and Stegun, 26.7.5."""
    z = TWO_SIDED_95
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def margins(rows: Mapping[int, Rows], losses: Mapping[int, float]) -> Margin:
    """The margin between two steps: from the rows of both where they were kept, else a fixed share of the loss."""

    def between(one: int, other: int) -> float:
        if one in rows and other in rows:
            return paired_margin(rows[one], rows[other])
        return UNKNOWN_MARGIN * losses[other]

    return between


def _fixed(margin: float) -> Margin:
    def between(_one: int, _other: int) -> float:
        return margin

    return between


def _rises_too(train: Mapping[int, float], since: int, last: int, losses: Mapping[int, float]) -> bool:
    if since not in train or last not in train:
        return False
    return train[last] - train[since] > WITHIN_TRAINING * (losses[last] - losses[since])
