"""Plans: quality first, then speed, within the card's memory; their texts; cards by name; settings of a run."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.plans import QWEN, KnownWorkload, train_config, workload

from thinktune.config.schema import TrainConfig
from thinktune.errors import UserError
from thinktune.model.loss import pick_chunk_rows
from thinktune.optim import candidate_tiers
from thinktune.planner import plan
from thinktune.planner.hardware import GIB, card_from_driver, find_card
from thinktune.planner.layer_calls import META
from thinktune.planner.memory import Setting, memory_peaks
from thinktune.planner.plan import cpu_default, fallback, fits, make_plan, plan_as_dict
from thinktune.planner.speed import tokens_per_second

BEST_FIRST = candidate_tiers(train_config())


def test_a_larger_card_never_gets_a_worse_tier():
    """From too small to an H200, tiers come in their order, and each choice fits with its margin."""
    ranks = []
    for gib in (3, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 80, 140):
        planned = make_plan(train_config(), workload(), find_card(f"{gib}GiB"))
        if planned.chosen is None:
            assert not ranks
            continue
        assert fits(planned.chosen, planned.card)
        ranks.append(BEST_FIRST.index(planned.chosen.setting.memory))
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] == 0
    assert len(set(ranks)) >= 3


def test_the_fastest_setting_of_the_best_tier_is_chosen():
    planned = make_plan(train_config(), workload(), find_card("H200"))
    chosen = planned.chosen.setting
    assert (chosen.memory, chosen.update_in_backward) == ("exact", False)
    whole = tokens_per_second(workload(), Setting("exact", False, 1.0, 16_384), planned.card)
    assert planned.chosen.tokens_per_second >= plan.SPEED_TOLERANCE * whole
    tight = make_plan(train_config(), workload(), find_card("28GiB"))
    assert tight.chosen.setting.memory == "exact"
    assert tight.chosen.setting.activation_budget < 1 or tight.chosen.setting.batch_tokens < 16_384


def test_plan_and_loss_choose_rows_of_logits_by_one_rule(monkeypatch):
    card = find_card("24GiB")
    chosen = make_plan(train_config(), workload(), card).chosen.setting
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=card.memory_bytes))
    by_the_loss = pick_chunk_rows(torch.device("cuda"), QWEN.vocab_size, torch.bfloat16, fused=True)
    assert chosen.chunk_rows == by_the_loss == 24 * GIB // 64 // (2 * QWEN.vocab_size)


def test_attentions_backward_pass_takes_a_block_of_128_tokens_more_for_each_row():
    """FlashAttention 2 adds up the gradients of queries in fp32, of whole blocks of each row."""
    setting = Setting("exact", False, 1.0, 16_384)
    many, few = (KnownWorkload(QWEN, META, False, True, 16_384, 2048, 0.9, [tokens]) for tokens in (1, 2))
    rows = many.batch_rows(16_384) - few.batch_rows(16_384)
    assert rows == 16_384
    assert memory_peaks(many, setting).train - memory_peaks(few, setting).train == rows * 128 * 16 * 128 * 4


def test_what_is_minimized_changes_no_plan():
    card, weighted = find_card("24GiB"), {"loss": "dft", "weights": {"reasoning": 0.5}}
    assert make_plan(train_config(**weighted), workload(), card) == make_plan(train_config(), workload(), card)


def test_the_recipes_values_are_kept():
    chosen = train_config(memory="8bit", update_in_backward=True, activation_budget=0.45, batch_tokens=16_384)
    planned = make_plan(chosen, workload(), find_card("h100"))
    rows = workload().chunk_rows(planned.card.memory_bytes)
    assert {option.setting for option in planned.options} == {Setting("8bit", True, 0.45, 16_384, chunk_rows=rows)}
    assert "recipe's tier" in planned.reason


def test_an_update_inside_the_backward_pass_needs_a_step_of_one_batch():
    planned = make_plan(train_config(), workload(), find_card("24GiB"))
    inside = [option.setting.batch_tokens for option in planned.options if option.setting.update_in_backward]
    assert inside
    assert min(inside) >= 16_384


def test_a_plan_that_fits_nothing_names_the_card_that_would_do():
    planned = make_plan(train_config(), workload(), find_card("2GiB"))
    assert planned.chosen is None
    least = min(option.needed_bytes for option in planned.options) / GIB
    assert f"a card of {math.ceil(10 * least / (1 - plan.FREE_MEMORY_MARGIN)) / 10:.1f} GiB" in planned.reason
    plain = plan_as_dict(planned)
    assert not any(option["fits"] or option["chosen"] for option in plain["options"])
    assert plain["card_gib"] == 2


def test_after_an_oom_a_smaller_setting_is_chosen():
    """First smaller batches and fewer activations, then a cheaper tier, then None."""
    card = find_card("24GiB")
    failed = make_plan(train_config(), workload(), card).chosen
    option, resumable = fallback(train_config(), workload(), card, failed.setting)
    assert resumable
    assert (option.setting.memory, option.setting.update_in_backward) == ("exact-bf16", False)
    assert option.needed_bytes <= failed.needed_bytes * (1 - plan.FREE_MEMORY_MARGIN)
    option, resumable = fallback(train_config(), workload(), find_card("12GiB"), failed.setting)
    assert not resumable
    assert fits(option, find_card("12GiB"))
    assert BEST_FIRST.index(option.setting.memory) > BEST_FIRST.index(failed.setting.memory)
    assert fallback(train_config(), workload(), find_card("2GiB"), failed.setting) is None


def test_the_recipes_values_are_given_up_only_if_they_must_be():
    fixed = train_config(batch_tokens=16_384, activation_budget=1.0, memory="exact")
    failed = Setting("exact", False, 1.0, 16_384)
    option, resumable = fallback(fixed, workload(), find_card("28GiB"), failed)
    assert (resumable, option.setting.memory) == (True, "exact")
    small = train_config(batch_tokens=2048)
    option, resumable = fallback(small, workload(), find_card("10GiB"), Setting("exact", False, 1.0, 2048))
    assert (resumable, option.setting.batch_tokens) == (False, 2048)
    option, resumable = fallback(fixed, workload(), find_card("10GiB"), failed)
    assert not resumable
    assert option.setting.memory != "exact"


def test_the_dict_marks_one_option_as_chosen():
    plain = plan_as_dict(make_plan(train_config(), workload(), find_card("rtx4090")))
    assert sum(option["chosen"] for option in plain["options"]) == 1
    assert all(option["predicted_tokens_per_second"] > 0 for option in plain["options"])
    unknown = plan_as_dict(make_plan(train_config(), workload(), find_card("24GiB")))
    assert all(option["predicted_tokens_per_second"] is None for option in unknown["options"])
    chosen = [next(o["memory"] for o in each["options"] if o["chosen"]) for each in (plain, unknown)]
    assert chosen[0] == chosen[1]


def test_cards_are_found_by_name_and_by_memory():
    assert find_card("rtx4090").memory_bytes == 24 * GIB
    assert find_card("NVIDIA GeForce RTX 4090").name == "RTX 4090"
    assert find_card("h200").tflops == 989
    assert find_card("24 GB").memory_bytes == 24 * 10**9
    assert find_card("7.5GiB").memory_gib == 7.5
    assert find_card("a100").memory_bytes == 40 * GIB
    with pytest.raises(UserError, match=r"plan\.card: 'abacus'.*24GiB"):
        find_card("abacus")


def test_a_local_card_is_recognised_by_the_words_of_its_drivers_name():
    names = {
        "NVIDIA A100-SXM4-80GB": ("A100 80GB", 312),
        "NVIDIA A10": ("A10", 125),
        "NVIDIA RTX A1000": ("NVIDIA RTX A1000", None),
        "NVIDIA A100-PCIE-40GB": ("A100 40GB", 312),
        "NVIDIA A100-SXM-64GB": ("A100", 312),
        "NVIDIA H100 80GB HBM3": ("H100", 989),
        "NVIDIA H100 NVL": ("H100 NVL", 835),
        "NVIDIA H20": ("H20", 148),
        "NVIDIA GeForce RTX 4090": ("RTX 4090", 165.2),
        "Made Up 7": ("Made Up 7", None),
    }
    for name, (known, tflops) in names.items():
        card = card_from_driver(name, 7 * GIB)
        assert (card.name, card.tflops, card.memory_gib) == (known, tflops, 7)


def test_speed_is_bounded_by_the_cards_peak_and_falls_with_recomputation():
    card, whole = find_card("H200"), Setting("exact", False, 1.0, 16_384)
    speed = tokens_per_second(workload(), whole, card)
    assert 0.3 * 989e12 < speed * workload().flops_per_token < 0.85 * 989e12
    assert tokens_per_second(workload(), Setting("exact", False, 0.0, 16_384), card) < speed
    assert tokens_per_second(workload(), Setting("exact", False, 1.0, 2048), card) < speed
    streamed = tokens_per_second(workload(2048), Setting("8bit-streamed", True, 1.0, 2048), card)
    assert streamed <= 2048 / (1.72e9 * 2.03 / card.host_bytes_per_second) * 1.01
    assert tokens_per_second(workload(), whole, find_card("24GiB")) is None


def test_the_cpu_has_its_own_default():
    assert cpu_default(TrainConfig(rows_per_step=4), 300) == Setting("fp32", False, 1.0, 1024)
    assert cpu_default(TrainConfig(rows_per_step=4, memory="8bit", activation_budget=0.0), 3000) == Setting(
        "8bit", False, 0.0, 3000
    )


def test_fp32_arithmetic_is_planned_in_the_fp32_tier():
    asked = train_config(precision="fp32")
    planned = make_plan(asked, replace(workload(), fp32=True), find_card("H200"))
    assert planned.chosen.setting.memory == "fp32"
    assert fits(planned.chosen, planned.card)
