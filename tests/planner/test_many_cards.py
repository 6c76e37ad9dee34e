"""Plans for many cards: how clusters are written, which strategy is chosen, memory per card, and speed."""

import re
from dataclasses import replace
from math import inf, prod
from pathlib import Path

import pytest
from support.plans import KnownWorkload, shown, train_config, workload
from support.runs import quiet, settings

from thinktune.commands.check import check_recipe
from thinktune.errors import UserError
from thinktune.optim import TIERS, candidate_tiers
from thinktune.planner.communication import ParameterGroups, shard_shape
from thinktune.planner.hardware import GIB, find_card, find_cluster
from thinktune.planner.memory import Setting, memory_peaks
from thinktune.planner.plan import fits, make_plan, plan_as_dict
from thinktune.planner.speed import Network, assumed_networks, predict_throughput, seconds_per_step, tokens_per_second

BEST_FIRST = candidate_tiers(train_config())
LAYER = ((2048, 2048), (1024, 2048), (1024, 2048), (2048, 2048), (6144, 2048), (6144, 2048), (2048, 6144))
LAYER += ((2048,), (2048,), (128,), (128,))
WHOLE = Setting("exact", False, 1.0, 4096)
INFINITE = Network("infinite", inf, inf)


class KnownCluster(KnownWorkload):
    """The known workload, with its parameter groups given, too."""

    parameter_groups = ParameterGroups(((151_936, 2048), (2048,)), 28 * (LAYER,))


def many_cards(ranks=32, per_node=8, step_tokens=32 * 4096):
    return KnownCluster(**(vars(workload(step_tokens)) | {"ranks": ranks, "per_node": per_node}))


@pytest.mark.parametrize(
    ("text", "name", "ranks", "per_node"),
    [
        ("H100", "H100", 1, 1),
        ("8xH100", "H100", 8, 8),
        ("4x8xH100", "H100", 32, 8),
        (" 2 x 4 × rtx4090 ", "RTX 4090", 8, 4),
        ("3X24GiB", "24GiB", 3, 3),
        ("16x1x24 GB", "24 GB", 16, 1),
    ],
)
def test_many_cards_are_written_as_machines_of_cards(text, name, ranks, per_node):
    found = find_cluster(text)
    assert (found.card.name, found.ranks, found.per_node) == (name, ranks, per_node)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0xH100", "is not a card; write how many"),
        ("4x0xH100", "is not a card"),
        ("2x2x2xH100", "'2xH100' is not a known card"),
        ("8x", "'8x' is not a known card"),
        ("8xabacus", "'abacus' is not a known card"),
    ],
)
def test_unknown_cards_are_refused_in_one_sentence(text, message):
    with pytest.raises(UserError, match=r"^plan\.card: ") as caught:
        find_cluster(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_replicas_while_they_fit_then_shards_of_a_machine_then_of_all():
    """One tier, from a large card to a small one: each strategy fits where the one before does not."""
    asked, taken = train_config(memory="exact", update_in_backward=False), []
    for gib in (80, 60, 48, 40, 32, 28, 24, 20, 16, 12, 10, 8, 6, 5):
        planned = make_plan(asked, many_cards(), find_card(f"{gib}GiB"))
        if planned.chosen:
            assert fits(planned.chosen, planned.card)
            taken.append(planned.chosen.setting.strategy)
    assert sorted(set(taken), key=taken.index) == ["replicate", "hybrid", "shard"]
    assert taken == sorted(taken, key=["replicate", "hybrid", "shard"].index)


def test_quality_comes_before_replicas():
    """The best tier is sharded even if a worse one would fit as a replica."""
    planned = make_plan(train_config(), many_cards(8, 8), find_card("24GiB"))
    assert (planned.chosen.setting.memory, planned.chosen.setting.strategy) == ("exact", "shard")
    assert "replicate" in {option.setting.strategy for option in planned.options}
    ranks = [make_plan(train_config(), many_cards(8, 8), find_card(f"{gib}GiB")).chosen for gib in (6, 8, 12, 24)]
    tiers = [BEST_FIRST.index(chosen.setting.memory) for chosen in ranks if chosen]
    assert tiers == sorted(tiers, reverse=True)


def test_the_recipes_strategy_is_kept():
    for strategy in ("replicate", "shard", "hybrid"):
        planned = make_plan(train_config(), many_cards(), find_card("H200"), strategy)
        assert {option.setting.strategy for option in planned.options} == {strategy}
    assert make_plan(train_config(), many_cards(), find_card("H200"), "auto") == make_plan(
        train_config(), many_cards(), find_card("H200")
    )
    assert make_plan(train_config(), workload(), find_card("H200"), "auto").chosen.setting.strategy == "replicate"
    machines_of_one = make_plan(train_config(), many_cards(8, 1), find_card("12GiB"))
    assert "hybrid" not in {option.setting.strategy for option in machines_of_one.options}


def test_a_card_holds_its_shard_and_what_is_gathered():
    """A rank holds its rows of weights, states and gradients, and the gathered root and two gathered layers."""
    whole, cut = memory_peaks(many_cards(), WHOLE), memory_peaks(many_cards(), replace(WHOLE, strategy="shard"))
    shapes, shards = many_cards().shapes, [shard_shape(shape, 32) for shape in many_cards().shapes]
    tier = TIERS["exact"]
    kept = [tier.weights_bytes(each) + tier.moments_bytes(each)[0] for each in (shapes, shards)]
    assert kept[1] == pytest.approx(kept[0] / 32, rel=0.01)
    numbers = [sum(prod(shape) for shape in each) for each in (shapes, LAYER)]
    gradients, layer, root = 2 * numbers[0], 2 * numbers[1], 2 * (151_936 * 2048 + 2048)
    assert kept[1] + root + 2 * layer < cut.train < whole.train
    assert whole.train - kept[0] >= gradients + 2 * gradients, "each sum over copies stays in fp32 next to the gradient"
    assert cut.evaluate - kept[1] == pytest.approx(whole.evaluate - kept[0] + layer, rel=1e-6)
    hybrid = memory_peaks(many_cards(), replace(WHOLE, strategy="hybrid"))
    assert cut.train < hybrid.train < whole.train
    alone = memory_peaks(workload(4096), WHOLE)
    assert whole.train > alone.train
    assert memory_peaks(KnownWorkload(**vars(workload(4096))), replace(WHOLE, strategy="shard")) == alone


def test_an_infinite_network_costs_nothing_and_a_slower_one_more():
    card = find_card("H100")
    for strategy in ("replicate", "shard", "hybrid"):
        setting = replace(WHOLE, strategy=strategy)
        alone = tokens_per_second(workload(4096), WHOLE, card)
        free = predict_throughput(many_cards(), setting, card, INFINITE)
        assert free.tokens_per_second >= 32 * alone * 0.999
        assert free.efficiency == pytest.approx(free.tokens_per_second / (32 * alone))
        times = [
            predict_throughput(many_cards(), setting, card, network).seconds_per_step
            for network in assumed_networks(card)
        ]
        assert free.seconds_per_step < times[0] < times[1] < times[2]
        slow = predict_throughput(many_cards(), setting, card, assumed_networks(card)[2])
        assert slow.efficiency < 0.5
    assert predict_throughput(many_cards(), WHOLE, card, INFINITE).efficiency == pytest.approx(1)
    assert predict_throughput(many_cards(), WHOLE, find_card("24GiB"), INFINITE) is None


def test_a_slow_network_bounds_the_step():
    """No step is shorter than its traffic on the slowest link, computed by hand for fp32 all-reduces over 32 cards."""
    numbers = sum(prod(shape) for shape in many_cards().shapes)
    network = Network("slow", 1e9, 1e9)
    least = 2 * 31 / 32 * 4 * numbers / 1e9
    found = seconds_per_step(many_cards(), WHOLE, find_card("H100"), network)
    assert least < found < least + 2 * seconds_per_step(workload(4096), WHOLE, find_card("H100"))
    shared = seconds_per_step(many_cards(), replace(WHOLE, strategy="shard"), find_card("H100"), network)
    assert shared == pytest.approx(least, rel=0.25), "weights twice and gradients once take as many bytes"


def test_a_card_takes_an_even_part_of_a_step_but_whole_rows():
    assert many_cards(4, 4, 10_001).rank_tokens == 2501
    assert many_cards(32, 8, 8192).rank_tokens == 2048
    assert many_cards(32, 8, 100).rank_tokens == 100
    assert workload(10_001).rank_tokens == 10_001


def test_the_dict_has_each_network_and_each_volume():
    plain = plan_as_dict(make_plan(train_config(), many_cards(), find_card("H100")))
    assert (plain["ranks"], plain["per_node"]) == (32, 8)
    assert [each["network"] for each in plain["networks"]] == ["as inside a machine", "200 Gb/s", "25 Gb/s"]
    [chosen] = [option for option in plain["options"] if option["chosen"]]
    assert (chosen["strategy"], chosen["sent_inside_gib"]) == ("replicate", 0)
    assert chosen["sent_between_gib"] == pytest.approx(2 * 31 / 32 * 4 * 1.72e9 / GIB, rel=0.01)
    assert chosen["predicted_tokens_per_second"] == round(plain["networks"][1]["tokens_per_second"])
    assert len(plan_as_dict(make_plan(train_config(), many_cards(8, 8), find_card("H100")))["networks"]) == 1
    assert plan_as_dict(make_plan(train_config(), workload(), find_card("H100")))["networks"] == []


@pytest.mark.slow
def test_check_plans_for_machines_that_are_not_there(tree):
    _, found = check_recipe(settings({**tree, "plan": {"card": "8x8xH100"}}), quiet)
    text = shown(found)
    assert "64 × H100 (79.6 GiB) on 8 machines of 8" in text
    assert [line.split()[0] for line in text.splitlines() if "Gb/s  " in line] == ["200", "25"]
    [arrow] = [line for line in text.splitlines() if line.startswith("→")]
    assert "replicate" in arrow
    assert re.search(r" [\d.,]+–[\d.,]+k? +replicate", arrow), "a range, poor to good"
    one = shown(check_recipe(settings({**tree, "plan": {"card": "2xH100"}}), quiet)[1])
    assert "2 × H100 (79.6 GiB) on one machine" in one
    assert "25 Gb/s" not in one


def test_the_page_says_the_same_in_both_languages():
    pages = [
        (Path(__file__).parents[2] / "docs" / name).read_text() for name in ("distributed.md", "distributed.zh.md")
    ]
    tables = [
        [line for line in page.splitlines() if line.startswith(("| 0", "| 1", "| 4", "| 8", "| 3"))] for page in pages
    ]
    assert tables[0] == tables[1]
    assert [row.split()[1] for row in tables[0]] == [
        name for name in ["0.6B", "1.7B", "4B", "8B", "14B", "32B"] for _ in range(5)
    ]
    assert len({page.split("```")[5] for page in pages}) == 1, "the plan that is shown"
