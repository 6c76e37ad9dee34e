"""How sure a figure is: 95 % intervals of a rate, of a mean, and of the difference between two models on one set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np

CONFIDENCE = 0.95


RESAMPLES = 10_000


RESAMPLE_SEED = 0


_MAX_COUNTS_IN_MEMORY = 2**22  # drawn counts in memory


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and the bounds between which the true one lies with 95 % confidence."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the figure is surely not zero."""
        return self.low > 0 or self.high < 0


def wilson_interval(hits: int, rows: int) -> Interval:
    """The share of `hits` in `rows` with Wilson's interval (1927), which holds for few rows and near 0 and 1."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = hits / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def bootstrap_mean(values: Sequence[float], bounds: tuple[float, float] | None = None) -> Interval:
    """The mean with its percentile bootstrap interval.

    With `bounds`, between which every value lies, one imagined row stands at each of them: resampling what was seen
    alone would call ten equal values certain. (Agresti and Coull add successes and failures to a rate for the same
    reason; Bonett and Price, 2012, one gain and one loss to the difference of two paired rates.)
    """
    imagined = np.array([*values, *(bounds or ())], dtype=float)
    kinds, counts = np.unique(imagined, return_counts=True)
    rows = len(imagined)
    generator = np.random.default_rng(RESAMPLE_SEED)
    means: list[np.ndarray] = []
    left = RESAMPLES
    while left:
        some = min(left, max(1, _MAX_COUNTS_IN_MEMORY // len(kinds)))
        means.append(generator.multinomial(rows, counts / rows, size=some) @ kinds / rows)
        left -= some
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = fmean(values)
    return Interval(value, min(value, float(low)), max(value, float(high)))


def paired_difference(base: Sequence[float], tuned: Sequence[float], *, bounded: bool) -> Interval:
    """Tuned less base, row by row, with its paired bootstrap interval; `bounded` values lie between 0 and 1.

    Rows are resampled as pairs, so what makes a question hard for both models cancels out. Raises ValueError where the
    two are not of equal length.
    """
    changes = [after - before for before, after in zip(base, tuned, strict=True)]
    turned = [-change for change in changes]
    bounds = (-1.0, 1.0) if bounded else None
    if sorted(changes) >= sorted(turned):
        return bootstrap_mean(changes, bounds)
    # Few rows have few different means, between which the draws decide: the same draws, whichever side is called base.
    found = bootstrap_mean(turned, bounds)
    return Interval(-found.value, -found.high, -found.low)
