"""For real: a small model that adds numbers becomes better by its own right tries, and not by more steps alone."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import rejection_sampling


@pytest.mark.slow
def test_accuracy_rises_over_two_rounds_by_an_interval_that_excludes_zero(tmp_path):
    start, first, second, control = rejection_sampling.run_rounds(tmp_path, rejection_sampling.Plan())
    assert 0.1 < start.right.value < 0.7
    assert first.gain.low > 0
    assert second.gain.low > first.gain.low  # the second round adds to the first
    assert second.kept > first.kept
    assert second.pass_at[1].value > first.pass_at[1].value > start.pass_at[1].value
    assert control.gain.high < second.gain.low  # as many steps without new rows do not do it


def test_the_worked_sums_are_right_and_no_sum_is_drawn_twice():
    rows = rejection_sampling.draw_sums(rejection_sampling.Plan(worked=50, questions=50, held_out=50))
    asked = [row["question"] for some in rows.values() for row in some]
    assert len(set(asked)) == 150
    assert rejection_sampling.worked_sum(47, 85) == {
        "question": "What is 47 + 85?",
        "think": "7 plus 5 plus 0 is 12, so write 2 and carry 1. 4 plus 8 plus 1 is 13, so write 3 and carry 1.",
        "answer": "The answer is 132.",
    }
    assert all(row["think"] for row in rows["worked"])
    assert not any(row["think"] for row in rows["held_out"])
