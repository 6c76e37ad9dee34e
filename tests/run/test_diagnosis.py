"""Diagnosis of eval losses: a published curve, properties, and noise from the rows themselves."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinktune.run import RunFolder, diagnose_run, journal
from thinktune.run.diagnosis import (
    diagnose,
    evaluations_above_best,
    margin_between_steps,
    paired_margin,
    student_t_quantile,
)

# The eval loss that a public tutorial shows for two epochs over 2,166 rows, read off its chart to within 0.005.
TUTORIAL = {100: 1.384, 400: 1.184, 500: 1.143, 600: 1.192, 1000: 1.161}
READ_TO = 0.005
TUTORIAL_TRAIN = {100: 1.38, 400: 1.2, 500: 1.18, 600: 0.63, 1000: 0.6}

losses = st.floats(0.01, 20)
curves = st.lists(losses, min_size=2, max_size=12).map(lambda found: {10 * n: loss for n, loss in enumerate(found)})
margin = st.floats(1e-4, 0.5)


@pytest.mark.parametrize("train", [None, TUTORIAL_TRAIN])
def test_the_published_curve_is_best_at_500_and_overfits_after_it(train):
    verdict = diagnose(TUTORIAL, 2 * READ_TO, train)
    assert (verdict.state, verdict.best_step, verdict.plateau_end_step) == ("overfitting", 500, 500)
    assert evaluations_above_best(TUTORIAL, 2 * READ_TO) == 2


@given(st.lists(st.floats(-READ_TO, READ_TO), min_size=5, max_size=5))
def test_nothing_within_the_reading_error_changes_the_verdict_on_the_published_curve(errors):
    read = {step: loss + error for (step, loss), error in zip(TUTORIAL.items(), errors, strict=True)}
    verdict = diagnose(read, 0.0075)
    assert (verdict.state, verdict.best_step, verdict.plateau_end_step) == ("overfitting", 500, 500)


def test_the_published_curve_up_to_its_best_still_learns():
    assert diagnose({step: loss for step, loss in TUTORIAL.items() if step <= 500}, 0.01).state == "learning"


@pytest.mark.parametrize(
    ("curve", "state", "best", "since"),
    [
        ({}, "waiting", 0, 0),
        ({0: 3.0}, "waiting", 0, 0),
        ({10: 2.0}, "waiting", 10, 10),
        ({0: 3.0, 10: 2.0}, "learning", 10, 10),
        ({0: 3.0, 10: 2.0, 20: 1.99, 30: 1.995}, "best", 20, 30),
        ({0: 3.0, 10: 2.0, 20: 1.96, 30: 1.92}, "learning", 30, 30),  # slow, but clear over two evaluations
        ({0: 3.0, 10: 2.0, 20: 2.04, 30: 2.2}, "best", 10, 20),  # a second one will decide
        ({0: 3.0, 10: 2.0, 20: 2.04, 30: 2.2, 40: 2.2}, "overfitting", 10, 20),
        ({0: 3.0, 10: 2.0, 20: 2.2, 30: 2.01}, "best", 10, 30),  # a peak that went away
        ({0: 1.0, 10: 2.0, 20: 1.5}, "worse", 20, 20),
        ({0: 7.047, 4: 911.207}, "worse", 4, 4),  # in the middle of a run
        ({0: 7.047, 4: 911.207, 8: 640.0, 12: 422.899}, "worse", 12, 12),
        ({0: 1.0, 10: 1.02, 20: 1.01}, "no_gain", 20, 20),
        ({0: 1.0, 10: 0.99}, "no_gain", 10, 10),
        ({0: 1.0, 10: 0.98, 20: 1.2, 30: 1.3}, "overfitting", 10, 10),
        ({0: 3.0, 10: math.nan, 20: 2.0}, "learning", 20, 20),
        ({0: 3.0, 10: math.nan}, "worse", 10, 10),
        ({0: 3.0, 10: math.inf, 20: math.nan}, "worse", 10, 10),
        ({0: 3.0, 10: 2.0, 20: math.nan}, "diverging", 10, 10),
        ({10: 2.0, 20: math.nan}, "diverging", 10, 10),
        ({0: math.nan, 10: math.nan}, "diverging", 10, 10),
        ({0: 3.0, 10: 2.0, 20: 400.0}, "overfitting", 10, 10),  # once is enough for so much
    ],
)
def test_curves_are_named(curve, state, best, since):
    verdict = diagnose(curve, 0.05)
    assert (verdict.state, verdict.best_step, verdict.plateau_end_step) == (state, best, since)


@given(
    st.floats(0.01, 20),
    st.lists(st.tuples(st.floats(1e-6, 1e3) | st.just(math.inf), st.floats(0, 20)), min_size=1, max_size=12),
    st.floats(0, 50) | st.just(math.inf),
)
def test_a_series_that_is_never_below_its_base_is_neither_learning_nor_best(base, evaluations, margin):
    """Whatever chance explains: margin 0 or infinite, and whether the loss falls, rises or is not finite."""
    curve = {0: base} | {10 * n: base + rise for n, (rise, _) in enumerate(evaluations, 1)}
    train = {10 * n: loss for n, (_, loss) in enumerate(evaluations, 1)}
    verdict = diagnose(curve, margin, train)
    assert verdict.state not in ("learning", "best", "waiting")
    assert verdict.base_loss == base < verdict.best_loss
    assert verdict.improved is False


@given(st.floats(0.01, 20), st.lists(st.floats(2.01, 1e3), min_size=1, max_size=12))
def test_a_loss_of_twice_the_bases_is_worse_however_few_the_rows(base, factors):
    assert diagnose({0: base} | {n: base * factor for n, factor in enumerate(factors, 1)}, math.inf).state == "worse"


def test_one_held_out_row_is_enough_to_see_that_a_model_is_destroyed(tmp_path):
    metrics = [{"kind": "eval", "step": step, "loss": loss} for step, loss in {0: 7.0, 10: 500.0, 20: 423.0}.items()]
    journal.append(RunFolder(tmp_path).metrics, metrics)
    rows = [{"step": record["step"], "rows": {"rows.jsonl:1": [record["loss"], 20]}} for record in metrics]
    journal.append(RunFolder(tmp_path).row_losses, rows)
    assert diagnose_run(tmp_path).state == "worse"


def test_an_evaluation_whose_loss_is_no_number_counts_though_the_journal_cannot_hold_it(tmp_path):
    losses = {0: 7.0, 10: math.nan, 20: math.nan}
    journal.append(
        RunFolder(tmp_path).metrics, [{"kind": "eval", "step": step, "loss": loss} for step, loss in losses.items()]
    )
    assert diagnose_run(tmp_path).state == "worse"


def test_a_run_that_is_worse_than_its_base_counts_as_above_its_best():
    assert evaluations_above_best({0: 1.6, 120: 3.1, 240: 2.8, 360: 2.5}, 0.05) == 3
    assert evaluations_above_best({0: 3.0, 10: 2.0, 20: 2.2, 30: 2.3}, 0.05) == 2
    assert evaluations_above_best({0: 3.0, 10: 2.0}, 0.05) == 0


def test_a_run_whose_train_loss_rises_too_diverges():
    curve = {0: 3.0, 10: 2.0, 20: 2.3, 30: 2.6}
    assert diagnose(curve, 0.05, {10: 2.0, 30: 2.5}).state == "diverging"
    assert diagnose(curve, 0.05, {10: 2.0, 30: 1.5}).state == "overfitting"
    assert diagnose(curve, 0.05, {10: 2.0, 30: 2.1}).state == "overfitting"


def test_a_tuned_model_that_is_no_better_than_its_base_is_told():
    assert diagnose({0: 1.0, 10: 2.0}, 0.05).improved is False
    assert diagnose({0: 1.0, 10: 0.9}, 0.05).improved is True
    assert diagnose({10: 0.9}, 0.05).improved is None


@given(curves, margin)
def test_the_best_is_the_lowest_and_overfitting_means_clearly_above_it_ever_since(curve, margin):
    verdict = diagnose(curve, margin)
    tuned = {step: loss for step, loss in curve.items() if step}
    assert verdict.best_loss == min(tuned.values())
    last_two = [curve[step] for step in sorted(tuned)[-2:]]
    rose = len(last_two) == 2 and all(loss - verdict.best_loss > margin for loss in last_two)
    assert verdict.state in ("overfitting", "worse") or not rose
    assert rose or verdict.state != "overfitting" or verdict.last_loss > 2 * curve[0]
    assert all(curve[step] - verdict.best_loss > margin for step in tuned if step > verdict.plateau_end_step)
    assert verdict.best_step <= verdict.plateau_end_step
    assert curve[verdict.plateau_end_step] - verdict.best_loss <= margin


@given(st.lists(st.floats(0.02, 1), min_size=2, max_size=12))
def test_a_loss_that_keeps_falling_clearly_still_learns(falls):
    curve, level = {}, 20.0
    for number, fall in enumerate(falls):
        level -= fall
        curve[10 * number] = level
    assert diagnose(curve, 0.01).state == "learning"


@given(curves, margin, st.floats(0.1, 10), st.integers(1, 50))
def test_neither_the_unit_of_the_loss_nor_of_the_steps_matters(curve, margin, factor, stretch):
    factor = 2.0 ** round(math.log2(factor))  # exact, so that no comparison tips over
    scaled = diagnose({stretch * step: factor * loss for step, loss in curve.items()}, factor * margin)
    plain = diagnose(curve, margin)
    assert (scaled.state, scaled.best_step, scaled.plateau_end_step) == (
        plain.state,
        stretch * plain.best_step,
        stretch * plain.plateau_end_step,
    )


@given(curves, margin)
def test_more_noise_never_makes_a_run_overfit(curve, margin):
    if diagnose(curve, 2 * margin).state == "overfitting":
        assert diagnose(curve, margin).state in ("overfitting", "worse")


def test_students_t_meets_its_table():
    for freedom, point in {3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 240: 1.970}.items():
        assert student_t_quantile(freedom) == pytest.approx(point, rel=0.01)


def drawn(count: int, shift: float, seed: int) -> tuple[dict, dict]:
    """Rows of very different losses and lengths, evaluated twice; each changes by `shift`, give or take 0.1."""
    dice = random.Random(seed)
    one, other = {}, {}
    for row in range(count):
        loss, tokens = dice.uniform(0.5, 4), dice.randint(20, 400)
        one[f"a:{row}"] = (loss, tokens)
        other[f"a:{row}"] = (loss + shift + dice.gauss(0, 0.1), tokens)
    return one, other


def test_the_margin_holds_what_chance_does_in_95_of_100_draws():
    inside = 0
    for seed in range(400):
        one, other = drawn(40, 0.0, seed)
        tokens = sum(count for _, count in one.values())
        change = sum((other[row][0] - one[row][0]) * one[row][1] for row in one) / tokens
        inside += abs(change) <= paired_margin(other, one)
    assert 0.92 <= inside / 400 <= 0.98


def test_the_margin_comes_from_paired_rows_and_not_from_how_different_rows_are():
    one, other = drawn(200, 0.05, 1)
    assert paired_margin(other, one) < 0.03  # losses themselves spread over 3.5
    assert paired_margin(one, one) == 0
    assert paired_margin({"a": (1.0, 5)}, {"a": (2.0, 5)}) == math.inf


def test_margins_come_from_rows_where_both_steps_have_them_and_from_the_loss_otherwise():
    one, other = drawn(50, 0.05, 2)
    between = margin_between_steps({10: one, 20: other}, {10: 2.0, 20: 2.1, 30: 2.2})
    assert between(20, 10) == paired_margin(other, one)
    assert between(30, 10) == pytest.approx(0.02)
