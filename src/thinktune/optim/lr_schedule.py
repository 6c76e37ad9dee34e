"""Learning-rate schedules."""

import math

from thinktune.config.schema import LRSchedule


def learning_rate_factor(step: int, steps: int, warmup_fraction: float, schedule: LRSchedule) -> float:
    """Return the learning rate of step `step` (1 to `steps`) as a factor of its peak: a linear warm-up, then the schedule.

    It is above 0 at every step, the first and the last included.
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
