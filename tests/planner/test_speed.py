"""Predicted speed: each term by hand, the range of cases, the fill of all steps, and the choice that follows."""

import numpy as np
import pytest
from support.plans import KnownWorkload, train_config, workload

from thinktune.data.packing import assign_rows
from thinktune.planner.hardware import find_card
from thinktune.planner.memory import Setting, memory_peaks
from thinktune.planner.plan import make_plan, plan_as_dict
from thinktune.planner.roofline import EXPECTED, GOOD, POOR, STEP_HOST_SECONDS, batch_seconds, step_seconds
from thinktune.planner.speed import format_speeds, speed_range, tokens_per_second
from thinktune.planner.steps import RunSteps

H200 = find_card("H200")
LENGTHS = np.random.default_rng(0).lognormal(6.65, 0.55, 4000).clip(32, 2048).astype(int)


def known(step_tokens, **changes):
    return KnownWorkload(**(vars(workload(step_tokens)) | {"row_lengths": [1119]} | changes))


def of_steps(**size):
    size = {"tokens_per_step": None, "rows_per_step": None} | size
    steps = [LENGTHS[list(step.rows)].tolist() for step in assign_rows(LENGTHS, LENGTHS, epochs=1, seed=42, **size)]
    return known(max(map(sum, steps)), steps=RunSteps.of(steps), row_lengths=LENGTHS)


def whole(made, **changes):
    values = {"memory": "exact", "update_in_backward": False, "activation_budget": 1.0}
    return Setting(**(values | {"batch_tokens": -(-made.one_batch_tokens // 128) * 128} | changes))


@pytest.mark.parametrize(
    ("batch_tokens", "budget", "poor", "expected", "good"),
    [(8192, 0.7, 40e3, 46e3, 51e3), (32_768, 1.0, 44e3, 49.5e3, 55e3)],
)
def test_the_1_7b_is_predicted_as_by_the_study_of_an_h200(batch_tokens, budget, poor, expected, good):
    """Its figures, by a model of its own of what the compiler's code moves; it had many empty rows, 3 % of the time."""
    made, setting = known(32_768), Setting("exact", False, budget, batch_tokens)
    found = [tokens_per_second(made, setting, H200, rates) for rates in (POOR, EXPECTED, GOOD)]
    assert found == sorted(found)
    assert found == pytest.approx([poor, expected, good], rel=0.06)


def test_each_part_of_a_batch_is_the_sum_by_hand():
    """Microseconds a token of the 1.7B, whole step, budget 1; products, attention and elementwise as the study has them."""
    made = known(32_768)
    found = batch_seconds(made, whole(made), H200, EXPECTED)
    per_token = [1e6 * each / 32_768 for each in (28 * (found.forward + found.backward), found.head, found.total)]
    products = 6 * 28 * 50_331_648 / (0.69 * 989e12) * 1e6
    attention = 28 * 4096 * 560 * 2 * (1 / 260e12 + 2.5 / 210e12) * 1e6
    elementwise = 28 * 262_807 / (0.81 * 4.8e12) * 1e6
    gaps = 28 * 50 * 1.2 / 32_768
    assert per_token[0] == pytest.approx(products + attention + elementwise + gaps, rel=1e-6)
    assert per_token[1] == pytest.approx(6 * 0.9 * 151_936 * 2048 / (0.69 * 989e12) * 1e6, rel=1e-6)
    logits, states, head = 8 * 0.9 * 151_936, 120 * 2048, 18 * 151_936 * 2048 / 32_768
    moved = (logits + states + head) / (0.81 * 4.8e12) * 1e6
    assert per_token[2] == pytest.approx(per_token[0] + per_token[1] + moved, rel=1e-6)
    assert found.forward == pytest.approx((found.forward + found.backward) / 3)


def test_below_budget_1_attention_runs_again_and_more_is_moved():
    made = known(8192)
    kept, less = (batch_seconds(made, whole(made, activation_budget=budget), H200, EXPECTED) for budget in (1.0, 0.7))
    attention = 28 * 4096 * 560 * 2 / 260e12
    elementwise = 28 * (311_031 - 262_807) / (0.81 * 4.8e12)
    assert less.total - kept.total == pytest.approx(8192 * (attention + elementwise), rel=1e-6)


def test_each_further_batch_adds_its_gradients_to_those_before():
    one, four = (
        step_seconds(known(32_768), Setting("exact", False, 1.0, tokens), H200, EXPECTED, 1.0)
        for tokens in (32_768, 8192)
    )
    assert four - one == pytest.approx(3 * 3 * 2 * 1.72e9 / (0.81 * 4.8e12), rel=1e-2)


def test_a_step_is_no_shorter_than_the_host_takes_to_launch_it():
    made = known(512)
    host = 28 * 0.62e-3 + 3e-3 + STEP_HOST_SECONDS
    assert 512 / tokens_per_second(made, whole(made), H200) == pytest.approx(host, rel=0.07)
    assert batch_seconds(known(512, compiled=False), whole(made), H200, EXPECTED).host > 2 * (host - STEP_HOST_SECONDS)


def test_speed_is_that_of_all_steps_with_their_padding():
    """Four rows a step: the largest has twice the tokens of the mean one. With one size most of it would be padding."""
    made = of_steps(rows_per_step=4)
    found = made.batches(whole(made).batch_tokens)
    assert found.number == 1
    assert found.row_tokens / found.tokens > 0.70
    one_size = made.steps.mean_batches(whole(made).batch_tokens, 1)
    assert one_size.row_tokens / one_size.tokens < 0.6
    poor = known(int(made.mean_step_tokens))
    assert tokens_per_second(made, whole(made), H200) < tokens_per_second(poor, whole(poor), H200)
    full = of_steps(tokens_per_step=32_768)
    means = full.batches(8192)
    assert means.row_tokens / means.tokens > 0.97
    assert means.number * means.row_tokens == pytest.approx(full.mean_step_tokens)


def test_the_plan_keeps_all_activations_and_takes_the_whole_step_where_there_is_room():
    """A step in four batches at a lower budget took 7 % longer and was chosen, because it needs less memory."""
    chosen = make_plan(train_config(), of_steps(tokens_per_step=32_768), H200).chosen
    assert (chosen.setting.activation_budget, chosen.setting.batch_tokens) == (1.0, 32_768)
    small = make_plan(train_config(), of_steps(rows_per_step=4), H200).chosen
    assert small.setting.activation_budget == 1.0
    assert small.setting.batch_tokens >= of_steps(rows_per_step=4).one_batch_tokens


def test_speeds_are_shown_as_a_range():
    assert format_speeds(40_120, 51_490) == "40–51k"
    assert format_speeds(9_449, 12_345) == "9.4–12k"
    assert format_speeds(814.2, 1_133) == "810–1,100"
    assert format_speeds(942_141, 1_155_000) == "940–1,200k"
    assert format_speeds(55_410, 55_490) == "55k"
    assert format_speeds(1.24e9, 2.36e9) == "1,200,000–2,400,000k"
    made = workload()
    poor, good = speed_range(made, whole(made), H200)
    assert poor < tokens_per_second(made, whole(made), H200) < good
    option = plan_as_dict(make_plan(train_config(), made, H200))["options"][0]
    assert option["predicted_range"][0] < option["predicted_tokens_per_second"] < option["predicted_range"][1]
    assert speed_range(made, whole(made), find_card("24GiB")) is None


@pytest.mark.parametrize(("scaling", "share", "token_bytes"), [("tensor", 1, 3.9), ("row", 2 / 3, 1.4)])
def test_fp8_is_faster_in_the_products_and_moves_more(scaling, share, token_bytes):
    """Of a layer of 1.7B: queries, attention's output, gate, up and down; keys and values stay in bf16."""
    plain, made = known(32_768), known(32_768, float8=scaling)
    elements, widths = 28 * (2 * 2048**2 + 3 * 2048 * 6144), 28 * (2 * 4096 + 3 * 8192)
    one, other = (batch_seconds(each, whole(each), H200, EXPECTED) for each in (plain, made))
    saved = share * 32_768 * 6 * elements / (0.69 * 989.5e12) * (1 - 1 / 1.7)
    moved = (32_768 * token_bytes * widths + 8 * elements) / (0.81 * 4.8e12)
    assert one.total - other.total == pytest.approx(saved - moved, rel=2e-3)
    assert one.total > other.total
    four = whole(made, batch_tokens=8192)  # whose casts are made once for all four
    once, each = (batch_seconds(known(tokens, float8=scaling), four, H200, EXPECTED) for tokens in (32_768, 8192))
    assert each.total - once.total == pytest.approx(3 / 4 * 8 * elements / (0.81 * 4.8e12), rel=1e-3)


def test_casts_are_held_and_counted_where_a_step_has_several_batches():
    made, plain = known(32_768, float8="tensor"), known(32_768)
    for tokens, held in ((32_768, 0), (8192, 2 * 28 * (2 * 2048**2 + 3 * 2048 * 6144))):
        setting = whole(made, batch_tokens=tokens)
        assert memory_peaks(made, setting).train - memory_peaks(plain, setting).train == held
    assert not known(32_768, float8="tensor", ranks=8, per_node=8).holds_casts(whole(made, batch_tokens=1024))


def test_fp32_arithmetic_has_no_predicted_speed():
    """A card's stated peak is that of bf16; without TF32 products are many times slower."""
    planned = make_plan(train_config(precision="fp32"), known(16_384, fp32=True), H200)
    assert planned.chosen
    assert planned.chosen.tokens_per_second is planned.chosen.speed_range is None
