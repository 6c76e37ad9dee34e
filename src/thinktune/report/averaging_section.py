"""The section of base and tuned averaged on a run's page: the curve of domain against general, and what was chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from thinktune.checkpoint.store import average_weight
from thinktune.eval.averaging.curve import Curve, CurvePoint, Figure, read_curve
from thinktune.eval.statistics import Interval
from thinktune.report.card_words import figure_text, measure_name
from thinktune.report.html import BilingualText, Label
from thinktune.report.svg_charts import Axes
from thinktune.report.tradeoff_chart import TradeoffPoint, share_in_per_cent, tradeoff_chart, weight_name
from thinktune.run import RunFolder


@dataclass(frozen=True, slots=True)
class WeightLine:
    """One weight in the table: each figure, and its interval."""

    name: Label
    domain: tuple[Label, Label]
    general: tuple[Label, Label]
    change: tuple[Label, Label]
    loss: tuple[Label, Label]
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class AveragingSection:
    """A run's curve, drawn and as lines, and sentences on the choice; `curve` is None where the run has none."""

    curve: Curve | None = None
    measure: Label = ""
    chart: Markup | None = None
    lines: Sequence[WeightLine] = ()
    sentences: Sequence[BilingualText] = ()


def read_averaging_section(run: Path) -> AveragingSection:
    """Read a run's curve and draw it; raises UserError where its file is damaged."""
    curve = read_curve(run)
    if curve is None:
        return AveragingSection()
    measure = measure_name(curve.measure)
    return AveragingSection(
        curve,
        measure,
        _chart(curve, measure),
        [_line(curve, point) for point in curve.points],
        [_choice(curve, measure), *_other_final(curve, RunFolder(run).final)],
    )


def _chart(curve: Curve, measure: BilingualText) -> Markup:
    points = [
        TradeoffPoint(_share(point.general), _share(point.domain), weight_name(point.weight), _is_chosen(curve, point))
        for point in curve.points
    ]
    axes = Axes(
        BilingualText("Domain against general, by weight", "各权重下的领域能力与通用能力"),
        BilingualText("to the right: correct general answers, %", "横轴：通用题答对，%"),
        BilingualText(f"up: {_lower_first(measure.en)} on held-out rows, %", f"纵轴：留出数据上的{measure.zh}，%"),
    )
    least = 0.0 if curve.rule == "curve" else 100 * curve.point(0.0).general.value - curve.rule
    name = BilingualText(f"at most {_rule(curve)} points lost", f"最多下降 {_rule(curve)} 个百分点")
    bound = (least, name) if least > 0 else None
    return tradeoff_chart(points, axes, bound)


def _rule(curve: Curve) -> str:
    return curve.rule if isinstance(curve.rule, str) else f"{curve.rule:g}"


def _line(curve: Curve, point: CurvePoint) -> WeightLine:
    return WeightLine(
        weight_name(point.weight),
        _texts(curve.measure, point.domain),
        _texts("right", point.general),
        _texts("right", point.general, change=True) if point.weight else ("–", ""),
        _texts("loss", point.loss),
        _is_chosen(curve, point),
    )


def _choice(curve: Curve, measure: BilingualText) -> BilingualText:
    match curve.reason:
        case "best":
            return BilingualText(
                f"Weight {curve.chosen:g} was chosen: the best on held-out rows ({_lower_first(measure.en)}) of those "
                f"that lose at most {_rule(curve)} points of general questions.",
                f"选定权重 {curve.chosen:g}：在通用题最多下降 {_rule(curve)} 个百分点的候选中，"
                f"它在留出数据上最好（{measure.zh}）。",
            )
        case "none":
            return BilingualText(
                f"No weight loses as little as {_rule(curve)} points of general questions, so the tuned weights "
                "are kept. thinktune average makes a model with any weight.",
                f"没有一个权重能把通用题的下降控制在 {_rule(curve)} 个百分点以内，因此保留训练后的权重。"
                "用 thinktune average 可按任意权重生成模型。",
            )
        case "curve":
            return BilingualText(
                "The tuned weights are kept, because the recipe asks only for the curve. thinktune average makes "
                "a model with any weight.",
                "保留训练后的权重：配方只要求画出曲线。用 thinktune average 可按任意权重生成模型。",
            )


def _other_final(curve: Curve, final: Path) -> list[BilingualText]:
    """Say so where the final model is not the one that this curve chose, as after a change of the recipe."""
    weight = average_weight(final)
    if not final.is_dir() or weight == curve.chosen:
        return []
    return [
        BilingualText(f"The final model now has weight {weight:g}.", f"现在的最终模型（final/）权重为 {weight:g}。")
    ]


def _is_chosen(curve: Curve, point: CurvePoint) -> bool:
    return point.weight == curve.chosen


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:]


def _share(figure: Figure) -> Interval:
    return share_in_per_cent(figure.value, figure.low, figure.high)


def _texts(measure: str, figure: Figure, *, change: bool = False) -> tuple[BilingualText, BilingualText]:
    values = (
        (figure.change, figure.change_low, figure.change_high) if change else (figure.value, figure.low, figure.high)
    )
    whole = figure_text(measure, dict(zip(("value", "low", "high"), values, strict=True)), signed=change)
    (en, _, en_interval), (zh, _, zh_interval) = whole.en.partition(" ("), whole.zh.partition("（")
    return BilingualText(en, zh), BilingualText(f"({en_interval}", f"（{zh_interval}")
