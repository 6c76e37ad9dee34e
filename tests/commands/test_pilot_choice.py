"""The pilot's grid, race, budget and choice: pure rules on hand-made figures."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.commands.pilot.budget import predict_seconds
from thinktune.commands.pilot.choice import (
    MeasuredRun,
    choose,
    compare_runs,
    is_clearly_below,
    loss_difference,
    rates_that_go_on,
)
from thinktune.commands.pilot.grid import from_the_middle, least_share, parse_grid
from thinktune.commands.pilot.rows import choose_rows
from thinktune.commands.pilot.speed import fitting_share
from thinktune.errors import UserError
from thinktune.run.diagnosis import paired_margin
from thinktune.run.pilot_folder import Cell, PilotRun, round_rate, spell_rate

ROWS = 60
LOSSES = st.lists(st.tuples(st.floats(0, 9), st.integers(1, 90)), min_size=2, max_size=40)


def made(rate, epochs, mean, *, right=(), noise=0.02):
    """Return a run of this loss, whose rows are as hard as those of all others but for a little noise of their own."""
    difficulty, own = random.Random(0), random.Random(f"{rate}/{epochs}")
    tokens = [30 + n % 7 for n in range(ROWS)]
    losses = [difficulty.uniform(-0.3, 0.3) + own.gauss(0, noise) for _ in tokens]
    centre = sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens)
    rows = {f"r:{n}": (mean + loss - centre, count) for n, (loss, count) in enumerate(zip(losses, tokens, strict=True))}
    return MeasuredRun(PilotRun(rate, epochs, 100, 100, 100, mean, "best", 1000, 10.0, 12.0, "", tuple(right)), rows)


def failed(rate, epochs):
    return MeasuredRun(PilotRun(rate, epochs, 100, 9, 0, None, "failed", 90, 1.0, 2.0, "train.learning_rate: is"), {})


def chosen(*runs):
    compared = compare_runs(runs)
    place = choose(compared)
    return None if place is None else (compared[place].run.learning_rate, compared[place].run.epochs)


def test_the_lowest_loss_is_chosen_where_the_others_are_clearly_above_it():
    assert chosen(made(1e-5, 1, 1.2), made(2e-5, 1, 1.0), made(4e-5, 1, 1.2)) == (2e-5, 1)
    assert chosen(made(2e-5, 2, 1.0), made(1e-5, 1, 1.1), failed(8e-5, 1)) == (2e-5, 2)


def test_of_level_runs_the_one_that_trains_least_is_chosen():
    level = [made(4e-5, 1, 1.0), made(2e-5, 2, 1.001), made(2e-5, 1, 1.001), made(1e-5, 2, 1.2)]
    assert [each.level for each in compare_runs(level)] == [True, True, True, False]
    assert chosen(*level) == (2e-5, 1)


def test_of_level_runs_one_that_forgets_is_out_and_one_that_chance_explains_is_not():
    knows, lost, less = [True] * 50 + [False] * 14, [True] * 20 + [False] * 44, [True] * 48 + [False] * 16
    assert chosen(made(2e-5, 1, 1.0, right=knows), made(1e-5, 2, 1.0, right=lost)) == (2e-5, 1)
    assert chosen(made(2e-5, 1, 1.0, right=knows), made(1e-5, 2, 1.0, right=less)) == (1e-5, 2)
    # What is clearly above the lowest loss does not become the measure of what others keep.
    assert chosen(made(2e-5, 1, 1.0, right=lost), made(1e-6, 1, 1.5, right=knows)) == (2e-5, 1)


def test_nothing_is_chosen_where_every_run_failed():
    assert chosen(failed(1e-5, 1), failed(2e-5, 1)) is None
    assert chosen() is None


@settings(max_examples=20)  # of ten thousand resamples each
@given(LOSSES, st.randoms())
def test_the_difference_is_that_of_the_losses_per_token_and_turns_its_sign(rows, shuffler):
    ours = {f"r:{n}": row for n, row in enumerate(rows)}
    theirs = {name: (shuffler.uniform(0, 9), tokens) for name, (_, tokens) in ours.items()}
    tokens = sum(count for _, count in rows)
    mean = [sum(loss * count for loss, count in side.values()) / tokens for side in (ours, theirs)]
    there, back = loss_difference(ours, theirs), loss_difference(theirs, ours)
    assert there.value == pytest.approx(mean[1] - mean[0], abs=1e-9)
    assert there.low <= there.value <= there.high
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=1e-9)


def test_the_bootstrap_interval_is_as_wide_as_that_of_the_diagnosis():
    one, other = made(1e-5, 1, 1.0, noise=0.1), made(2e-5, 1, 1.1, noise=0.1)
    found = loss_difference(one.rows, other.rows)
    assert (found.high - found.low) / 2 == pytest.approx(paired_margin(one.rows, other.rows), rel=0.1)


def test_a_run_that_lost_a_row_to_a_number_that_is_not_finite_is_not_level():
    best, torn = made(1e-5, 1, 1.0), made(2e-5, 1, 1.001)
    rows = dict(list(torn.rows.items())[1:])
    assert [each.level for each in compare_runs([best, MeasuredRun(torn.run, rows)])] == [True, False]


def test_a_loss_is_clearly_below_the_base_only_by_more_than_chance_explains():
    base = made(1e-9, 1, 1.0).rows
    assert is_clearly_below(made(1e-5, 1, 0.9).rows, base)
    assert not is_clearly_below(made(1e-5, 1, 1.0).rows, base)
    assert not is_clearly_below(made(1e-5, 1, 1.1).rows, base)


def test_rates_that_are_clearly_worse_go_no_further_but_the_next_below_the_best_does():
    rates = [1e-6, 2e-6, 4e-6, 8e-6, 16e-6, 32e-6]
    means = [2.0, 1.6, 1.001, 1.0, 1.2, 1.7]
    stage = {rate: made(rate, 1, mean) for rate, mean in zip(rates, means, strict=True)}
    assert rates_that_go_on(rates, stage) == [2e-6, 4e-6, 8e-6]
    stage[2e-6] = failed(2e-6, 1)
    assert rates_that_go_on(rates, stage) == [1e-6, 4e-6, 8e-6]
    assert rates_that_go_on(rates, {rate: failed(rate, 1) for rate in rates}) == []
    assert rates_that_go_on(rates[:1], {1e-6: made(1e-6, 1, 1.0)}) == [1e-6]


def test_the_grid_is_about_the_recipes_own_rate_and_epochs():
    assert parse_grid(None, None, None, 60, (2e-5, 3)) == ((5e-6, 1e-5, 2e-5, 4e-5, 8e-5), (2, 3))
    assert parse_grid(None, None, None, 60, (1e-5, 1))[1] == (1, 2)
    assert parse_grid("2e-5, 1e-5,2e-5", "4,1", 0.5, 60, (1e-5, 1)) == ((1e-5, 2e-5), (1, 4))


def test_all_mistakes_of_the_options_are_told_at_once():
    with pytest.raises(UserError) as raised:
        parse_grid("fast", "0", 1.5, 0, (1e-5, 1))
    assert [fault.split(":")[0] for fault in raised.value.faults] == ["--rates", "--epochs", "--share", "--minutes"]
    for rates, epochs in (("1e-5,-1", "1"), ("", "1"), ("nan", "1"), ("inf", "1"), ("1e-5", "1.5"), ("1e-5", "")):
        with pytest.raises(UserError):
            parse_grid(rates, epochs, None, 60, (1e-5, 1))
    with pytest.raises(UserError, match="more than 100 runs"):
        parse_grid(",".join(f"{n}e-7" for n in range(1, 30)), "1,2,3,4", None, 60, (1e-5, 1))


def test_the_least_share_gives_the_shortest_run_a_hundred_steps():
    assert least_share(10_000, 1) == 0.01
    assert least_share(400, 1) == 0.25
    assert least_share(400, 3) == 0.09
    assert least_share(50, 1) == least_share(0, 1) == 1.0


def test_as_many_rows_are_taken_as_fit_into_the_minutes():
    steps = PilotRun(1e-5, 1, 12, 12, 12, 1.0, "best", 1000, 10.0, 15.0)  # 10 ms a token, and 5 s around
    grid = ([1e-5, 2e-5, 4e-5], (1, 2))
    share = fitting_share(steps, 100_000, (*grid, 60), 0.1)
    cells, passes = 5, 3 * 1 + 2 * 2
    needed = cells * 5 + passes * share * 100_000 * 0.01 * 1.25
    assert needed <= 0.7 * 3600 < needed + passes * 0.01 * 100_000 * 0.01 * 1.25
    assert fitting_share(steps, 100_000, (*grid, 1), 0.1) == 0.1
    assert fitting_share(steps, 100_000, (*grid, 6000), 0.1) == 1.0
    assert fitting_share(PilotRun(1e-5, 1, 12, 0, 0, None, "failed", 0, 0.0, 3.0), 100_000, (*grid, 60), 0.1) == 0.1


def test_runs_far_from_the_recipes_rate_come_last():
    assert from_the_middle([1.0, 2.0, 4.0, 8.0, 16.0], 4.0) == [4.0, 2.0, 8.0, 1.0, 16.0]


@given(st.integers(1, 60), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_larger_share_holds_the_smaller_one(count, one, other):
    indices = np.arange(count) * 3
    small, large = (choose_rows(indices, share, "seed") for share in sorted((one, other)))
    assert set(small) <= set(large) <= set(indices.tolist())
    assert small == sorted(small)
    assert len(small) == max(1, round(min(one, other) * count))
    assert choose_rows(indices, 1.0, "seed") == indices.tolist()


def test_the_time_of_a_run_is_predicted_from_those_before():
    assert predict_seconds([], 1000, 2) is None
    done = [made(1e-5, 1, 1.0).run, failed(2e-5, 1).run]
    pace, around = 11 / 1090, (2 + 1) / 2
    assert predict_seconds(done, 1000, 3) == pytest.approx(around + 3000 * pace)
    assert predict_seconds([PilotRun(1, 1, 1, 0, 0, None, "failed", 0, 0.0, 3.0)], 1000, 3) is None


@pytest.mark.parametrize(
    ("rate", "spelled"), [(1e-5, "1e-5"), (2.5e-6, "2.5e-6"), (1e-5 / 3, "3.33e-6"), (0.001, "1e-3"), (30.0, "3e1")]
)
def test_a_rate_is_spelled_as_recipes_do_and_names_its_run(rate, spelled):
    assert spell_rate(round_rate(rate)) == spelled
    assert float(spelled) == round_rate(rate)
    assert Cell(round_rate(rate), 2).name == f"rate-{spelled}-epochs-2"
