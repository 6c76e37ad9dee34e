"""Fixtures: a small tokenizer and a small Qwen3, made once, and the real Qwen3 files where they are at hand."""

import os
from pathlib import Path

import pytest
import torch

from thinktune.small import Size, make_model, make_tokenizer

TEXTS = 3 * ["What does the heart pump? It pumps blood.", "心脏泵什么？心脏泵血液。", "Reasoning: a muscle."]


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer(TEXTS, 400)


@pytest.fixture
def model(tokenizer):
    made = make_model(tokenizer, Size())
    made.set_attn_implementation("thinktune_packed")
    return made


@pytest.fixture(scope="session")
def start(tokenizer, tmp_path_factory) -> Path:
    """A model folder: small random Qwen3 with its tokenizer."""
    folder = tmp_path_factory.mktemp("start")
    make_model(tokenizer, Size()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real inputs, which THINKTUNE_REAL names."""
    folder = os.environ.get("THINKTUNE_REAL")
    if not folder:
        pytest.skip("THINKTUNE_REAL names no folder of real Qwen3 files")
    return Path(folder)


@pytest.fixture(scope="session")
def official_tokenizer(real):
    """Qwen3's own tokenizer, with its own chat template."""
    from thinktune.prepare import read_tokenizer

    return read_tokenizer(real / "qwen3-tokenizer")
