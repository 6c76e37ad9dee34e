"""Untrusted files: no pickle, no code, no path outside, no active markup; and no secret is written."""

import json
import pickle
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.runs import quiet, settings

from thinktune.errors import UserError, redact
from thinktune.files import is_safe_relative_path
from thinktune.hub.huggingface import to_listing
from thinktune.model.loading import load_model
from thinktune.report import run_page
from thinktune.tokenization import read_tokenizer
from thinktune.train import train

SECRET = "hf_" + "Zq3" * 11


class Acts:
    """Pickle that writes a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def model(start, tmp_path):
    return Path(shutil.copytree(start, tmp_path / "model"))


def test_pickled_weights_are_refused_and_not_read(model, tmp_path, tried):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Acts(tmp_path / "acted")))
    with pytest.raises(UserError, match="holds PyTorch pickles"):
        load_model(model, torch.device("cpu"))
    assert not (tmp_path / "acted").exists()
    tried("pickled weights that act")


@pytest.mark.parametrize("trusted", [False, True])
def test_code_beside_a_model_runs_only_where_it_is_trusted(model, tmp_path, tried, trusted):
    acted = tmp_path / "acted"
    (model / "stranger.py").write_text(
        "from transformers import Qwen3Config, Qwen3ForCausalLM, PreTrainedTokenizerFast\n"
        f"open({str(acted)!r}, 'a').close()\n"
        "class Config(Qwen3Config): pass\nclass Model(Qwen3ForCausalLM): config_class = Config\n"
        "class Tokens(PreTrainedTokenizerFast): pass\n"
    )
    for name, classes in (
        ("config.json", {"AutoConfig": "stranger.Config", "AutoModelForCausalLM": "stranger.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "stranger.Tokens"]}),
    ):
        settings = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(settings | {"auto_map": classes}))
    read_tokenizer(model, trust_remote_code=trusted)
    load_model(model, torch.device("cpu"), trust_remote_code=trusted)
    assert acted.exists() == trusted
    tried(f"code beside a model, {'trusted' if trusted else 'not trusted'}")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "C:\\outside", "a/../../b"])
def test_shards_outside_the_folder_are_refused(model, tried, name):
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="which is not a file of that folder"):
        load_model(model, torch.device("cpu"))
    tried(f"a shard named {name}")


class Entry:
    def __init__(self, path):
        self.path, self.size, self.lfs, self.blob_id = path, 1, None, "0" * 40


@pytest.mark.parametrize("name", ["../../.bashrc", "/etc/passwd", "a\\..\\..\\b", "C:/x"])
def test_a_hubs_list_that_leads_outside_is_refused(name):
    with pytest.raises(OSError, match="outside the repository"):
        to_listing([Entry("config.json"), Entry(name)])


@given(st.lists(st.sampled_from(["a", "..", ".", "b.c", ""]), min_size=1, max_size=6))
def test_a_safe_relative_path_never_leads_outside(parts):
    name = "/".join(parts)
    if is_safe_relative_path(name):
        base = Path("/folder/inside")
        assert (base / name).parts[:3] == base.parts
        assert ".." not in Path(name).parts


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_a_row_of_markup_shows_as_text(tree, tried):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    rows = Path(tree["data"]["name"])
    plain = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    bad = [{key: f"{value} {evil}" for key, value in row.items()} for row in plain]
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in bad), encoding="utf-8")
    folder = train(settings(tree, data={"max_tokens": 2000, "system": f"Be {evil}"}), quiet)
    text = run_page.write_run_page(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<script") == 1  # the page's own
    assert not page.tags & {"img", "iframe", "object", "embed", "link"}
    assert not {name for name in page.attributes if name.startswith("on")}
    tried("rows of markup")


def test_secrets_are_in_nothing_that_is_written(tree, monkeypatch, tried):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("SOME_API_KEY", "a-key-of-mine-42")
    said = []
    command = ("thinktune", "train", "mine.yaml", f"name={SECRET}", "other=a-key-of-mine-42")
    folder = train(settings(tree), said.append, command)
    written = "".join(
        path.read_text(errors="replace")
        for path in folder.rglob("*")
        if path.suffix != ".safetensors" and path.is_file()
    )
    for secret in (SECRET, "a-key-of-mine-42"):
        assert secret not in written + "".join(said)
    assert "name=***" in written
    tried("tokens in the environment and on the command line")


@given(st.from_regex(r"(hf_[A-Za-z0-9]{24}|sk-[A-Za-z0-9]{20})", fullmatch=True))
def test_text_with_the_shape_of_a_token_is_masked(token):
    assert token not in redact(f"https://user:{token}@hub/x?{token}")
    assert re.search(r"\*\*\*", redact(f" {token} "))
