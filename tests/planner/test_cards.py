"""Cards by the names that people and drivers give them, and what is said of those that need a word."""

import pytest
from support.plans import train_config, workload

from thinktune.errors import UserError
from thinktune.planner.card_sheets import CARD_SHEETS
from thinktune.planner.hardware import GIB, card_from_driver, find_card, find_cluster
from thinktune.planner.plan import make_plan, plan_as_dict


@pytest.mark.parametrize(
    ("written", "name", "gib"),
    [
        ("4090D", "RTX 4090 D", 24.0),
        ("rtx4090", "RTX 4090", 24.0),
        ("RTX 4090", "RTX 4090", 24.0),
        ("RTX-4090-D", "RTX 4090 D", 24.0),
        ("4080s", "RTX 4080 SUPER", 16.0),
        ("3080Ti", "RTX 3080 Ti", 12.0),
        ("NVIDIA GeForce RTX 3080", "RTX 3080", 10.0),
        ("A100-SXM4-80GB", "A100 80GB", 80.0),
        ("a100-pcie-40gb", "A100", 40.0),
        ("A100 80G", "A100 80GB", 80.0),
        ("h100-80g", "H100", 79.6),
        ("H100 PCIe 80GB", "H100 PCIe", 79.6),
        ("V100", "V100", 15.8),
        ("V100-32G", "V100 32GB", 31.7),
        ("Tesla T4", "T4", 14.6),
        ("4090 48G", "RTX 4090", 48.0),
        ("l4", "L4", 22.5),
        ("L40", "L40", 44.9),
        ("A10", "A10", 22.5),
        ("h20", "H20", 95.6),
        ("B200", "B200", 179.1),
    ],
)
def test_a_card_is_found_by_the_names_that_people_write(written, name, gib):
    card = find_card(written)
    assert (card.name, round(card.memory_gib, 1)) == (name, gib)
    assert find_cluster(f"2x{written}").card == card


def test_every_card_is_found_by_its_own_name_and_by_its_drivers():
    for name, sheet in CARD_SHEETS.items():
        assert find_card(name).name == find_card(name.replace(" ", "").lower()).name == name
        found = card_from_driver(f"NVIDIA GeForce {name}", GIB)
        assert (found.name, found.tflops) == (name, sheet.bf16_tflops)


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA GeForce RTX 4090 D", "RTX 4090 D"),
        ("NVIDIA GeForce RTX 4080 SUPER", "RTX 4080 SUPER"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA GeForce RTX 3080 Ti Laptop GPU", None),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_a_drivers_name_is_a_card_of_the_table_or_an_unknown_variant(driver, name):
    found = card_from_driver(driver, 7 * GIB)
    assert (found.name, found.tflops is None) == (name or driver, name is None)


def test_sheets_agree_with_what_their_architecture_can_do():
    for name, sheet in CARD_SHEETS.items():
        if sheet.fp8_tflops and sheet.bf16_tflops:
            assert sheet.fp8_tflops == pytest.approx(2 * sheet.bf16_tflops, rel=0.02), name
        assert (sheet.fp8_tflops is None) or sheet.capability >= (8, 9), name
        assert sheet.peer_gb_per_second is None or sheet.peer_gb_per_second > sheet.link_gb_per_second, name


@pytest.mark.parametrize(("name", "word"), [("V100", "CUDA 12"), ("T4", "8.1 TFLOP/s"), ("2080Ti", "no bf16 tensor")])
def test_a_plan_says_what_bf16_means_on_a_card_without_it(name, word):
    planned = plan_as_dict(make_plan(train_config(), workload(step_tokens=2048), find_card(name)))
    assert word in planned["card_note"]
    assert "no bf16 tensor cores" in planned["card_note"]
    assert "card_note" not in plan_as_dict(make_plan(train_config(), workload(step_tokens=2048), find_card("L4")))


@pytest.mark.parametrize("name", ["910B", "Ascend 910B", "昇腾910B3", "MI300X"])
def test_a_card_without_cuda_is_answered_in_words_that_work_when_followed(name):
    with pytest.raises(UserError, match=r"plan\.card: .* is not a CUDA card \((Huawei Ascend|AMD)\)") as caught:
        find_card(name)
    assert "plan.card=64GiB" in caught.value.faults[0]
    assert find_card("64GiB").memory_gib == 64
