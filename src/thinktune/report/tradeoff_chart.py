"""Draw models as points of two figures with both intervals, joined by a line, as inline SVG like the other charts."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from thinktune.eval.statistics import Interval
from thinktune.report.html import BilingualText, Label, both
from thinktune.report.svg_charts import BOTTOM_MARGIN, LEFT_MARGIN, RIGHT_MARGIN, TOP_MARGIN, Axes, Frame, ticks

Box = tuple[float, float, float, float]  # left, top, right, bottom

SIZE = (640, 360)
NAME_DISTANCE, NAME_HEIGHT, LETTER_WIDTH = (
    9.0,
    17.0,
    11.0,
)  # viewBox units; text grows on a narrow page


@dataclass(frozen=True, slots=True)
class TradeoffPoint:
    """A model: its figures in the units of the axes, its name beside the point, and whether it is the chosen one."""

    x: Interval
    y: Interval
    name: Label
    is_chosen: bool = False


def tradeoff_chart(points: Sequence[TradeoffPoint], axes: Axes, bound: tuple[float, Label] | None = None) -> Markup:
    """Draw points in their order, with the bars of both intervals, the chosen one ringed.

    `bound` is a vertical line with its name: points to the left of it were not allowed.
    """
    x_values = [value for point in points for value in (point.x.low, point.x.high)] + ([bound[0]] if bound else [])
    x_ticks = ticks(min(x_values), max(x_values), 6)
    y_ticks = ticks(min(point.y.low for point in points), max(point.y.high for point in points), 6)
    frame = Frame(x_ticks[0], x_ticks[-1], y_ticks, *SIZE)
    places = [f"{frame.x(point.x.value)} {frame.y(point.y.value)}" for point in points]
    parts = [
        *_grid(frame, x_ticks, axes),
        *([_bound(frame, *bound)] if bound else []),
        *(_bars(frame, point) for point in points),
        Markup('<path class="line answer" d="{}"/>').format("M" + " L".join(places)),
        *(_point(frame, point) for point in points),
        *_names(frame, points),
    ]
    head = Markup('<h3>{} <span class="unit">{}; {}</span></h3>').format(
        both(axes.title), both(axes.y_label), both(axes.x_label)
    )
    svg = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return Markup('<div class="chart">{}{}</div>').format(
        head, svg.format(*SIZE, f"{_in_both(axes.title).en}: a point for each weight", Markup("\n").join(parts))
    )


def _grid(frame: Frame, x_ticks: Sequence[float], axes: Axes) -> list[Markup]:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    text = Markup('<text class="tick {}" x="{}" y="{}">{}</text>')
    floor, right = frame.height - BOTTOM_MARGIN, frame.width - RIGHT_MARGIN
    parts: list[Markup] = []
    for value in frame.y_ticks:
        parts.append(line.format(LEFT_MARGIN, right, frame.y(value), frame.y(value)))
        parts.append(text.format("y", LEFT_MARGIN - 8, frame.y(value), f"{value:g}"))
    for value in x_ticks:
        parts.append(text.format("x", frame.x(value), floor + 8, f"{value:g}"))
    return parts


def _bound(frame: Frame, at: float, name: Label) -> Markup:
    x = frame.x(at)
    return Markup(
        '<line class="vertical" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
        '<text class="tick bound-name {5}" x="{3}" y="{1}">{4}</text>'
    ).format(
        *(x, TOP_MARGIN - 8, frame.height - BOTTOM_MARGIN),
        *((x - 5, both(name, "tspan"), "end") if x > frame.width / 2 else (x + 5, both(name, "tspan"), "start")),
    )


def _bars(frame: Frame, point: TradeoffPoint) -> Markup:
    x, y = frame.x(point.x.value), frame.y(point.y.value)
    line = Markup('<line class="interval-bar answer" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    return line.format(frame.x(point.x.low), frame.x(point.x.high), y, y) + line.format(
        x, x, frame.y(point.y.low), frame.y(point.y.high)
    )


def _point(frame: Frame, point: TradeoffPoint) -> Markup:
    x, y = frame.x(point.x.value), frame.y(point.y.value)
    ring = Markup('<circle class="ring" cx="{}" cy="{}" r="9"/>').format(x, y) if point.is_chosen else Markup()
    return ring + Markup(
        '<circle class="marker answer" cx="{}" cy="{}" r="4"><title>{}: {:.1f}, {:.1f}</title></circle>'
    ).format(x, y, _in_both(point.name).en, point.x.value, point.y.value)


def _names(frame: Frame, points: Sequence[TradeoffPoint]) -> list[Markup]:
    """Write each name at a corner of its point: the first at which it covers no other point and no name before it.

    Points at one place have one name, that of all.
    """
    spots: dict[tuple[float, float], list[TradeoffPoint]] = {}
    for point in points:
        spots.setdefault((frame.x(point.x.value), frame.y(point.y.value)), []).append(point)
    taken: list[Box] = []
    for (x, y), here in spots.items():
        reach = 9 if any(point.is_chosen for point in here) else 4  # of its ring or its dot
        taken.append((x - reach, y - reach, x + reach, y + reach))
    parts: list[Markup] = []
    for (x, y), here in spots.items():
        named = [_in_both(point.name) for point in here]
        name = BilingualText(", ".join(each.en for each in named), "、".join(each.zh for each in named))
        width, found = LETTER_WIDTH * len(name.en), list[tuple[int, tuple[float, float, str], Box]]()
        for right, below in ((True, False), (True, True), (False, True), (False, False)):
            left = x + NAME_DISTANCE if right else x - NAME_DISTANCE - width
            foot = y + NAME_DISTANCE + NAME_HEIGHT / 2 if below else y - NAME_DISTANCE
            box = (left, foot - NAME_HEIGHT, left + width, foot + 3)
            outside = box[2] > frame.width or box[0] < 0
            covered = sum(_overlap(box, other) for other in taken) + 2 * outside
            found.append((covered, (left, foot, "start") if right else (left + width, foot, "end"), box))
        _, (left, foot, side), box = min(found, key=lambda each: each[0])
        taken.append(box)
        chosen = " chosen" if any(point.is_chosen for point in here) else ""
        parts.append(
            Markup('<text class="point-name {}{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                *(side, chosen, left, foot, both(name, "tspan"))
            )
        )
    return parts


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _in_both(name: Label) -> BilingualText:
    return BilingualText(name, name) if isinstance(name, str) else name


def share_in_per_cent(value: float, low: float, high: float) -> Interval:
    """Return a share and its interval in per cent."""
    return Interval(100 * value, 100 * low, 100 * high)


def weight_name(weight: float) -> Label:
    """Name the model of a weight."""
    ends = {0.0: BilingualText("base (0)", "基座模型（0）"), 1.0: BilingualText("tuned (1)", "训练后（1）")}
    return ends.get(weight, f"{weight:g}")
