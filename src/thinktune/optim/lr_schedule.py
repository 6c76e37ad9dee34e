"""Learning-rate schedules."""

import math

from thinktune.config.schema import LRSchedule


def learning_rate_factor(step: int, steps: int, warmup_fraction: float, schedule: LRSchedule) -> float:
    """The learning rate of step `step` (1 to `steps`) as a share of its peak: a linear rise, then the schedule.

    The first step already moves (it has one warm-up step's share) and the last one still does.
    """
    warmup = round(steps * warmup_fraction)
    if step <= warmup:
        return step / (warmup + 1)
    rest = (step - warmup - 1) / max(1, steps - warmup)  # 0 at the peak, below 1 at the last step
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - rest
        case "cosine":
            return (1.0 + math.cos(math.pi * rest)) / 2
