"""Layers with a state run packed where installed kernels keep rows apart, and one row an entry where they do not.

transformers looks for the kernels when it is imported, so each test is a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.state_kernels import write_state_kernels

TESTS = Path(__file__).parents[1]

COMPARED = """
import torch
from support.tiny_models import tiny_model
from thinktune.model.batch import collate
from thinktune.model.proof import _row, model_traits
from thinktune.model.states import batch_states

model = tiny_model("qwen3_5_text")
print(model_traits(model).rows)
model.set_attn_implementation("thinktune_rows")
batch = collate([_row(length, length) for length in (5, 17, 3)], 25)
with torch.no_grad():
    packed, apart = (batch_states(model, batch, way) for way in ("kernels", "apart"))
print("equal" if (packed - apart).abs().max() < 1e-4 else "different")
"""

TRAINED = """
from pathlib import Path
import sys, torch
from support.runs import settings, small_tree_of
from support.tiny_models import tiny_config
from transformers import AutoModelForCausalLM
from thinktune.commands.check import check_recipe
from thinktune.demo.tiny_model import make_tokenizer
from thinktune.train import train

folder = Path(sys.argv[1])
tokenizer = make_tokenizer(3 * ["What does the heart pump? It pumps blood."], 400)
config = tiny_config("qwen3_5_text")
config.vocab_size = len(tokenizer)
AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "base")
tokenizer.save_pretrained(folder / "base")
tree = small_tree_of(folder, folder / "base")
recipe = settings(tree, train={"epochs": 1}, generate={"sample_questions": 0})
facts = check_recipe(settings({**tree, "plan": {"card": "24GiB"}}), print)[1]
print(facts["verdict"], "padding" in facts, bool(facts["plan"]["options"]))
print((train(recipe, lambda _: None) / "final").is_dir())
"""


def run(script: str, tmp_path: Path, **environment: str) -> list[str]:
    kernels = write_state_kernels(tmp_path / "kernels")
    path = os.pathsep.join([str(kernels), str(TESTS), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-4:]


@pytest.mark.slow
def test_rows_are_packed_where_kernels_keep_them_apart(tmp_path):
    assert run(COMPARED, tmp_path)[-3:] == ["kernels", "equal", ""]


@pytest.mark.slow
def test_kernels_that_let_a_state_pass_from_row_to_row_are_not_used(tmp_path):
    assert run(COMPARED, tmp_path, LEAKS="1")[-3:] == ["apart", "different", ""]


@pytest.mark.slow
def test_check_plans_and_train_runs_with_kernels(tmp_path):
    assert run(TRAINED, tmp_path)[-3:] == ["ready False True", "True", ""]
