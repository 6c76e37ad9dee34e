"""Long rows by plan: inputs on the host and MLPs in tiles are predicted as traced, and taken where nothing else fits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.plans import train_config, workload
from support.traced_step import whole_step
from transformers import Qwen3Config

from thinktune.config.schema import TrainConfig
from thinktune.planner.hardware import GIB, find_card
from thinktune.planner.layer_calls import META
from thinktune.planner.memory import Setting, Workload, memory_peaks
from thinktune.planner.plan import describe_setting, fallback, fits, make_plan
from thinktune.planner.speed import seconds_per_step, tokens_per_second

BF16 = torch.bfloat16
EIGHT_BILLION = {
    "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "tie_word_embeddings": False,
}  # fmt: skip
SMALL = EIGHT_BILLION | {
    "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 4000,
}  # fmt: skip
LONG = Setting("8bit", True, 0.0, 32_768, offload_activations=True)


def long_rows(sizes, tokens=32_768, **changes):
    config = Qwen3Config(**sizes)
    return Workload(config, META, False, False, tokens, tokens, 0.9, np.array([tokens]), **changes)


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "memory"), [(SMALL, "8bit"), (EIGHT_BILLION, "exact")], ids=["small", "8B"])
def test_the_prediction_is_that_of_a_whole_step_of_one_long_row(sizes, memory):
    """All live storages of a real step of 32,768 tokens, what is inside tiles included; against the same step without."""
    settings = TrainConfig(rows_per_step=1, memory=memory, update_in_backward=True)
    traced = [
        whole_step(Qwen3Config(**sizes), settings, BF16, 32_768, 29_491, recompute=True, offloaded=offloaded)
        for offloaded in (False, True)
    ]
    made = long_rows(sizes)
    plain, found = (
        memory_peaks(made, replace(LONG, memory=memory, offload_activations=offloaded)) for offloaded in (False, True)
    )
    assert found.train == pytest.approx(traced[1][1], rel=0.05)
    states = 32_768 * sizes["hidden_size"] * 2
    assert found.host == sizes["num_hidden_layers"] * states
    assert plain.host == 0
    saved = traced[0][1] - traced[1][1]
    assert saved > (sizes["num_hidden_layers"] - 3) * states * 0.9
    assert plain.train - found.train == pytest.approx(saved, rel=0.3)
    assert plain.evaluate > found.evaluate


@pytest.mark.slow
def test_the_plans_own_choice_for_an_8b_with_rows_of_32k_tokens_fits_one_h200():
    """Without a compiler, as a whole step can be traced only so; all 36 layers, the update after the backward pass."""
    made, card = long_rows(EIGHT_BILLION), find_card("H200")
    setting = make_plan(TrainConfig(rows_per_step=1), made, card).chosen.setting
    assert (setting.memory, setting.activation_budget, setting.offload_activations) == ("exact", 0.0, False)
    settings = TrainConfig(rows_per_step=1, memory=setting.memory, update_in_backward=setting.update_in_backward)
    _, peak, host = whole_step(Qwen3Config(**EIGHT_BILLION), settings, BF16, 32_768, 29_491, recompute=True)
    found = memory_peaks(made, replace(setting, chunk_rows=None))  # rows of logits as the traced step takes them
    assert found.train == pytest.approx(peak, rel=0.05)
    assert host == found.host == 0
    assert peak < card.memory_bytes


def test_inputs_go_to_the_host_only_where_nothing_else_fits():
    asked = train_config()
    smallest = make_plan(train_config(offload_activations=False), workload(), find_card("1GiB"))
    least = min(option.needed_bytes for option in smallest.options) / 0.95 / GIB
    for gib in (least + 0.1, 12, 24, 140):
        chosen = make_plan(asked, workload(), find_card(f"{gib:.3f}GiB")).chosen
        assert chosen
        assert not chosen.setting.offload_activations
    planned = make_plan(asked, workload(), find_card(f"{least - 0.1:.3f}GiB"))
    assert planned.chosen
    assert fits(planned.chosen, planned.card)
    setting = planned.chosen.setting
    assert (setting.offload_activations, setting.activation_budget) == (True, 0.0)
    assert planned.chosen.peaks.host > 0
    assert "inputs of layers in host memory and MLPs in tiles" in describe_setting(setting)


def test_the_recipe_decides_where_it_says_so():
    card = find_card("H200")
    for asked in (train_config(offload_activations=True), train_config(offload_activations=True, memory="8bit")):
        options = make_plan(asked, workload(), card).options
        assert {(option.setting.offload_activations, option.setting.activation_budget) for option in options} == {
            (True, 0.0)
        }
    kept = make_plan(train_config(activation_budget=0.5), workload(), find_card("1GiB")).options
    assert not any(option.setting.offload_activations for option in kept)


def test_after_an_oom_inputs_on_the_host_are_one_more_remedy():
    """A step of one batch, updated in its backward pass, keeps nothing already: the run resumes in the same tier."""
    failed = Setting("8bit", True, 0.0, 16_384)
    option, resumable = fallback(train_config(), workload(), find_card("24GiB"), failed)
    assert resumable
    assert option.setting == replace(failed, offload_activations=True, chunk_rows=option.setting.chunk_rows)


def test_a_link_that_is_too_slow_for_the_inputs_costs_time():
    made, setting = workload(), Setting("8bit", False, 0.0, 16_384)
    card = find_card("H200")
    plain = seconds_per_step(made, setting, card)
    offloaded = replace(setting, offload_activations=True)
    assert seconds_per_step(made, offloaded, card) == plain  # copies hide behind the layers
    slow = replace(card, host_bytes_per_second=1e9)
    copies = 2 * 28 * 16_384 * 2048 * 2 / 1e9
    assert seconds_per_step(made, offloaded, slow) == pytest.approx(copies + plain * 0.2, rel=0.2)
    assert seconds_per_step(made, setting, slow) == plain


@pytest.mark.slow
def test_cards_that_share_tokens_need_less_each_and_pay_for_the_exchange():
    tokens = 131_072
    alone = long_rows(SMALL, tokens)
    setting = Setting("8bit", False, 0.5, tokens)
    for cards in (2, 4):
        shared = long_rows(SMALL, tokens, ranks=cards, per_node=cards, context=cards)
        assert shared.one_batch_tokens == tokens  # a row is still one batch's
        mine, theirs = memory_peaks(shared, setting).train, memory_peaks(alone, setting).train
        assert theirs / cards < mine < theirs * 1.6 / cards
        card = find_card("H200")
        faster = tokens_per_second(shared, setting, card) / tokens_per_second(alone, setting, card)
        assert 0.5 * cards < faster < cards
