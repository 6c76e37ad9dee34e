"""`final/` in transformers 4.57: the same tokenizer, the same rope, the same logits as today's release and our engine."""

import json

import pytest
import torch
from support.bases import BASES, make_base
from support.releases import install_release, run_with_release
from support.runs import quiet, settings, small_tree_of

from thinktune.demo.pipeline import _make_initial_model, write_rows
from thinktune.train import train

pytestmark = pytest.mark.slow
RELEASE = "transformers==4.57.6"
TEXTS = [
    "What does the heart pump?\n\nblood",
    "心脏泵什么？心包炎 3 33 café 🚀",
    "<think>\nso\n</think>\n\nyes<|im_end|>",
]
READ = """
import json, sys, torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
folder, output, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
ids = [tokenizer(text)["input_ids"] for text in texts]
chat = tokenizer.apply_chat_template([{"role": "user", "content": texts[0]}], add_generation_prompt=True, tokenize=False)
long = torch.tensor([sum(ids, []) * 8])
with torch.no_grad():
    torch.save(model(long).logits, output)
print(json.dumps({"version": transformers.__version__, "ids": ids, "chat": chat, "tokens": len(long[0])}))
"""


@pytest.fixture(scope="module")
def transformers_4(tmp_path_factory):
    return install_release(tmp_path_factory.mktemp("transformers-4.57"), RELEASE)


def read_with(release, folder, output):
    arguments = ("-c", READ, str(folder), str(output), json.dumps(TEXTS))
    found = json.loads(run_with_release(release, *arguments).splitlines()[-1])
    return found, torch.load(output)


def assert_same_in_both(release, folder, tmp_path):
    older, theirs = read_with(release, folder, tmp_path / "older.pt")
    newer, ours = read_with(tmp_path, folder, tmp_path / "newer.pt")
    assert older.pop("version").startswith("4.57")
    assert newer.pop("version").startswith("5.")
    assert older == newer
    assert older["tokens"] > 100  # far enough for another rope_theta to show
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BASES)
def test_final_is_the_same_model_in_transformers_4(transformers_4, tmp_path, name):
    tree = {**small_tree_of(tmp_path, make_base(tmp_path / "base", name)), "generate": {"sample_questions": 0}}
    run = train(settings(tree), quiet)
    assert_same_in_both(transformers_4, run / "final", tmp_path)


def test_the_demos_base_is_the_same_model_in_transformers_4(transformers_4, tmp_path):
    write_rows(tmp_path / "rows")
    _make_initial_model(tmp_path)
    assert_same_in_both(transformers_4, tmp_path / "start", tmp_path)
