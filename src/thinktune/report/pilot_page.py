"""The page of a pilot: one chart of held-out loss over the learning rate, its figures, and one recommendation."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from thinktune.report.html import BilingualText, write_page
from thinktune.report.pilot_text import (
    cautions,
    chosen_run,
    headline,
    next_command,
    reasons,
    recommended_lines,
)
from thinktune.report.svg_charts import Axes, Bar, ChartMarks, Point, Series, line_chart
from thinktune.run.pilot_folder import ComparedRun, PilotFolder, PilotResult, spell_rate

LINE_COLOURS = 4


BESIDE = 0.08  # of the distance of two rates, between points of different epochs


ENDED_BY = {
    "overfitting": BilingualText("overfitting", "过拟合"),
    "diverging": BilingualText("diverging", "发散"),
    "worse": BilingualText("worse than the base", "比基座模型更差"),
    "failed": BilingualText("no finite gradient", "梯度不是有限的数"),
}


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the table shows it."""

    rate: str
    compared: ComparedRun
    is_chosen: bool
    ended: BilingualText | None
    best_epoch: float | None  # at which its final model was, where that is not its end
    folder: str


def write_pilot_page(folder: PilotFolder, result: PilotResult) -> None:
    """Write a pilot's page, whole or not at all."""
    write_page(
        folder.report,
        "pilot.html.jinja",
        result=result,
        headline=headline(result),
        reasons=reasons(result),
        cautions=cautions(result),
        lines="\n".join(["train:", *(f"  {line}" for line in recommended_lines(result))]),
        next_command=next_command(result),
        recipe_rate=spell_rate(result.learning_rate),
        chart=draw_losses(result),
        probe_chart=draw_probe(result),
        rows=list_rows(result),
    )


def list_rows(result: PilotResult) -> list[RunRow]:
    """List the runs by epochs and rate."""
    chosen = chosen_run(result)
    ordered = sorted(result.runs, key=lambda each: (each.run.epochs, each.run.learning_rate))
    return [_row(each, is_chosen=each is chosen) for each in ordered]


def _row(each: ComparedRun, *, is_chosen: bool) -> RunRow:
    run = each.run
    early = 0 < run.best_step < run.last_step and run.steps > 0
    best_epoch = run.epochs * run.best_step / run.steps if early else None
    stopped = run.last_step < run.steps or run.state in ("worse", "failed")
    ended = ENDED_BY.get(run.state) if stopped else None
    return RunRow(spell_rate(run.learning_rate), each, is_chosen, ended, best_epoch, run.cell.name)


def draw_losses(result: PilotResult) -> Markup:
    """Draw the held-out loss over the rate, a line for each number of epochs; the recommended run is ringed.

    The bar at a point is the paired 95 % interval of its distance from the lowest loss. Runs that are worse than the
    base are cut off at the base's loss, or nothing else could be seen.
    """
    places = _places(result)
    chosen = chosen_run(result)
    drawn = [each for each in result.runs if each.run.loss is not None and _is_drawn(result, each.run.loss)]
    aside = _asides(result)
    lines: list[Series] = []
    bars: list[Bar] = []
    for number, epochs in enumerate(result.epochs_tried):
        own = sorted((each for each in drawn if each.run.epochs == epochs), key=lambda each: each.run.learning_rate)
        points = [(places[each.run.learning_rate] + aside[epochs], each.run.loss or 0.0) for each in own]
        style = f"run{number % LINE_COLOURS}"
        bars += _bars(own, points, style)
        name = BilingualText("1 epoch" if epochs == 1 else f"{epochs} epochs", f"{epochs} 轮")
        lines.append(Series(name, points, style, has_markers=True))
    ring = None
    if chosen and chosen.run.loss is not None:
        ring = places[chosen.run.learning_rate] + aside[chosen.run.epochs], chosen.run.loss
    axes = Axes(
        BilingualText("Held-out loss", "验证 loss"),
        BilingualText("rate", "学习率"),
        BilingualText("by peak learning rate, lower is better", "按峰值学习率，越低越好"),
        x_names={place: spell_rate(rate) for rate, place in places.items()},
    )
    marks = ChartMarks(ring=ring, bars=bars, ring_name=BilingualText("recommended", "推荐"))
    return line_chart(lines, axes, marks=marks, size=(640, 320))


def draw_probe(result: PilotResult) -> Markup:
    """Draw the share of general questions answered correctly over the rate; nothing where no run was asked."""
    asked = [each.run for each in result.runs if each.run.right]
    if not asked:
        return Markup()
    places = _places(result)
    lines = [
        Series(
            BilingualText("1 epoch" if epochs == 1 else f"{epochs} epochs", f"{epochs} 轮"),
            sorted(
                (places[run.learning_rate], 100 * sum(run.right) / len(run.right))
                for run in asked
                if run.epochs == epochs
            ),
            f"run{number % LINE_COLOURS}",
            has_markers=True,
        )
        for number, epochs in enumerate(result.epochs_tried)
    ]
    base = 100 * result.base_right / result.probe_questions
    lines.append(Series(BilingualText("base", "基座模型"), [(place, base) for place in places.values()], "raw prompt"))
    axes = Axes(
        BilingualText("General questions", "通用题"),
        BilingualText("rate", "学习率"),
        BilingualText("% answered correctly, higher is better", "答对的百分比，越高越好"),
        y_from_zero=True,
        x_names={place: spell_rate(rate) for rate, place in places.items()},
    )
    return line_chart(lines, axes, size=(640, 240))


def _places(result: PilotResult) -> dict[float, float]:
    """Return the place of each rate on the axis: side by side, as rates of a grid mostly are multiples."""
    rates = sorted({*result.rates, *(each.run.learning_rate for each in result.runs)})
    return {rate: float(number) for number, rate in enumerate(rates)}


def _asides(result: PilotResult) -> dict[int, float]:
    """Return how far the points of each number of epochs stand beside the place of their rate, so that all are seen."""
    middle = (len(result.epochs_tried) - 1) / 2
    return {epochs: (number - middle) * BESIDE for number, epochs in enumerate(result.epochs_tried)}


def _is_drawn(result: PilotResult, loss: float) -> bool:
    return result.base_loss is None or loss <= result.base_loss


def _bars(runs: Sequence[ComparedRun], points: Sequence[Point], style: str) -> list[Bar]:
    return [
        Bar(x, y + each.difference.low - each.difference.value, y + each.difference.high - each.difference.value, style)
        for each, (x, y) in zip(runs, points, strict=True)
        if each.difference
    ]
