"""Tells a loss that jumps from one that wanders: by the median of the steps before and their usual distance from it."""

from collections.abc import Sequence
from statistics import median

WINDOW = 64  # steps that a loss is held against
FEWEST = 16  # before so many there is nothing to hold it against
DEVIATIONS = 6.0
SHARE = 1.25  # of the median; where losses hardly differ, six deviations would be nothing
TO_DEVIATION = 1.4826  # the median distance of a normal distribution, times this, is its standard deviation


def is_spike(loss: float, before: Sequence[float]) -> bool:
    """Whether a step's loss stands out above those of the steps before it (robust z-score: Iglewicz, Hoaglin, 1993)."""
    recent = before[-WINDOW:]
    if len(recent) < FEWEST:
        return False
    middle = median(recent)
    deviation = TO_DEVIATION * median(abs(value - middle) for value in recent)
    return loss > middle + DEVIATIONS * deviation and loss > SHARE * middle
