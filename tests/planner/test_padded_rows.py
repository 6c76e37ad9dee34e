"""A plan for a class whose rows run apart: batches, speed and the update inside the backward pass count the padding."""

from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plans import KnownWorkload, train_config, workload

from thinktune.data.packing import balance, padded_tokens
from thinktune.planner.hardware import find_card
from thinktune.planner.memory import Setting
from thinktune.planner.plan import fits, make_plan
from thinktune.planner.speed import tokens_per_second
from thinktune.planner.steps import RunSteps

UNEVEN = [2048, *30 * [200]]
STEPS = [UNEVEN, 4 * [2048]]
CARD = find_card("H100")


def padded_workload(steps=STEPS, ranks=1):
    known = workload(max(map(sum, steps)))
    changes = {"compiled": False, "steps": RunSteps.of(steps, ranks, packed=False), "ranks": ranks, "per_node": ranks}
    return KnownWorkload(**(vars(known) | changes))


def test_one_batch_holds_each_row_of_a_step_at_the_length_of_its_longest():
    assert padded_tokens(UNEVEN) == 31 * 2048
    assert padded_workload().one_batch_tokens == 31 * 2048, (
        "the step that needs most, which is not the one of most tokens"
    )
    assert padded_tokens(4 * [2048], 2) == 2 * 2048
    assert workload(8192).one_batch_tokens == 8192, "packed rows need no padding"


def test_smaller_batches_are_of_rows_of_like_length():
    found = padded_workload([UNEVEN]).batches(2048)
    assert (found.number, found.tokens) == (4, (2048 + 3 * 2000) / 4)


@given(
    st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=30), min_size=1, max_size=4),
    st.integers(300, 2000),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_plan_counts_the_batches_that_a_run_makes(steps, capacity, ranks):
    found = padded_workload(steps, ranks).batches(capacity)
    made = [balance(step, capacity, ranks, packed=False) for step in steps]
    assert found.number == pytest.approx(fmean(len(groups[0]) for groups in made))
    mean = fmean(map(sum, steps)) / ranks
    assert found.row_tokens * found.number == pytest.approx(mean)
    assert mean * 0.999 <= found.number * found.tokens <= found.number * capacity * 1.001
    one = padded_workload(steps, ranks).one_batch_tokens
    assert all(len(groups) == 1 for step in steps for groups in balance(step, one, ranks, packed=False))


def test_speed_falls_by_the_padding_so_that_smaller_batches_may_win():
    packed = KnownWorkload(**(vars(workload(sum(UNEVEN))) | {"compiled": False}))
    speed, small, large = (
        tokens_per_second(made, Setting("8bit", False, 1.0, tokens), CARD) or 0.0
        for made, tokens in ((packed, 16_384), (padded_workload([UNEVEN]), 2048), (padded_workload([UNEVEN]), 16_384))
    )
    padded = 8 * 2048 + 23 * 200  # a batch with the long row and seven short ones, and one of the others
    assert speed / large == pytest.approx(padded / sum(UNEVEN), rel=0.2)
    assert large < small < speed


@pytest.mark.parametrize("steps", [STEPS, [[200] * 40, [900, 200, 100]]])
def test_an_update_inside_the_backward_pass_is_planned_only_where_the_step_is_one_batch(steps):
    train = train_config(update_in_backward=True, memory="8bit")
    plan = make_plan(train, padded_workload(steps), CARD)
    for option in plan.options:
        for step in steps:
            [groups] = balance(step, option.setting.batch_tokens, 1, packed=False)
            assert len(groups) == 1
    assert plan.chosen
    assert fits(plan.chosen, CARD)


def test_an_update_inside_that_needs_more_padding_than_fits_is_not_chosen():
    """As packed rows the step would fit in one batch, and the plan would be refused when the run starts."""
    card = replace(CARD, memory_bytes=24 * 2**30)
    packed = make_plan(train_config(memory="8bit"), workload(sum(UNEVEN)), card)
    apart = make_plan(train_config(memory="8bit"), padded_workload([UNEVEN]), card)
    assert any(option.setting.update_in_backward and fits(option, card) for option in packed.options)
    inside = [option for option in apart.options if option.setting.update_in_backward]
    assert inside
    assert not any(fits(option, card) for option in inside)
