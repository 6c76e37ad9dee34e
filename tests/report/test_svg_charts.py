"""Charts show every point, stay inside their frame, and have round ticks."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from thinktune.report.html import BilingualText
from thinktune.report.svg_charts import Axes, ChartMarks, Point, Series, line_chart, smooth_points, ticks

finite = st.floats(min_value=-1e300, max_value=1e300)
points = st.lists(st.tuples(finite, finite), min_size=1, max_size=30)


def drawn_places(svg: str) -> list[Point]:
    drawing = svg.partition('class="plot"')[2]
    paths = " ".join(re.findall(r'<path class="line [^"]*" d="([^"]*)"', drawing))
    places = [place.split() for place in re.split("[ML]", paths) if place.strip()]
    return [(float(x), float(y)) for x, y in [*places, *re.findall(r'<circle [^>]*cx="(.*?)" cy="(.*?)"', drawing)]]


@given(points, st.booleans())
def test_every_finite_point_is_drawn_inside_the_view_box(series: list[Point], y_from_zero: bool) -> None:
    line, marks = Series("a", series, "train", has_markers=True), ChartMarks(ring=series[0])
    places = drawn_places(line_chart([line], Axes("", "", "", y_from_zero), marks=marks))
    assert len(places) == max(len(series), 2) + len(series) + 1
    assert all(0 <= x <= 640 and 0 <= y <= 280 for x, y in places)


@example(3.2, 3.5000000000000004, 4)  # both divide to a whole number that is a hair inside the data
@example(-3.2, -3.5000000000000004, 4)
@given(finite, finite, st.integers(min_value=2, max_value=8))
def test_ticks_cover_the_data_evenly_in_a_readable_number(one: float, other: float, count: int) -> None:
    low, high = sorted((one, other))
    made = ticks(low, high, count)
    assert made[0] <= low <= high <= made[-1]
    assert all(first < second for first, second in pairwise(made))
    assert 2 <= len(made) <= count + 3


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 4.1, 4) == [0, 2, 4, 6]
    assert ticks(0, 2e-4, 4) == pytest.approx([0, 5e-5, 1e-4, 1.5e-4, 2e-4])


@given(points)
def test_smoothing_keeps_the_steps_and_stays_within_the_data(series: list[Point]) -> None:
    smooth = smooth_points(series)
    values = [y for _, y in series]
    slack = 1e-9 * max(map(abs, values))
    assert [x for x, _ in smooth] == [x for x, _ in series]
    assert all(min(values) - slack <= y <= max(values) + slack for _, y in smooth)


def test_points_that_are_not_finite_are_left_out_and_counted_and_the_others_stand_in_their_order() -> None:
    series = Series("a", [(1, 2.0), (2, math.nan), (3, math.inf), (4, 1.0)], "train")
    svg = line_chart([series], Axes("", "", "", y_from_zero=True))
    assert ">0</text>" in svg
    assert "2 points are not finite and not drawn" in svg
    (first_x, high_y), (last_x, low_y) = drawn_places(svg)
    assert first_x < last_x
    assert high_y < low_y  # SVG counts downwards


def test_names_stand_in_both_languages_and_inside_the_drawing_as_svg() -> None:
    line = Series(BilingualText("train", "训练"), [(0, 1.0), (9, 2.0)], "train")
    other = Series("eval", [(0, 1.0)], "eval")
    svg = line_chart([line, other], Axes(BilingualText("Loss", "损失"), BilingualText("step", "步"), ""))
    drawing = svg.partition('class="plot"')[2]
    assert '<span class="zh" lang="zh">损失</span>' in svg
    assert '<tspan class="zh" lang="zh">步</tspan>' in drawing
    assert "<span" not in drawing
