"""Fixtures: a small tokenizer and a small Qwen3, made once, and the real Qwen3 files where they are at hand."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from support.browser import open_browser
from support.runs import small_tree_of

from thinktune.demo.tiny_model import ModelShape, make_model, make_tokenizer
from thinktune.tokenization import Example, Turn
from thinktune.tokenization.chat_template import render

# How long an example takes says what else the machine does, not whether the code is right.
# In CI the examples are the same in every run, so that a red one means that our change is at fault.
settings.register_profile("thinktune", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("thinktune")

TEXTS = 3 * ["What does the heart pump? It pumps blood.", "心脏泵什么？心脏泵血液。", "Reasoning: a muscle."]


os.environ["THINKTUNE_LANG"] = "en"  # messages are tested as they are written, whatever the machine's language


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)  # the tests themselves run side by side


@pytest.fixture(scope="session", autouse=True)
def hears_signals():
    """Hear the signals that a shell's background job or nohup ignores, in what a test starts as well."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tokenized rows of the tests go where the tests' other files go."""
    os.environ["THINKTUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def browser():
    """Chromium. It is a module's: its event loop runs in this thread, where other modules' tests run loops of their own."""
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer(TEXTS, 400)


@pytest.fixture
def rows(tokenizer):
    """Three rendered rows of different lengths."""
    texts = [("2+2?", "two and two", "4"), ("心脏泵什么？", "想一想", "血液"), ("Hi", "greet " * 9, "hello there")]
    return [render(Example((Turn("user", q), Turn("assistant", a, r)), f"r:{q}"), tokenizer)[0] for q, r, a in texts]


@pytest.fixture
def model(tokenizer):
    made = make_model(tokenizer, ModelShape())
    made.set_attn_implementation("thinktune_rows")
    return made


@pytest.fixture(scope="session")
def start(tokenizer, tmp_path_factory) -> Path:
    """Make a model folder: a small random Qwen3 with its tokenizer."""
    folder = tmp_path_factory.mktemp("start")
    make_model(tokenizer, ModelShape()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tree(tmp_path, start):
    return small_tree_of(tmp_path, start)


@pytest.fixture(scope="session")
def real() -> Path:
    """Return the folder of real inputs, which THINKTUNE_REAL names."""
    folder = os.environ.get("THINKTUNE_REAL")
    if not folder:
        pytest.skip("THINKTUNE_REAL names no folder of real Qwen3 files")
    return Path(folder)


@pytest.fixture(scope="session")
def official_tokenizer(real):
    """Qwen3's own tokenizer, with its own chat template."""
    from thinktune.tokenization import read_tokenizer

    return read_tokenizer(real / "qwen3-tokenizer")
