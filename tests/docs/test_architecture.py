"""The architecture page: its drawing and table are the code's own, and the row that it follows has the values it says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_packages import LEVELS
from transformers import AutoModelForCausalLM, Qwen3Config

from thinktune.config.loading import validate_recipe
from thinktune.data import prepare
from thinktune.data.packing import plan_steps
from thinktune.model import pack
from thinktune.model.forward import compute_loss
from thinktune.tokenization import TokenKind, read_tokenizer

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "architecture.md", DOCS / "architecture.zh.md"]
SECOND = ("What does insulin do?", "Insulin is the hormone that lets cells take up glucose.", "It lowers blood sugar.")


def test_the_table_of_packages_is_made_from_the_packages():
    done = subprocess.run([sys.executable, DOCS / "architecture_page.py"], capture_output=True, text=True, check=True)
    assert done.stdout in PAGES[0].read_text(encoding="utf-8")
    named = [
        [
            line.split("|")[1::2]
            for line in page.read_text(encoding="utf-8").splitlines()
            if re.match(r"\| `\w+` \|", line)
        ]
        for page in PAGES
    ]
    assert named[0] == named[1], "both pages name the same packages and modules"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_drawing_is_the_order_that_the_tests_hold(page):
    drawing = page.read_text(encoding="utf-8").split("```")[1].strip()
    assert [line.split() for line in drawing.split("\n")] == LEVELS[1:]


@pytest.mark.real
def test_the_row_that_is_followed_has_these_values(tmp_path, real):
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    first = json.loads(next(line for line in texts[0].splitlines() if line.strip().startswith('{"question"')))
    second = dict(zip(first, SECOND, strict=True))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (first, second)), encoding="utf-8")
    folder = real / "qwen3-tokenizer"
    data = {"name": str(tmp_path / "rows.jsonl"), "validation": 0.0}
    recipe = validate_recipe({"name": "x", "model": {"name": str(folder)}, "data": data}, "here")
    prepared = prepare(recipe, read_tokenizer(folder))
    replies = prepared.train.replies()
    counts = [int((replies[0].kinds == kind).sum()) for kind in TokenKind]
    batch = pack(replies, 1024)[0]
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    config = Qwen3Config(**sizes, intermediate_size=128, vocab_size=151_936, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="thinktune_rows")
    loss = float(compute_loss(model, batch, 1 / batch.label_tokens, torch.float32, None)[0])
    assert "{} tokens: {} prompt, {} reasoning, {} answer, {} end".format(len(replies[0]), *counts) in " ".join(
        texts[0].split()
    )
    assert batch.labels[0] == 151_667
    for text in texts:
        for value in (
            plan_steps(recipe, prepared)[0],
            batch.cu_seqlens.tolist(),
            f"{loss:.3f}",
            tuple(batch.ids.shape),
        ):
            assert str(value) in text
