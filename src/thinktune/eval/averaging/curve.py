"""The curve of models between base and tuned, domain against general, and the rule that chooses one. Loads no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from thinktune.eval.comparison import PRIMARY_MEASURES, Scores, compare
from thinktune.files import read_json
from thinktune.run import RunFolder
from thinktune.run.reading import refuse_damage

WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the tuned model; evenly spread, as where a curve bends is not known before
ALL_WEIGHTS = (0.0, *WEIGHTS, 1.0)  # 0 is the base, 1 the tuned model
ROUNDING = 1e-9  # of a difference of shares

Rule = float | Literal["curve"]
Reason = Literal["best", "none", "curve"]  # why a weight was chosen: by the rule; none is allowed; no choice was asked

AGAIN = "run thinktune train again: saved replies are not generated again"


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % interval, and its paired difference from the base's."""

    value: float
    low: float
    high: float
    change: float = 0.0
    change_low: float = 0.0
    change_high: float = 0.0


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One weight's figures: on held-out rows by the curve's measure and by loss, and right general answers."""

    weight: float
    domain: Figure
    general: Figure
    loss: Figure


@dataclass(frozen=True, slots=True)
class Curve:
    """What was asked, what each weight scored, and which one `final/` has.

    `rule` is how many percentage points of general questions may be lost against the base, or `curve` where nothing
    was to be chosen; `step` is that of the checkpoint, the best one, that is averaged with the base.
    """

    step: int
    rule: Rule
    measure: str
    domain_rows: int
    general_rows: int
    points: Sequence[CurvePoint]
    chosen: float
    reason: Reason
    max_new_tokens: int
    made: str  # ISO 8601, UTC
    format: int = 1

    def point(self, weight: float) -> CurvePoint:
        """Return the point of a weight."""
        return next(point for point in self.points if point.weight == weight)


@dataclass(frozen=True, slots=True)
class WeightScores:
    """The scores of one weight's model, a row each: answers to held-out and general questions, and held-out losses."""

    domain: Sequence[Scores]
    general: Sequence[Scores]
    losses: Sequence[Scores]


_CURVE = TypeAdapter(Curve)


def measure_points(scores: Mapping[float, WeightScores]) -> tuple[str, list[CurvePoint]]:
    """Return the measure of held-out answers, the first of those that verdicts use, and each weight's figures."""
    base = scores[0.0]
    figures = compare(base.domain, base.domain)
    measure = next(key for key in PRIMARY_MEASURES if any(figure["measure"] == key for figure in figures))
    return measure, [
        CurvePoint(
            weight,
            _figure(base.domain, each.domain, measure),
            _figure(base.general, each.general, "right"),
            _figure(base.losses, each.losses, "loss"),
        )
        for weight, each in sorted(scores.items())
    ]


def choose_weight(points: Sequence[CurvePoint], rule: Rule) -> tuple[float, Reason]:
    """Choose the weight with the best held-out figure of those that lose no more general answers than `rule` allows.

    The base itself is never chosen. Of equal ones the better in general counts, then the nearer to the tuned model.
    Where none is allowed, or none is to be chosen, that is 1: the tuned model.
    """
    if rule == "curve":
        return 1.0, "curve"
    allowed = [point for point in points if point.weight and -100 * point.general.change <= rule + 100 * ROUNDING]
    if not allowed:
        return 1.0, "none"
    best = max(allowed, key=lambda point: (point.domain.value, point.general.value, point.weight))
    return best.weight, "best"


def read_curve(run: Path) -> Curve | None:
    """Read a run's curve; None where it has none. Raises UserError where it is damaged."""
    file = RunFolder(run).curve
    if not file.is_file():
        return None
    with refuse_damage(file, AGAIN):
        curve = _CURVE.validate_python(read_json(file))
        for weight in (0.0, curve.chosen):  # both are shown
            curve.point(weight)
        return curve


def curve_to_record(curve: Curve) -> dict[str, Any]:
    """Convert a curve to plain values, from which `read_curve` makes an equal one."""
    return _CURVE.dump_python(curve, mode="json")


def _figure(base: Sequence[Scores], scores: Sequence[Scores], measure: str) -> Figure:
    found = next(each for each in compare(base, scores) if each["measure"] == measure)
    value, change = found["tuned"], found["difference"]
    return Figure(value["value"], value["low"], value["high"], change["value"], change["low"], change["high"])
