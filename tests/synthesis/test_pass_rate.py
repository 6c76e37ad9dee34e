"""pass@n is the share of all draws of n tries with a right one among them."""

from itertools import combinations

import pytest

from thinktune.synthesis.pass_rate import pass_at_n, pass_rate


@pytest.mark.parametrize(("tries", "right", "n"), [(4, 1, 1), (5, 2, 3), (6, 0, 2), (6, 6, 1), (7, 3, 5), (7, 3, 7)])
def test_it_is_the_share_of_all_draws(tries, right, n):
    draws = list(combinations([True] * right + [False] * (tries - right), n))
    assert pass_at_n(tries, right, n) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_what_is_not_defined_is_refused():
    for tries, right, n in ((3, 1, 4), (3, 4, 2), (3, 1, 0)):
        with pytest.raises(ValueError, match="not defined"):
            pass_at_n(tries, right, n)
    with pytest.raises(ValueError, match="no question"):
        pass_rate([(1, 1)], 2)


def test_the_mean_is_over_questions_with_enough_tries():
    rate = pass_rate([(4, 4), (4, 0), (1, 1)], 2)
    assert rate.value == pytest.approx(0.5)
    assert rate.low < 0.5 < rate.high
