"""Diagnose a run by its eval losses: learning, overfitting, worse than its base …, beyond what chance explains."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thinktune.run.journal import read_metrics, read_row_losses

DiagnosisState = Literal["waiting", "learning", "best", "overfitting", "diverging", "no_gain", "worse"]


LossByRow = Mapping[str, tuple[float, int]]  # by held-out row, its mean loss and its number of labels


Margin = Callable[[int, int], float]  # of two steps, the largest difference in loss that chance explains


TWO_SIDED_95 = 1.959964


FALLBACK_MARGIN = 0.01  # as a share of the loss, where no rows were kept to compute the margin from


CONFIRMING_EVALUATIONS = 2  # in a row above the best one; a single one may be a spike


LOOKBACK_EVALUATIONS = 2  # a slow fall of the loss shows over two evaluations


WORSE_RATIO = 2  # a loss of so many times the base's is not chance, however few rows are held out


DIVERGING_TRAIN_SHARE = 0.5  # of the rise in eval loss; if train loss rises by more, the run is diverging


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Diagnosis of a run at its last evaluation.

    `best_step` has the lowest loss of the trained steps; `base_loss` is that of step 0, the base model, which is a
    candidate too: where no trained step is clearly below it, the state is never learning or best. `plateau_end_step`
    is the last evaluation that is not clearly above the lowest; if that is not `last_step`, the loss has risen since.
    `improved` is True if the lowest is clearly below the base, None where the base was not evaluated. A loss that is
    not finite is infinite here.
    """

    state: DiagnosisState
    best_step: int = 0
    best_loss: float = math.nan
    last_step: int = 0
    last_loss: float = math.nan
    plateau_end_step: int = 0
    improved: bool | None = None
    base_loss: float = math.nan


def diagnose(
    losses: Mapping[int, float], margin: float | Margin, train: Mapping[int, float] | None = None
) -> Diagnosis:
    """Diagnose eval losses by step.

    The held-out loss is the usual criterion of early stopping (Prechelt, "Early Stopping - But When?", 1998), which
    calls a run overfitted when the loss is a fixed share above its lowest. Here it must be above it by more than
    chance explains, in the spirit of the one-standard-error rule (Breiman et al., CART, 1984), and twice in a row, as
    in Prechelt's second criterion.

    Args:
        losses: eval loss by step; step 0 is the base model. One that is not finite is above every other.
        margin: the largest difference between two evaluations that chance explains, or a function of two steps that
            returns it (see `paired_margin`).
        train: train loss around the same steps, where known. If it rises along with the eval loss, the run is
            diverging, not overfitting.
    """
    margin_of = margin if callable(margin) else _constant_margin(margin)
    found = {step: loss if math.isfinite(loss) else math.inf for step, loss in losses.items()}
    base = found.get(0, math.inf)
    base_loss = base if math.isfinite(base) else math.nan
    steps = sorted(step for step in found if step > 0)
    if not steps:
        return Diagnosis("waiting", base_loss=base_loss)
    best, last = min(steps, key=lambda step: (found[step], step)), steps[-1]
    level = [step for step in steps if step > best and _is_level(found[step], found[best], margin_of(step, best))]
    plateau_end = level[-1] if level else best
    improved = base - found[best] > margin_of(0, best) if math.isfinite(base) else None
    state = _name_state(found, margin_of, train or {}, best, plateau_end)
    return Diagnosis(state, best, found[best], last, found[last], plateau_end, improved, base_loss)


def _name_state(
    losses: Mapping[int, float], margin_of: Margin, train: Mapping[int, float], best: int, plateau_end: int
) -> DiagnosisState:
    """Name the state of losses by step, of which `best` is the lowest trained one; infinite means not finite."""
    steps = sorted(step for step in losses if step > 0 or math.isfinite(losses[step]))
    last, base = steps[-1], losses.get(0, math.inf)
    rise = losses[best] - base if math.isfinite(base) else -math.inf
    if rise > (WORSE_RATIO - 1) * base or rise > margin_of(0, best):
        return "worse"
    if not math.isfinite(losses[last]):
        return "diverging"
    above = [step for step in steps if step > plateau_end]
    if len(above) >= CONFIRMING_EVALUATIONS or (above and losses[last] > WORSE_RATIO * base):
        return "diverging" if _train_loss_rises(train, plateau_end, last, losses) else "overfitting"
    if math.isfinite(base) and not -rise > margin_of(0, best):
        return "no_gain"
    before = steps[-1 - LOOKBACK_EVALUATIONS : -1]
    if best == last and any(losses[step] - losses[last] > margin_of(step, last) for step in before):
        return "learning"
    return "best" if len(steps) > 1 else "waiting"


def _is_level(loss: float, lowest: float, margin: float) -> bool:
    return math.isfinite(loss) and loss - lowest <= margin


def evaluations_above_best(losses: Mapping[int, float], margin: float | Margin) -> int:
    """Count the last evaluations in a row that are clearly above the best one, which may be the base model's."""
    diagnosis = diagnose(losses, margin)
    if diagnosis.state == "worse":
        return sum(step > 0 for step in losses)
    return sum(step > diagnosis.plateau_end_step > 0 for step in losses)


def paired_margin(one: LossByRow, other: LossByRow) -> float:
    """Compute the difference between two eval losses over the same rows that chance explains in 95 of 100 cases.

    The rows are a sample of all questions that could be asked. The two losses are means over tokens, so their
    difference is a ratio of sums over rows, with the standard error of a ratio estimate (Cochran, Sampling
    Techniques, 1977, section 6.3); since both are over the same rows, it is far smaller than the error of either.
    With fewer than two rows it is infinite.
    """
    shared = one.keys() & other.keys()
    tokens = sum(one[row][1] for row in shared)
    if len(shared) < 2 or not tokens:
        return math.inf
    changes = {row: one[row][0] - other[row][0] for row in shared}
    mean = sum(changes[row] * one[row][1] for row in shared) / tokens
    squares = sum(((changes[row] - mean) * one[row][1]) ** 2 for row in shared)
    error = math.sqrt(squares * len(shared) / (len(shared) - 1)) / tokens
    return student_t_quantile(len(shared) - 1) * error


def student_t_quantile(degrees_of_freedom: int) -> float:
    """Compute the two-sided 95 % quantile of Student's t, by the series of Abramowitz and Stegun, 26.7.5."""
    z = TWO_SIDED_95
    return (
        z
        + (z**3 + z) / (4 * degrees_of_freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees_of_freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees_of_freedom**3)
    )


def margin_between_steps(rows: Mapping[int, LossByRow], losses: Mapping[int, float]) -> Margin:
    """Return the margin between two steps: from the rows of both where they were kept, else a share of the loss."""

    def between(one: int, other: int) -> float:
        if one in rows and other in rows:
            return paired_margin(rows[one], rows[other])
        return FALLBACK_MARGIN * losses[other]

    return between


def _constant_margin(margin: float) -> Margin:
    def between(_one: int, _other: int) -> float:
        return margin

    return between


def _train_loss_rises(train: Mapping[int, float], since: int, last: int, losses: Mapping[int, float]) -> bool:
    if since not in train or last not in train:
        return False
    return train[last] - train[since] > DIVERGING_TRAIN_SHARE * (losses[last] - losses[since])


MAX_SHOWN_ROWS = 8


MEMORIZED_LOSS = -math.log(0.9)  # below this mean loss, tokens have a probability of 90 % on (geometric) average


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """A held-out row: `file:line`, mean loss before training (where measured) and at a step, number of labels."""

    source: str
    base_loss: float | None
    loss: float
    tokens: int

    @property
    def probability(self) -> float:
        """Return the geometric mean of the probabilities that the model assigns to the row's tokens."""
        return math.exp(-self.loss)


def diagnose_run(run: Path) -> Diagnosis:
    """Diagnose a run by its evaluations so far, with margins from its own rows."""
    metrics = read_metrics(run)
    losses = eval_losses(metrics)
    return diagnose(losses, _run_margin(run, losses), train_losses(metrics))


def overfitting_evaluations(run: Path) -> int:
    """Count a run's last evaluations in a row that are clearly above its best one."""
    losses = eval_losses(read_metrics(run))
    return evaluations_above_best(losses, _run_margin(run, losses))


def eval_losses(metrics: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return the eval loss by step, NaN where it was not finite; of records that repeat a step, the last one counts."""
    return {
        record["step"]: record["loss"] if _has_finite_loss(record) else math.nan  # the journal leaves such numbers out
        for record in metrics
        if record.get("kind") == "eval" and isinstance(record.get("step"), int)
    }


def diagnosis_record(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return what a final model says about itself, as JSON: its state, and its losses where they are finite."""
    losses = {"base_loss": diagnosis.base_loss, "best_loss": diagnosis.best_loss}
    finite = {name: loss if math.isfinite(loss) else None for name, loss in losses.items()}
    return {"state": diagnosis.state, "best_step": diagnosis.best_step, **finite}


def diagnosis_from_record(record: Any) -> Diagnosis | None:
    """Return the diagnosis of such a record; None where its model is not worse than its base."""
    match record:
        case {"state": "worse", "best_step": int(step), "base_loss": float(base), "best_loss": float() | None as best}:
            return Diagnosis("worse", step, math.inf if best is None else best, base_loss=base)
        case _:
            return None


def worse_than_base(diagnosis: Diagnosis) -> str | None:
    """Return a sentence that says so where a run's model is worse than its base; None otherwise."""
    if diagnosis.state != "worse":
        return None
    lowest = f"is {diagnosis.best_loss:.3f} at its lowest" if math.isfinite(diagnosis.best_loss) else "is not finite"
    return (
        f"this model is worse than its base: the eval loss was {diagnosis.base_loss:.3f} before training and {lowest} "
        "since; lower train.learning_rate and start a new run with name=..."
    )


def train_losses(metrics: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return, by step of evaluation, the mean train loss since the evaluation before it."""
    found: dict[int, float] = {}
    total = tokens = 0.0
    for record in metrics:
        if record.get("kind") == "train" and _has_finite_loss(record):
            weight = record.get("learned_tokens", 1)
            total, tokens = total + weight * record["loss"], tokens + weight
        elif record.get("kind") == "eval" and tokens:
            found[record["step"]] = total / tokens
            total = tokens = 0.0
    return found


def rows_by_loss(run: Path, step: int) -> list[HeldOutRow]:
    """Return the held-out rows as of a step, the hardest first; empty where that step recorded none."""
    kept = read_row_losses(run)
    before: LossByRow = kept.get(0, {})
    rows = [
        HeldOutRow(name, before[name][0] if name in before else None, loss, tokens)
        for name, (loss, tokens) in kept.get(step, {}).items()
    ]
    return sorted(rows, key=lambda row: (-row.loss, row.source))


def hardest_rows(rows: Sequence[HeldOutRow]) -> list[HeldOutRow]:
    """Return the first few of such rows, which are often faulty data."""
    return list(rows[:MAX_SHOWN_ROWS])


def memorized_rows(rows: Sequence[HeldOutRow]) -> list[HeldOutRow]:
    """Return the rows that the model predicts almost with certainty, untrained on them; lowest loss first."""
    return [row for row in reversed(rows) if row.loss < MEMORIZED_LOSS][:MAX_SHOWN_ROWS]


def _run_margin(run: Path, losses: Mapping[int, float]) -> Margin:
    return margin_between_steps(read_row_losses(run), losses)


def _has_finite_loss(record: Mapping[str, Any]) -> bool:
    return all(isinstance(record.get(key), int | float) for key in ("step", "loss")) and math.isfinite(record["loss"])
