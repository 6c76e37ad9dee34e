"""Cards of this machine, by a program in nvidia-smi's place: which one a run takes, what is free, and who uses it."""

import os
from contextlib import nullcontext

import pytest
import torch
from starlette.testclient import TestClient

from thinktune.http import Access, Limits
from thinktune.run.card_lock import cards_in_use, hold_cards
from thinktune.studio import make_studio_app
from thinktune.studio.folder import StudioFolder
from thinktune.studio.recipes.card_process import find_card
from thinktune.studio.recipes.nvidia_smi import ask_nvidia_smi, first_visible

TWO = """0, GPU-aaaa-1, NVIDIA H200, 1000, 142000, 143771, 7, Disabled
1, GPU-bbbb-2, NVIDIA GeForce RTX 4090, 24000, 200, 24564, [N/A], [N/A]
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Put a program that prints a text in nvidia-smi's place; return who changes that text."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache" / "tokens"))
    (tmp_path / "bin").mkdir()

    def say(text):
        program = tmp_path / "bin" / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
        program.chmod(0o755)

    say(TWO)
    return say


@pytest.mark.parametrize(
    ("visible", "index"),
    [(None, 0), ("1", 1), ("1,0", 1), ("GPU-bbbb-2", 1), ("GPU-b", 1), ("GPU-", None), ("", None), ("-1", None), ("MIG-1", None)],
)  # fmt: skip
def test_the_card_is_the_one_that_a_run_would_take(driver, monkeypatch, visible, index):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = first_visible(ask_nvidia_smi())
    assert (found and found.index) == index


def test_the_number_of_unlike_cards_is_left_to_torch_since_it_may_count_them_otherwise(driver, monkeypatch):
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    assert first_visible(ask_nvidia_smi()) is None
    with hold_cards(["cuda-0"], print, wait=False):
        assert not any(card.in_use for card in ask_nvidia_smi()), "which of them that is, nobody can say"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bbbb-2")
    assert first_visible(ask_nvidia_smi()).name == "NVIDIA GeForce RTX 4090"
    driver(TWO.replace("NVIDIA GeForce RTX 4090", "NVIDIA H200"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert first_visible(ask_nvidia_smi()).index == 1


def test_a_card_is_in_use_however_its_lock_is_named(driver):
    for name, used in (
        ("cuda-1", [False, True]),
        ("cuda-GPU-a", [True, False]),
        ("cuda-GPU-bbbb-2", [False, True]),
        ("cuda-MIG-1", [False] * 2),
    ):
        with hold_cards([name], print, wait=False):
            assert [card.in_use for card in ask_nvidia_smi()] == used


def test_a_card_that_is_split_or_a_driver_that_says_something_else_is_left_to_torch(driver):
    driver(TWO.replace("Disabled", "Enabled"))
    assert first_visible(ask_nvidia_smi()) is None
    for text in ("No devices were found\n", "0, GPU-1\n", ""):
        driver(text)
        assert ask_nvidia_smi() == []


def test_what_fits_counts_what_is_free_and_the_whole_card_while_a_run_is_on_it(driver):
    cuda = torch.device("cuda")  # which nobody computes on here
    card, locks = find_card("", cuda)
    assert (card.name, card.memory_bytes) == ("H200", 142000 * 2**20)
    with hold_cards(["cuda-0"], print, wait=False):
        assert cards_in_use() == {"cuda-0"} <= locks
        assert find_card("", cuda)[0].memory_bytes == 143771 * 2**20
    assert cards_in_use() == set()
    assert find_card("", torch.device("cpu"))[0] is None


def test_home_shows_which_card_a_run_uses_whoever_started_it(driver, tmp_path):
    client = TestClient(make_studio_app(StudioFolder.open(tmp_path / "mine"), Limits(), Access(hosts=None)))
    for held in (nullcontext(), hold_cards(["cuda-GPU-bbbb-2"], print, wait=True)):
        with held:
            cards = client.get("/studio/home").json()["cards"]
        used = not isinstance(held, nullcontext)
        assert [(card["name"], card["percent"], card["in_use"]) for card in cards] == [
            ("NVIDIA H200", 7, False),
            ("NVIDIA GeForce RTX 4090", None, used),
        ]
