"""The curve between base and tuned: its figures, the rule that chooses a weight, and the questions that it is made by."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.data.dataset import Subset
from thinktune.errors import UserError
from thinktune.eval.averaging.curve import (
    Curve,
    CurvePoint,
    Figure,
    WeightScores,
    choose_weight,
    curve_to_record,
    measure_points,
    read_curve,
)
from thinktune.eval.averaging.questions import few_rows_fault, general_part, split_held_out
from thinktune.eval.general_probe import probe_tasks
from thinktune.files import write_json
from thinktune.run import RunFolder


def point(weight, domain, general, base=0.6):
    flat = Figure(0, 0, 0)
    return CurvePoint(weight, Figure(domain, domain, domain), Figure(general, general, general, general - base), flat)


# weight, domain, general; the base has 0.6 in general
KNEE = [point(0, 0.2, 0.6), point(0.3, 0.5, 0.61), point(0.5, 0.7, 0.58), point(0.7, 0.8, 0.55), point(1, 0.85, 0.3)]


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        (0.0, (0.3, "best")),  # only what loses nothing
        (2.0, (0.5, "best")),  # a loss of exactly the bound is allowed
        (4.999, (0.5, "best")),
        (5.0, (0.7, "best")),
        (30.0, (1.0, "best")),
        ("curve", (1.0, "curve")),
    ],
)
def test_the_best_on_held_out_rows_is_chosen_of_those_within_the_bound(rule, chosen):
    assert choose_weight(KNEE, rule) == chosen


def test_the_tuned_model_stays_where_no_weight_is_within_the_bound_and_the_base_is_never_chosen():
    assert choose_weight([point(0, 0.9, 0.6), point(0.1, 0.2, 0.5), point(1, 0.8, 0.3)], 1.0) == (1.0, "none")
    assert choose_weight([point(0, 0.9, 0.6), point(0.1, 0.2, 0.6), point(1, 0.8, 0.3)], 1.0) == (0.1, "best")


def test_of_equal_ones_the_better_in_general_is_chosen_and_then_the_nearer_to_the_tuned_model():
    points = [point(0, 0, 0.6), point(0.3, 0.5, 0.58), point(0.5, 0.5, 0.6), point(0.7, 0.5, 0.6), point(1, 0.5, 0.59)]
    assert choose_weight(points, 5.0) == (0.7, "best")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=7), st.floats(0, 100))
def test_no_chosen_weight_loses_more_than_the_bound_or_is_worse_than_another_within_it(figures, bound):
    weights = [0, *np.linspace(0.1, 1, len(figures) - 1)]
    base = figures[0][1]
    points = [point(float(w), domain, general, base) for w, (domain, general) in zip(weights, figures, strict=True)]
    chosen, reason = choose_weight(points, bound)
    allowed = [each for each in points if each.weight and 100 * (base - each.general.value) <= bound + 1e-6]
    if reason == "none":
        assert chosen == 1
        assert all(100 * (base - each.general.value) > bound - 1e-6 for each in points if each.weight)
    else:
        best = next(each for each in points if each.weight == chosen)
        assert best in allowed
        assert best.domain.value == max(each.domain.value for each in allowed)


def test_points_have_the_first_measure_of_a_verdict_and_differences_from_the_base_row_by_row():
    def scores(domain, general, loss):
        return WeightScores(
            [{"right": float(right), "keypoint_recall": 0.5} for right in domain] + [{"chrf": 0.3}],
            [{"right": float(right)} for right in general],
            [{"loss": loss}, {"loss": loss}],
        )

    found = {0.0: scores([0, 0, 1, 0], [1, 1, 1, 0], 2.0), 0.5: scores([1, 0, 1, 1], [1, 0, 1, 0], 1.0)}
    measure, (base, half) = measure_points(found)
    assert measure == "right"
    assert (base.domain.value, half.domain.value, half.domain.change) == (0.25, 0.75, 0.5)
    assert (base.general.value, half.general.value, half.general.change) == (0.75, 0.5, -0.25)
    assert (half.loss.value, half.loss.change) == (1.0, -1.0)
    assert base.domain.change == base.general.change == 0
    for each in (half.domain, half.general):
        assert each.low <= each.value <= each.high
        assert each.change_low <= each.change <= each.change_high
    free = {w: WeightScores([{"chrf": 0.2 + w, "rouge_l": 0.1}], [{"right": 1.0}], [{"loss": 1.0}]) for w in (0.0, 0.5)}
    assert measure_points(free)[0] == "chrf"


def test_a_curve_is_read_as_it_was_written_and_a_damaged_one_is_named(tmp_path):
    run = RunFolder(tmp_path)
    assert read_curve(tmp_path) is None
    curve = Curve(7, 5.0, "right", 9, 208, tuple(KNEE), 0.7, "best", 64, "2026-01-01T00:00:00+00:00")
    write_json(run.curve, curve_to_record(curve))
    assert curve_to_record(read_curve(tmp_path)) == curve_to_record(curve)
    write_json(run.curve, curve_to_record(curve) | {"chosen": 0.4})
    with pytest.raises(UserError, match=r"curve\.json: is damaged"):
        read_curve(tmp_path)


def test_half_of_the_probe_is_asked_in_equal_parts_of_each_kind_language_and_form():
    whole = probe_tasks()
    part = general_part(whole)
    assert len(part) == 208
    assert set(Counter((task.kind, task.language) for task in part).values()) == {13}
    arithmetic = [int(task.source.split(":")[1]) for task in part if task.kind == "arithmetic"]
    assert len({(number - 1) // 4 for number in arithmetic}) == 13  # one of each form in either language


@given(st.integers(0, 400))
def test_the_rows_that_choose_prove_nothing(count):
    rows = fake_subset(count)
    choosing, proving = split_held_out(recipe(5.0), rows)
    assert sorted([*choosing.example_indices, *proving.example_indices]) == list(range(count))
    assert len(choosing) == min(100, count // 2)
    assert len(proving) >= len(choosing)
    if len(choosing) > 1:  # spread over all of them
        assert np.ptp(np.diff(choosing.example_indices)) <= 1
    none, whole = split_held_out(recipe(None), rows)
    assert (len(none), len(whole)) == (0, count)


def test_too_few_held_out_rows_are_told_with_a_way_out_that_the_run_has(tmp_path):
    assert few_rows_fault(recipe(5.0), fake_subset(16)) is None
    assert few_rows_fault(recipe(None), fake_subset(0)) is None
    said = few_rows_fault(recipe("curve", tmp_path), fake_subset(1))
    assert said.startswith("train.average: 1 row is held out, but 16 are needed")
    assert said.endswith("raise data.validation, or leave train.average out")
    RunFolder(tmp_path).recipe.write_text("name: begun")  # its held-out rows stay as they are
    assert few_rows_fault(recipe("curve", tmp_path), fake_subset(1)).endswith("or start a new run with name=...")


def recipe(average, run_folder=None):
    return SimpleNamespace(train=SimpleNamespace(average=average), run_folder=run_folder)


def fake_subset(count):
    examples = np.zeros(count, [("replies", "i4"), ("first", "i8")])
    examples["replies"], examples["first"] = 1, np.arange(count)
    return Subset(SimpleNamespace(examples=examples), np.arange(count), np.arange(count))
