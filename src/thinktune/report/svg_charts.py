"""Draw line charts and histograms as inline SVG, coloured by the page's CSS; nothing is fetched.

A chart is whole without a script. What it shows also stands in its `data-chart`, from which charts.js draws it again
with values under the pointer, on another axis, zoomed or smoothed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor, log10
from typing import Any, Literal

from markupsafe import Markup

from thinktune.report.html import BilingualText, Label, both

Point = tuple[float, float]


LARGEST_DRAWABLE = 1e300


LEFT_MARGIN = 62.0


RIGHT_MARGIN = 14.0


TOP_MARGIN = 26.0


BOTTOM_MARGIN = 34.0


LOG_RATIO = 8  # from this many times the smallest value on, a logarithmic axis shows more


MAX_SCRIPT_POINTS = 2000  # of a line; more would make pages of tens of megabytes, and a screen has fewer dots


LAST_BIN_LABEL = BilingualText("{tokens} or more tokens", "{tokens} 个 token 以上")


BEST_LABEL = BilingualText("best", "最好")


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name in the legend, its points in drawing order, and the CSS classes that style it."""

    label: Label
    points: Sequence[Point]
    style: str
    has_markers: bool = False
    unsmoothed: Sequence[Point] = ()  # where the points are smoothed ones: what they were made of


@dataclass(frozen=True, slots=True)
class Axes:
    """Names of a chart and its axes; with `y_from_zero` the vertical one includes zero.

    `x_names` are names of places on the horizontal axis, where it does not count steps.
    With `may_be_log` the vertical one is logarithmic where that shows more: all values are positive, and the largest is
    many times the smallest. `over` says what x counts; steps can be shown as epochs, time or tokens.
    """

    title: Label
    x_label: Label
    y_label: Label
    y_from_zero: bool = False
    may_be_log: bool = False
    over: Literal["step", "epoch", "other"] = "step"
    x_names: Mapping[float, str] = field(default_factory=dict[float, str])

    def name_place(self, x: float) -> str:
        """Name a place on the horizontal axis, or the nearest one with a name, for tooltips."""
        return self.x_names[min(self.x_names, key=lambda each: abs(each - x))] if self.x_names else f"step {x:g}"


@dataclass(frozen=True, slots=True)
class Bar:
    """A vertical bar beside a point: an interval from `low` to `high` at `x`, and the CSS class that styles it."""

    x: float
    low: float
    high: float
    style: str


@dataclass(frozen=True, slots=True)
class ChartMarks:
    """Marks on a chart: vertical lines (x, label), intervals, at most one ringed point, and how far x goes at least."""

    vertical_lines: Sequence[tuple[float, Label]] = ()
    ring: Point | None = None
    bars: Sequence[Bar] = ()
    ring_name: Label = BEST_LABEL
    x_end: float | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """Map from data to the plot area inside a viewBox of `width` by `height` units."""

    x_low: float
    x_high: float
    y_ticks: Sequence[float]
    width: float
    height: float
    is_log: bool = False

    def x(self, value: float) -> float:
        """Return the horizontal position of a value, in viewBox units."""
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(LEFT_MARGIN + share * (self.width - LEFT_MARGIN - RIGHT_MARGIN), 1)

    def y(self, value: float) -> float:
        """Return the vertical position of a value, in viewBox units; larger values are higher."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        if self.is_log:
            low, high, value = log10(low), log10(high), log10(value)
        share = (value - low) / (high - low)
        return round(self.height - BOTTOM_MARGIN - share * (self.height - TOP_MARGIN - BOTTOM_MARGIN), 1)


def line_chart(
    series: Sequence[Series],
    axes: Axes,
    *,
    marks: ChartMarks | None = None,
    size: tuple[int, int] = (640, 280),
) -> Markup:
    """Draw a chart with heading, legend and every finite point of every series.

    Points that are not finite are left out and counted under the chart; with none left it says "Not yet".
    """
    marks = marks or ChartMarks()
    drawable = [_drop_undrawable(one) for one in series]
    points = [point for one in drawable for point in one.points]
    left_out = sum(len(one.points) for one in series) - len(points)
    counted = "1 point is" if left_out == 1 else f"{left_out} points are"
    omitted = BilingualText(f"{counted} not finite and not drawn.", f"{left_out} 个点不是有限数值，未绘出。")
    note = Markup('<p class="absent">{}</p>').format(both(omitted))
    data = ""
    body = Markup('<p class="absent">{}</p>').format(both(BilingualText("Not yet: nothing recorded.", "尚无记录。")))
    if points:
        ends = [(bar.x, end) for bar in marks.bars for end in (bar.low, bar.high)]
        if axes.x_names:  # half a place is left free at both sides
            ends += [(x, points[0][1]) for x in (min(axes.x_names) - 0.5, max(axes.x_names) + 0.5)]
        frame = _frame([*points, *ends], size, axes, marks.x_end)
        body = _legend(drawable) + _draw_svg(drawable, frame, marks, axes)
        if not marks.bars and not axes.x_names:  # which the script does not draw: such a chart stays as it is here
            data = _chart_data(drawable, axes, marks, frame)
    head = Markup('<h3>{} <span class="unit">{}</span></h3>').format(both(axes.title), both(axes.y_label))
    small = " small" if size[0] < 500 else ""
    attribute = Markup(' data-chart="{}"').format(data) if data else ""
    return Markup('<div class="chart{}"{}>{}{}{}</div>').format(small, attribute, head, body, note if left_out else "")


def _chart_data(series: Sequence[Series], axes: Axes, marks: ChartMarks, frame: Frame) -> str:
    """Return what a chart shows as JSON, for its script: names as [English, Chinese], points as [x, y]."""
    lines: list[dict[str, Any]] = []
    for one in series:
        line: dict[str, Any] = {"name": _in_both(one.label), "style": one.style, "points": _thinned(one.points)}
        if one.has_markers:
            line["markers"] = True
        if one.unsmoothed:
            line["unsmoothed"] = _thinned([point for point in one.unsmoothed if _is_drawable(point)])
        lines.append(line)
    facts = {
        "title": _in_both(axes.title),
        "x": _in_both(axes.x_label),
        "over": axes.over,
        "size": [frame.width, frame.height],
        "zero": axes.y_from_zero,
        "mayBeLog": axes.may_be_log,
        "log": frame.is_log,
        "marks": [[round(x, 3), _in_both(label)] for x, label in marks.vertical_lines],
        "end": marks.x_end,
        "ring": list(marks.ring) if marks.ring is not None and _is_drawable(marks.ring) else None,
        "lines": lines,
    }
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def _in_both(label: Label) -> list[str]:
    return [label, label] if isinstance(label, str) else [label.en, label.zh]


def _thinned(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Return the points, of very many every n-th and the last, with six digits."""
    stride = ceil(len(points) / MAX_SCRIPT_POINTS) or 1
    kept = [*points[::stride], *(points[-1:] if (len(points) - 1) % stride else ())]
    return [(float(f"{x:.8g}"), float(f"{y:.6g}")) for x, y in kept]


def histogram(counts: Sequence[int], width: int, *, title: str, style: str) -> Markup:
    """Draw counts as bars, in bins of `width` tokens from 0; the last bin also counts everything longer."""
    bar, height, left = 11, 64, 4
    top = max(counts, default=0) or 1
    shape = Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>')
    parts: list[Markup] = []
    for index, count in enumerate(counts):
        tall = round(height * count / top, 1)
        upto = f"{(index + 1) * width - 1:,}" if index < len(counts) - 1 else "more"
        tip = f"{index * width:,} to {upto} tokens: {count:,} rows"
        parts.append(shape.format(left + index * bar, round(height - tall + 2, 1), bar - 1, tall, tip))
    end = left + bar * len(counts)
    text = Markup('<text class="tick {}" x="{}" y="{}">{}</text>')
    parts += [
        Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(left, end, height + 2, height + 2),
        text.format("first", left, height + 8, "0"),
        text.format("last", end, height + 8, both(LAST_BIN_LABEL, "tspan", tokens=f"{len(counts) * width:,}")),
    ]
    svg = Markup('<svg class="plot {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return svg.format(style, end + 4, height + 22, title, Markup("\n").join(parts))


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` evenly spaced round numbers from at or below `low` to at or above `high`."""
    low, high = _widen(low, high)
    wanted = (high - low) / count
    power = 10.0 ** floor(log10(wanted))
    spacing = next((factor * power for factor in (1, 2, 5) if factor * power >= wanted), 10 * power)
    first, last = floor(low / spacing), ceil(high / spacing)
    # Division may round across a whole number, which would leave an end uncovered by a hair.
    first -= first * spacing > low
    last += last * spacing < high
    return [number * spacing for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten from at or below `low` to at or above `high`, both positive.

    Over more than two decades they are powers of ten alone.
    """
    factors = (1, 2, 5) if high / low <= 100 else (1,)
    powers = range(floor(log10(low)) - 1, ceil(log10(high)) + 2)
    rungs = [factor * 10.0**power for power in powers for factor in factors]
    first = max((rung for rung in rungs if rung <= low), default=rungs[0])
    last = min((rung for rung in rungs if rung >= high), default=rungs[-1])
    return [rung for rung in rungs if first <= rung <= last]


def smooth_points(points: Sequence[Point]) -> list[Point]:
    """Smooth the finite points by a moving average over a twentieth of them, or over 101 at most."""
    finite = [point for point in points if _is_drawable(point)]
    reach = min(max(2, len(finite) // 40), 50)
    result: list[Point] = []
    for index, (x, _) in enumerate(finite):
        window = [y for _, y in finite[max(0, index - reach) : index + reach + 1]]
        result.append((x, sum(window) / len(window)))
    return result


def _is_drawable(point: Point) -> bool:
    return all(abs(value) <= LARGEST_DRAWABLE for value in point)


def _drop_undrawable(one: Series) -> Series:
    return replace(one, points=[point for point in one.points if _is_drawable(point)])


def _widen(low: float, high: float) -> tuple[float, float]:
    magnitude = max(abs(low), abs(high))
    if high - low > 1e-9 * magnitude + 1e-200:
        return low, high
    pad = 0.1 * magnitude if magnitude > 1e-200 else 1.0
    return low - pad, high + pad


def _frame(points: Sequence[Point], size: tuple[int, int], axes: Axes, x_end: float | None) -> Frame:
    width, height = size
    y_values = [y for _, y in points] + ([0.0] if axes.y_from_zero else [])
    low, high = min(y_values), max(y_values)
    xs = [x for x, _ in points] + ([] if x_end is None else [x_end])
    x_low, x_high = _widen(min(xs), max(xs))
    if axes.may_be_log and low > 1e-12 and high / low >= LOG_RATIO:
        return Frame(x_low, x_high, log_ticks(low, high), width, height, is_log=True)
    return Frame(x_low, x_high, ticks(low, high, height // 60), width, height)


def _draw_svg(series: Sequence[Series], frame: Frame, marks: ChartMarks, axes: Axes) -> Markup:
    parts = [_grid(frame, axes), *(_vertical(frame, x, label) for x, label in marks.vertical_lines)]
    parts += [_bar(frame, bar) for bar in marks.bars]
    parts += [_line(frame, one) for one in series if one.points]
    parts += [_markers(frame, one, axes) for one in series if one.has_markers]
    if marks.ring is not None and _is_drawable(marks.ring):
        parts.append(_ring(frame, marks.ring, marks.ring_name, axes))
    return Markup('<svg class="plot" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        frame.width, frame.height, f"{_english(axes.title)}, {_english(axes.y_label)}", Markup("\n").join(parts)
    )


def _grid(frame: Frame, axes: Axes) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    text = Markup('<text class="tick {}" x="{}" y="{}">{}</text>')
    floor_y, right_x = frame.height - BOTTOM_MARGIN, frame.width - RIGHT_MARGIN
    parts: list[Markup] = []
    for value in frame.y_ticks:
        y = frame.y(value)
        parts.append(line.format(LEFT_MARGIN, right_x, y, y))
        # On a logarithmic axis each tick has the digits that it needs itself.
        spacing = value if frame.is_log else frame.y_ticks[1] - frame.y_ticks[0]
        parts.append(text.format("y", LEFT_MARGIN - 8, y, _tick_text(value, spacing)))
    for value, name in axes.x_names.items():
        parts.append(text.format("x", frame.x(value), floor_y + 10, name))
    # x counts steps, so a tick between two whole numbers would name a step that does not exist.
    for value in ticks(frame.x_low, frame.x_high, int(frame.width) // 90) if not axes.x_names else ():
        if frame.x_low <= value <= frame.x_high and value == round(value):
            parts.append(text.format("x", frame.x(value), floor_y + 10, _tick_text(value, 1.0)))
    parts.append(text.format("name", LEFT_MARGIN - 16, floor_y + 10, both(axes.x_label, "tspan")))
    return Markup("\n").join(parts)


def _tick_text(value: float, spacing: float) -> str:
    if value != 0 and not 1e-3 <= spacing < 1e6:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    # 1e-9 allows for a spacing that a subtraction left slightly below its power of ten.
    return f"{value:,.{max(0, -floor(log10(spacing) + 1e-9))}f}" if value else "0"


def _vertical(frame: Frame, x: float, label: Label) -> Markup:
    if not frame.x_low <= x <= frame.x_high:
        return Markup("")
    place = frame.x(x)
    return Markup(
        '<line class="vertical" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="tick vertical-name" x="{}" y="{}">{}</text>'
    ).format(
        place, place, TOP_MARGIN - 14, frame.height - BOTTOM_MARGIN, place - 5, TOP_MARGIN - 10, both(label, "tspan")
    )


def _line(frame: Frame, one: Series) -> Markup:
    places = [f"{frame.x(x)} {frame.y(y)}" for x, y in one.points]
    # A lone point becomes a line of no length, which round caps show as a dot.
    path = "M" + " L".join(places if len(places) > 1 else places * 2)
    return Markup('<path class="line {}" d="{}"/>').format(one.style, path)


def _markers(frame: Frame, one: Series, axes: Axes) -> Markup:
    marker = Markup('<circle class="marker {}" cx="{}" cy="{}" r="4"><title>{}, {}: {:.4g}</title></circle>')
    return Markup("\n").join(
        marker.format(one.style, frame.x(x), frame.y(y), _english(one.label), axes.name_place(x), y)
        for x, y in one.points
    )


def _bar(frame: Frame, bar: Bar) -> Markup:
    shape = Markup('<line class="interval {}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    x = frame.x(bar.x)
    return shape.format(bar.style, x, x, frame.y(bar.low), frame.y(bar.high))


def _ring(frame: Frame, point: Point, name: Label, axes: Axes) -> Markup:
    x, y = frame.x(point[0]), frame.y(point[1])
    share = (x - LEFT_MARGIN) / (frame.width - LEFT_MARGIN - RIGHT_MARGIN)
    side = "start" if share < 0.1 else "end" if share > 0.9 else "middle"
    return Markup(
        '<circle class="ring" cx="{}" cy="{}" r="9"><title>{}: {}, {:.4g}</title></circle>'
        '<text class="ring-name {}" x="{}" y="{}">{} {:.4g}</text>'
    ).format(
        *(x, y, _english(name), axes.name_place(point[0]), point[1]),
        *(side, x, max(TOP_MARGIN + 4, y - 16), both(name, "tspan"), point[1]),
    )


def _english(label: Label) -> str:
    """Return the English text, for names that can hold only one language: those of screen readers and tooltips."""
    return label if isinstance(label, str) else label.en


def _legend(series: Sequence[Series]) -> Markup:
    key = Markup(
        '<li><svg class="key" viewBox="0 0 26 10" aria-hidden="true">'
        '<path class="line {}" d="M1 5 L25 5"/>{}</svg>{}</li>'
    )
    dot = Markup('<circle class="marker {}" cx="13" cy="5" r="3.5"/>')
    items = [
        key.format(one.style, dot.format(one.style) if one.has_markers else "", both(one.label))
        for one in series
        if one.points and one.label
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items)) if len(items) > 1 else Markup("")
