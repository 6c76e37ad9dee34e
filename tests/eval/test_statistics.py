"""Intervals cover the true figure about 95 times in 100, and never shrink to a point."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.eval import statistics
from thinktune.eval.statistics import bootstrap_mean, exact_interval, paired_difference, wilson_interval


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"),
    # Wilson's interval as scipy 1.17's binomtest(...).proportion_ci(method="wilson") gives it.
    [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407), (10, 10, 0.722467, 1.0), (111, 120, 0.863591, 0.960043)],
)
def test_a_rate_has_wilsons_interval(hits, rows, low, high):
    found = wilson_interval(hits, rows)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    assert found.value == hits / rows


@given(st.integers(1, 500).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows))))
def test_a_rate_is_within_its_interval(pair):
    found = wilson_interval(*pair)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"),
    # Clopper and Pearson's by their closed form where all or none hit (the bound is a root of a half tail), and as
    # tables print them between.
    [
        (0, 10, 0.0, 1 - 0.025 ** (1 / 10)),
        (10, 10, 0.025 ** (1 / 10), 1.0),
        (1, 1, 0.025, 1.0),
        (5, 10, 0.187086, 0.812914),
        (14, 18, 0.523627, 0.935908),
    ],
)
def test_a_share_has_clopper_and_pearsons_interval(hits, rows, low, high):
    found = exact_interval(hits, rows)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    assert found.value == hits / rows


@settings(max_examples=40)
@given(st.integers(1, 120).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows))))
def test_an_exact_interval_is_where_a_tail_has_half_of_the_remaining_chance(pair):
    hits, rows = pair
    found, mirrored = exact_interval(hits, rows), exact_interval(rows - hits, rows)
    assert (found.low, found.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1

    def chance(counts, share):  # of the definition, in exact integers times powers
        return sum(math.comb(rows, k) * share**k * (1 - share) ** (rows - k) for k in counts)

    if hits:
        assert chance(range(hits, rows + 1), found.low) == pytest.approx(0.025, rel=1e-6)
    if hits < rows:
        assert chance(range(hits + 1), found.high) == pytest.approx(0.025, rel=1e-6)


def test_an_exact_interval_of_many_rows_is_near_wilsons():
    found, near = exact_interval(9_000, 20_000), wilson_interval(9_000, 20_000)
    assert (found.low, found.high) == pytest.approx((near.low, near.high), abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_a_difference_is_within_its_interval_and_flips_with_its_sides(pairs):
    base, tuned = zip(*pairs, strict=True)
    found, flipped = paired_difference(base, tuned, bounded=True), paired_difference(tuned, base, bounded=True)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert flipped.value == pytest.approx(-found.value, abs=1e-9)
    assert flipped.low == pytest.approx(-found.high, abs=0.06)


def test_the_same_rows_give_the_same_interval():
    rows = [0.1, 0.9, 0.4, 0.4, 1.0]
    assert bootstrap_mean(rows, (0, 1)) == bootstrap_mean(rows, (0, 1))


@pytest.fixture
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)


def coverage(draw, truth, rounds=300):
    """Share of drawn intervals that cover the truth."""
    generator = np.random.default_rng(1)
    intervals = [draw(generator) for _ in range(rounds)]
    return sum(interval.low <= truth <= interval.high for interval in intervals) / rounds


@pytest.mark.parametrize("rows", [20, 60])
@pytest.mark.parametrize(("lost", "gained"), [(0.0, 0.02), (0.03, 0.03), (0.1, 0.3), (0.3, 0.3), (0.02, 0.9)])
def test_a_difference_of_rates_covers_the_truth(rows, lost, gained, fewer_resamples):
    def draw(generator):
        kinds = generator.choice(3, size=rows, p=[lost, gained, 1 - lost - gained])
        return paired_difference((kinds == 0).astype(float), (kinds == 1).astype(float), bounded=True)

    assert coverage(draw, gained - lost) >= 0.92


def test_two_equal_models_are_seldom_called_different(fewer_resamples):
    """Of 300 pairs of equal models that differ in few rows, at most 5 % (and chance) are called different."""

    def draw(generator):
        kinds = generator.choice(3, size=100, p=[0.03, 0.03, 0.94])
        return paired_difference((kinds == 0).astype(float), (kinds == 1).astype(float), bounded=True)

    assert coverage(draw, 0.0) >= 0.95


@pytest.mark.parametrize("rows", [20, 60])
def test_the_mean_of_a_score_and_of_a_length_covers_the_truth(rows, fewer_resamples):
    assert coverage(lambda generator: bootstrap_mean(generator.beta(2, 5, rows), (0, 1)), 2 / 7) >= 0.92
    assert coverage(lambda generator: bootstrap_mean(generator.gamma(4, 100, rows)), 400) >= 0.88 + 0.04 * (rows > 50)


def test_rows_without_a_difference_prove_no_equality():
    found = paired_difference([1.0] * 20, [1.0] * 20, bounded=True)
    assert found.value == 0
    assert found.low < -0.04
    assert found.high > 0.04


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError):
        paired_difference([1.0], [1.0, 0.0], bounded=True)
