"""pass@n: the chance that at least one of n tries at a question is right, from more tries than n."""

from collections.abc import Sequence
from math import comb

from thinktune.eval.statistics import Interval, bootstrap_mean


def pass_at_n(tries: int, right: int, n: int) -> float:
    """Estimate pass@n of a question without bias: 1 - C(tries - right, n) / C(tries, n).

    (Chen et al., "Evaluating large language models trained on code", 2021.) Raises ValueError where `tries` is less
    than `n`, as then nothing is known about n tries, or where `right` is not between 0 and `tries`.
    """
    if not 1 <= n <= tries or not 0 <= right <= tries:
        raise ValueError(f"pass@{n} of {right} right ones in {tries} tries is not defined")
    return 1 - comb(tries - right, n) / comb(tries, n)


def pass_rate(counts: Sequence[tuple[int, int]], n: int) -> Interval:
    """Return the mean pass@n over questions, given as (tries, right), with its bootstrap interval over questions.

    Questions with fewer than `n` tries are left out. Raises ValueError where none is left.
    """
    values = [pass_at_n(tries, right, n) for tries, right in counts if tries >= n]
    if not values:
        raise ValueError(f"no question has {n} tries")
    return bootstrap_mean(values, (0.0, 1.0))
