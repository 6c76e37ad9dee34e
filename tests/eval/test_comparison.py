"""Figures and verdicts claim no more than their intervals; losses are reported."""

from io import StringIO

import pytest
from rich.console import Console

from thinktune.eval.comparison import (
    compare,
    comparison_tables,
    forgetting_verdict,
    row_outcome,
    set_verdict,
    switch_verdict,
)


def rows(right, count, **more):
    return [{"right": float(index < right), "cut": 0.0} | more for index in range(count)]


def test_a_real_gain_is_called_better_with_its_figures():
    text = set_verdict("held-out", compare(rows(2, 100), rows(90, 100)))
    assert text.startswith("held-out: better; correct answers 2.0 % → 90.0 %, +88.0 points (+")
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
    assert "no difference shown; correct answers" in set_verdict("t", compare(base, tuned))
    assert "; the eval loss is worse: 7.095 → 420.095" in set_verdict("t", compare(base, tuned))
    assert "loss" not in set_verdict("t", compare(tuned, base))
    assert (
        set_verdict("t", compare([{"loss": 7.0 + row / 9} for row in range(9)], [{"loss": 9.0}] * 9)).count("loss") == 1
    )


@pytest.mark.parametrize(
    ("base", "tuned", "verdict"),
    [
        (90, 60, "general ability: LOST; 75.0 % → 50.0 % correct"),
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


def switch(mode, base, tuned, count=40):
    """How often a switch was obeyed: by so many of `count` replies of either model."""
    obeyed = [[{"obeyed": float(row < hits)} for row in range(count)] for hits in (base, tuned)]
    return {"mode": mode, **compare(*obeyed)[0]}


def test_a_switch_that_was_unlearned_is_called_lost_and_the_cure_is_named():
    text = switch_verdict(switch("silent", 40, 10))
    assert text.startswith("switch off (does not reason): LOST; obeyed by 100.0 % → 25.0 %, −75.0 points (−")
    assert text.endswith("40 rows; mix in silent rows with data.silent_share")
    assert switch_verdict(switch("thinking", 38, 2)).endswith("mix in rows that reason")


def test_a_switch_is_called_kept_only_where_its_interval_says_so():
    assert switch_verdict(switch("silent", 40, 39)).startswith("switch off (does not reason): kept; ")
    assert switch_verdict(switch("silent", 3, 3, count=3)).startswith("switch off (does not reason): no loss shown; ")
    assert switch_verdict(switch("silent", 1, 1)).startswith("switch off (does not reason): no loss shown; ")
    assert switch_verdict(switch("thinking", 0, 40)).startswith("switch on (reasons): better; ")


def mode_report(*switches, name="held-out"):
    measures = compare(rows(2, 40), rows(30, 40))
    scored = {"name": name, "rows": 40, "apart": 0, "measures": measures, "verdict": set_verdict(name, measures)}
    return {"sets": [scored], "verdicts": [scored["verdict"], *map(switch_verdict, switches)], "switches": [*switches]}


def test_the_terminal_shows_both_modes_and_each_switch_once_with_its_intervals():
    # Some rows were trained silent, so they were asked so in the first evaluation, too.
    report = mode_report(switch("thinking", 30, 30, count=30), switch("silent", 10, 10, count=10))
    report |= {"silent": mode_report(switch("silent", 40, 12))}
    console = Console(width=120, record=True, file=StringIO())
    console.print(comparison_tables(report))
    text = console.export_text()
    assert "held-out, 40 rows, without thinking" in text
    assert text.count("held-out: better") == 2
    assert text.count("Switch on (reasons)") == text.count("switch on (reasons): kept") == 1
    assert text.count("Switch off (does not reason)") == text.count("switch off (does not reason): LOST") == 1
    assert "100.0 % (91.2 to 100.0)" in text
    assert "30.0 % (18.1 to 45.4)" in text
    alone = Console(width=80, record=True, file=StringIO())
    alone.print(comparison_tables(mode_report(switch("silent", 40, 12))))
    assert alone.export_text().count("switch off (does not reason): LOST") == 1
