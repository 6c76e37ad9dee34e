"""Confidence intervals (95 %) of a rate, of a mean, and of the paired difference between two models."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
RESAMPLE_SEED = 0
_MAX_COUNTS_IN_MEMORY = 2**22  # of resampled rows


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True if zero is outside the interval."""
        return self.low > 0 or self.high < 0


def wilson_interval(hits: int, rows: int) -> Interval:
    """Return the share of `hits` in `rows` with Wilson's interval (1927), which holds for few rows and near 0 and 1."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = hits / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def exact_interval(hits: int, rows: int) -> Interval:
    """Return the share of `hits` in `rows` with the exact interval of Clopper and Pearson (1934).

    Its bounds are the shares under which so many hits, or so few, have half of the remaining chance; it covers the true
    share at least as often as it says, for any number of rows.
    """
    tail = (1 - CONFIDENCE) / 2
    low = _solve(lambda share: _chance_of_at_least(hits, rows, share) - tail) if hits else 0.0
    high = _solve(lambda share: tail - _chance_of_at_least(rows - hits, rows, 1 - share)) if hits < rows else 1.0
    return Interval(hits / rows, low, high)


def _chance_of_at_least(hits: int, rows: int, share: float) -> float:
    """Return the chance of `hits` or more in `rows` (a binomial tail), by its terms' logarithms."""
    if not 0 < share < 1:
        return float(share == 1 or hits == 0)
    logs = (math.log(share), math.log1p(-share), math.lgamma(rows + 1))
    chance = 0.0
    for k in range(hits, rows + 1):
        ways = logs[2] - math.lgamma(k + 1) - math.lgamma(rows - k + 1)
        term = math.exp(ways + k * logs[0] + (rows - k) * logs[1])
        chance += term
        if k > rows * share and term <= chance * 2**-56:  # past the largest one they only fall
            break
    return chance


def _solve(rising: Callable[[float], float]) -> float:
    """Find the share between 0 and 1 at which a rising function is zero, to the last bit, by halving."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return middle


def bootstrap_mean(values: Sequence[float], bounds: tuple[float, float] | None = None) -> Interval:
    """Return the mean with its percentile bootstrap interval.

    With `bounds` of the values, one pseudo-observation is added at each bound: resampling the observed values alone
    would call ten equal values certain. (Agresti and Coull add successes and failures to a rate for the same reason;
    Bonett and Price, 2012, add one gain and one loss to the difference of two paired rates.)
    """
    padded = np.array([*values, *(bounds or ())], dtype=float)
    distinct, counts = np.unique(padded, return_counts=True)
    rows = len(padded)
    generator = np.random.default_rng(RESAMPLE_SEED)
    means: list[np.ndarray] = []
    left = RESAMPLES
    while left:
        draws = min(left, max(1, _MAX_COUNTS_IN_MEMORY // len(distinct)))
        means.append(generator.multinomial(rows, counts / rows, size=draws) @ distinct / rows)
        left -= draws
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = fmean(values)
    return Interval(value, min(value, float(low)), max(value, float(high)))


def paired_difference(base: Sequence[float], tuned: Sequence[float], *, bounded: bool) -> Interval:
    """Return the mean of tuned minus base with its paired bootstrap interval; `bounded` values are within 0 and 1.

    Rows are resampled as pairs, so a question's difficulty for both models cancels out. Raises ValueError if the
    lengths differ.
    """
    changes = [after - before for before, after in zip(base, tuned, strict=True)]
    negated = [-change for change in changes]
    bounds = (-1.0, 1.0) if bounded else None
    if sorted(changes) >= sorted(negated):
        return bootstrap_mean(changes, bounds)
    # With few rows the random draws matter: use the same ones whichever side is the base, so swapping only flips signs.
    mirrored = bootstrap_mean(negated, bounds)
    return Interval(-mirrored.value, -mirrored.high, -mirrored.low)
