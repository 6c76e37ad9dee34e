"""Learning-rate schedules."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from thinktune.optim.lr_schedule import learning_rate_factor

runs = st.tuples(st.integers(1, 500), st.floats(0, 0.9), st.sampled_from(["cosine", "linear", "constant"]))


@given(runs)
def test_every_step_is_above_zero_and_none_exceeds_the_peak(run):
    steps, warmup, schedule = run
    factors = [learning_rate_factor(step, steps, warmup, schedule) for step in range(1, steps + 1)]
    assert all(0 < factor <= 1 for factor in factors)


@given(runs)
def test_it_rises_to_the_peak_and_then_never_rises(run):
    steps, warmup, schedule = run
    factors = [learning_rate_factor(step, steps, warmup, schedule) for step in range(1, steps + 1)]
    peak = factors.index(max(factors))
    assert peak in (round(steps * warmup), round(steps * warmup) - 1)  # at the end of the warm-up
    assert all(a < b for a, b in pairwise(factors[: peak + 1]))
    assert all(a >= b for a, b in pairwise(factors[peak:]))


def test_the_shapes_are_the_named_ones():
    assert learning_rate_factor(1, 100, 0, "cosine") == 1
    assert abs(learning_rate_factor(51, 100, 0, "cosine") - 0.5) < 1e-9
    assert abs(learning_rate_factor(26, 100, 0, "linear") - 0.75) < 1e-9
    assert learning_rate_factor(100, 100, 0, "constant") == 1
    assert learning_rate_factor(5, 100, 0.1, "linear") == 5 / 11
