"""Predicted speed: each term against sums by hand, the range of cases, and how the choice follows from it."""


from support.plans import KnownWorkload, workload

from thinktune.data.packing import assign_rows
from thinktune.planner.hardware import find_card
from thinktune.planner.memory import Setting
from thinktune.planner.roofline import EXPECTED
from thinktune.planner.speed import tokens_per_second
from thinktune.planner.steps import RunSteps

H200 = find_card("H200")
WHOLE = Setting("exact", False, 1.0, 32_768)


def of_steps(lengths, **size):
    size = {"tokens_per_step": None, "rows_per_step": None} | size
    steps = [lengths[list(step.rows)].tolist() for step in assign_rows(lengths, lengths, epochs=1, seed=42, **size)]
    known = workload(max(map(sum, steps)))
    return KnownWorkload(**(vars(known) | {"steps": RunSteps.of(steps), "row_lengths": lengths}))


def microseconds_per_token(made, setting, rates=EXPECTED):
    return 1e6 / tokens_per_second(made, setting, H200, rates=rates)
