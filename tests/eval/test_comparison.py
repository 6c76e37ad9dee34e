"""Figures and verdicts claim no more than their intervals; losses are reported."""

import pytest

from thinktune.eval.comparison import compare, forgetting_verdict, row_outcome, set_verdict


def rows(right, count, **more):
    return [{"right": float(index < right), "cut": 0.0} | more for index in range(count)]


def test_a_real_gain_is_called_better_with_its_figures():
    text = set_verdict("held-out", compare(rows(2, 100), rows(90, 100)))
    assert text.startswith("held-out: better; right answers 2.0 % → 90.0 %, +88.0 points (+")
    assert text.endswith(", 100 rows")


def test_a_loss_is_called_worse_and_a_small_change_nothing():
    assert set_verdict("t", compare(rows(90, 100), rows(20, 100))).startswith("t: worse; ")
    for base, tuned in ((50, 52), (50, 50), (3, 0)):
        assert set_verdict("t", compare(rows(base, 100), rows(tuned, 100))).startswith("t: no difference shown; ")


def test_truncated_replies_are_reported():
    text = set_verdict("t", compare(rows(2, 100, cut=1.0), rows(90, 100)))
    assert "100 % of the base model's replies were truncated" in text
    assert "tuned model's" not in text


def test_a_risen_loss_is_named_though_the_verdict_is_about_another_figure():
    base, tuned = ([{"right": 0.0, "loss": loss + row / 100} for row in range(20)] for loss in (7.0, 420.0))
    assert "no difference shown; right answers" in set_verdict("t", compare(base, tuned))
    assert "; the eval loss is worse: 7.095 → 420.095" in set_verdict("t", compare(base, tuned))
    assert "loss" not in set_verdict("t", compare(tuned, base))
    assert (
        set_verdict("t", compare([{"loss": 7.0 + row / 9} for row in range(9)], [{"loss": 9.0}] * 9)).count("loss") == 1
    )


@pytest.mark.parametrize(
    ("base", "tuned", "verdict"),
    [
        (90, 60, "general ability: LOST; 75.0 % → 50.0 % right"),
        (90, 90, "general ability: kept within 5 points"),
        (0, 0, "general ability: the base had almost none to lose"),
    ],
)
def test_the_forgetting_verdict_is_as_certain_as_its_interval(base, tuned, verdict):
    assert forgetting_verdict(compare(rows(base, 120), rows(tuned, 120))).startswith(verdict)


def test_few_questions_do_not_show_that_nothing_was_lost():
    assert "cannot rule out" in forgetting_verdict(compare(rows(8, 10), rows(8, 10)))


def test_a_measure_that_rows_lack_is_left_out_and_lower_can_be_better():
    base, tuned = [{"loss": 3.0 + index / 100} for index in range(20)], [{"loss": 1.0}] * 20
    [figure] = compare(base, tuned)
    assert (figure["measure"], figure["rows"], figure["verdict"]) == ("loss", 20, "better")
    assert compare(tuned, base)[0]["verdict"] == "worse"
    longer = compare([{"tokens": 5.0}] * 9, [{"tokens": 9.0}] * 9)
    assert longer[0]["verdict"] == ""


def test_row_outcomes():
    assert row_outcome({"right": 0.0}, {"right": 1.0}) == "better"
    assert row_outcome({"right": 1.0, "chrf": 0.1}, {"right": 0.0, "chrf": 0.9}) == "worse"
    assert row_outcome({"chrf": 0.50}, {"chrf": 0.52}) == "same"
    assert row_outcome({"tokens": 1.0}, {"tokens": 2.0}) == ""
