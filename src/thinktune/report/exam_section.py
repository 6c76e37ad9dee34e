"""The exams of a run's page: each public set with its figures, licence and revision, and its curve over budgets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thinktune.checkpoint.store import describe_final
from thinktune.eval import find_measure
from thinktune.eval.comparison import format_figure_and_interval
from thinktune.report.html import BilingualText, both, format_count, render_template
from thinktune.report.run_sections.evaluation_words import bilingual_interval
from thinktune.run import RunFolder
from thinktune.run.reading import AnyObject, read_object

WIDTH, HEIGHT = 640.0, 260.0  # of a curve, in viewBox units
LEFT, RIGHT, TOP, BOTTOM = 62.0, 626.0, 26.0, 226.0  # of its plot
SIDES = {
    "base": (BilingualText("Base", "训练前"), "train", -5.0),
    "tuned": (BilingualText("Tuned", "训练后"), "eval", 5.0),
}
LANGUAGES = {"zh": BilingualText("Chinese", "中文"), "en": BilingualText("English", "英文")}
SPLITS = {"test": BilingualText("test", "测试集"), "validation": BilingualText("validation", "验证集")}


def exam_values(exam: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a set: texts of its figures, its facts, and its curve as SVG."""
    accuracy, points = exam["accuracy"], exam["budgets"]
    figures: dict[str, Any] = {}
    if accuracy:
        figures = {side: _in_both(accuracy[side]) for side in SIDES}
        figures["difference"] = _in_both(accuracy["difference"], signed=True)
        figures |= {"verdict": accuracy["verdict"], "rows": accuracy["rows"]}
    elsewhere = exam["licence_elsewhere"]
    return {
        **exam,
        "figures": figures,
        "language": LANGUAGES.get(exam["language"], exam["language"]),
        "split": SPLITS.get(exam["split"], exam["split"]),
        "licence_elsewhere": elsewhere if elsewhere != exam["licence"] else "",
        "apart_rows": sum(exam["apart"].values()),
        "points": [_point_values(each) for each in points],
        "curve": draw_budget_curve(points) if len(points) > 1 else Markup(),
    }


def _in_both(figure: Mapping[str, float], *, signed: bool = False) -> tuple[str | BilingualText, BilingualText]:
    """Return a share of correct answers and its interval in both languages."""
    return bilingual_interval(format_figure_and_interval(find_measure("right"), figure, signed=signed))


def _point_values(point: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {side: _in_both(point[side]) for side in SIDES}
    shown["difference"] = _in_both(point["difference"], signed=True)
    return {**shown, "budget_tokens": point["budget_tokens"], "cut": point["cut"], "verdict": point["verdict"]}


def draw_budget_curve(points: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw both sides' accuracy (per cent) with its intervals, the reasoning budgets in equal steps as they double."""
    places = [LEFT + 30 + (RIGHT - LEFT - 60) * number / (len(points) - 1) for number in range(len(points))]
    parts = [_grid(places, points)]
    for side, (label, style, shift) in SIDES.items():
        spots = [(x + shift, point[side]) for x, point in zip(places, points, strict=True)]
        path = "M" + " L".join(f"{x:.1f} {_y(figure['value']):.1f}" for x, figure in spots)
        parts.append(Markup('<path class="line {}" d="{}"/>').format(style, path))
        for (x, figure), point in zip(spots, points, strict=True):
            parts.append(_spot(x, figure, style, f"{label.en}, {format_count(point['budget_tokens'])} tokens"))
    name = "Correct answers of base and tuned by reasoning budget"
    svg = Markup('<svg class="plot" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, name, Markup("\n").join(parts)
    )
    key = Markup(
        '<li><svg class="key" viewBox="0 0 26 10" aria-hidden="true">'
        '<path class="line {}" d="M1 5 L25 5"/></svg>{}</li>'
    )
    keys = Markup("").join(key.format(style, both(label)) for label, style, _ in SIDES.values())
    title = both(BilingualText("Correct answers by reasoning budget", "答对比例随思考预算的变化"))
    unit = both(BilingualText("%, with 95 % intervals", "%，附 95 % 置信区间"))
    return Markup(
        '<div class="chart"><h3>{} <span class="unit">{}</span></h3><ul class="legend">{}</ul>{}</div>'
    ).format(title, unit, keys, svg)


def _y(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)


def _grid(places: Sequence[float], points: Sequence[Mapping[str, Any]]) -> Markup:
    text = Markup('<text class="tick {}" x="{:.1f}" y="{:.1f}">{}</text>')
    parts: list[Markup] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        parts.append(Markup('<line class="grid" x1="{:g}" x2="{:g}" y1="{:g}" y2="{:g}"/>').format(LEFT, RIGHT, y, y))
        parts.append(text.format("y", LEFT - 8, y, f"{100 * share:.0f}"))
    parts += [
        text.format("x", x, BOTTOM + 10, format_count(point["budget_tokens"]))
        for x, point in zip(places, points, strict=True)
    ]
    parts.append(text.format("name", LEFT - 16, BOTTOM + 10, both(BilingualText("tokens", "token"), "tspan")))
    return Markup("\n").join(parts)


def _spot(x: float, figure: Mapping[str, float], style: str, name: str) -> Markup:
    shown = " ".join(format_figure_and_interval(find_measure("right"), figure))
    return Markup(
        '<line class="line {0}" x1="{1:.1f}" x2="{1:.1f}" y1="{2:.1f}" y2="{3:.1f}"/>'
        '<circle class="marker {0}" cx="{1:.1f}" cy="{4:.1f}" r="4"><title>{5}: {6}</title></circle>'
    ).format(style, x, _y(figure["low"]), _y(figure["high"]), _y(figure["value"]), name, shown)


def harness_html(run: Path) -> Markup:
    """Render the figures that were read back from lm-eval and EvalScope; empty where there are none."""
    kept = read_object(RunFolder(run).harness_results, AnyObject)
    results, asked = kept.get("results", []), kept.get("model", "unknown")
    former = asked if asked != describe_final(run) else ""
    rows = [{**each, "shown": [_plain(each[side]) for side in SIDES], "change": _change(each)} for each in results]
    return render_template("harness.html.jinja", rows=rows, former=former) if rows else Markup()


def _plain(figure: Mapping[str, float]) -> tuple[str, str]:
    return f"{figure['value']:.3f}", f"({figure['low']:.3f}–{figure['high']:.3f})"


def _change(result: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the paired difference, its interval, and whether it is clear; blank where it is not paired."""
    change = result["difference"]
    if change is None:
        return "", "", ""
    clear = "better" if change["low"] > 0 else "worse" if change["high"] < 0 else ""
    return f"{change['value']:+.3f}", f"({change['low']:+.3f} – {change['high']:+.3f})", clear
