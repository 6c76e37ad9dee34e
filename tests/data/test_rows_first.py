"""Rows before the model: of a folder that was admitted before, rows are read while torch is not loaded."""

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.model_folders import WEIGHTS, edit, set_nan, weights
from support.runs import quiet, settings
from tokenizers.normalizers import Lowercase

from thinktune.commands.check import check_recipe
from thinktune.config import load_recipe
from thinktune.data.pipeline import MIN_PARALLEL_BYTES, prepare_with_faults
from thinktune.data.rows_first import RowsFirst, prepare_rows_first
from thinktune.errors import UserError
from thinktune.hub.admitted_folders import was_admitted
from thinktune.model.admission import admit
from thinktune.tokenization import read_tokenizer
from thinktune.tokenization.tokenizer import tokenizer_state

HEAVY = ("torch", "sympy", "transformers.modeling_utils", "transformers.modeling_rope_utils", "pandas", "pyarrow")


GOOD_ROWS = "".join(
    json.dumps({"question": f"What is {n} + {n}?", "reasoning": f"Twice {n}.", "answer": f"It is {2 * n}."}) + "\n"
    for n in range(40)
)


def rename_a_weight(folder):
    stored = load_file(folder / WEIGHTS)
    stored["model.norm.other"] = stored.pop("model.norm.weight")
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})


def reshape_a_weight(folder):
    stored = load_file(folder / WEIGHTS)
    stored["model.norm.weight"] = stored["model.norm.weight"][:-1].clone()
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})


CHANGES = {
    "configuration": lambda folder: edit(folder, "config.json", num_hidden_layers=-1),
    "name of a weight": rename_a_weight,
    "shape of a weight": reshape_a_weight,
    "value of a weight": weights(set_nan("model.norm.weight")),
    "sampling": lambda folder: (folder / "generation_config.json").write_text('{"top_p": 0}'),
    "tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "an adapter": lambda folder: (folder / "adapter_config.json").write_text("{}"),
}


@pytest.fixture(scope="module")
def admitted(start, tmp_path_factory):
    """Make a folder of admitted model folders, one for each change and one that is kept, and of the cache that knows."""
    folder = tmp_path_factory.mktemp("admitted")
    for name in ("kept", *CHANGES):
        shutil.copytree(start, folder / name)
    time.sleep(2.1)  # a file that was just written may change again and look the same
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THINKTUNE_CACHE", str(folder / "cache"))
        for name in ("kept", *CHANGES):
            admit(folder / name)
    return folder


@pytest.fixture
def own(admitted, tmp_path, monkeypatch):
    """Return the admitted folder that is kept; its test has a copy of the cache that knows it."""
    shutil.copytree(admitted / "cache", tmp_path / "cache")
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    return admitted / "kept"


def run_in_process(verb, recipe, cwd):
    """Run a verb; what heavy modules were loaded by its end is printed last."""
    code = f"import sys; sys.argv = ['thinktune', {verb!r}, {str(recipe)!r}]\nfrom thinktune.cli import main\n"
    code += f"try: main()\nexcept SystemExit as end: print(end.code, [n for n in {HEAVY!r} if n in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


def write_recipe(tree, folder, model, rows):
    (folder / "rows.jsonl").write_text(rows)
    changed = tree | {"model": {"name": str(model)}, "data": {"name": str(folder / "rows.jsonl")}}
    (folder / "mine.yaml").write_text(json.dumps(changed))
    return folder / "mine.yaml"


def loaded_by_tokenizers_alone():
    """Return what transformers' tokenizers load themselves: releases before 5.23 or so, torch."""
    [folder] = importlib.util.find_spec("transformers").submodule_search_locations
    source = (Path(folder) / "tokenization_utils_tokenizers.py").read_text(encoding="utf-8")
    return ["torch"] if "from .modeling_gguf_pytorch_utils" in source else []


@pytest.mark.parametrize("verb", ["check", "train"])
def test_rows_of_a_known_model_are_refused_before_torch_is_loaded(verb, own, tree, tmp_path):
    done = run_in_process(verb, write_recipe(tree, tmp_path, own, "no JSON\n"), tmp_path)
    assert done.stdout.split(maxsplit=1)[0] == "2", done.stdout + done.stderr
    assert "rows.jsonl" in done.stderr
    assert ast.literal_eval(done.stdout.split(maxsplit=1)[1]) == loaded_by_tokenizers_alone(), done.stderr


@pytest.mark.slow
def test_an_unknown_models_faults_are_told_before_those_of_its_rows(admitted, tree, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(admitted / "kept", model)
    edit(model, "config.json", num_hidden_layers=-1)
    done = run_in_process("train", write_recipe(tree, tmp_path, model, "no JSON\n"), tmp_path)
    assert "num_hidden_layers is -1" in done.stderr
    assert "rows.jsonl" not in done.stderr


def test_rows_of_an_unknown_model_are_read_before_torch_is_loaded(admitted, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "empty"))
    recipe = write_recipe(tree, tmp_path, admitted / "kept", GOOD_ROWS)
    code = f"""
import sys
from pathlib import Path
from thinktune.config import load_recipe
from thinktune.config import load_recipe
from thinktune.data.pipeline import MIN_PARALLEL_BYTES, prepare_with_faults
from thinktune.data.rows_first import RowsFirst, prepare_rows_first
first = prepare_rows_first(load_recipe(Path({str(recipe)!r})), print)
print(first.known, len(first.prepared.train) > 0, [n for n in {HEAVY!r} if n in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == [f"False True {loaded_by_tokenizers_alone()}"], done.stderr


def test_check_tells_the_faults_of_an_unknown_model_and_of_its_rows_at_once(admitted, tree, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(admitted / "kept", model)
    edit(model, "config.json", num_hidden_layers=-1)
    for rows, told in (("no JSON\n", "rows.jsonl"), (GOOD_ROWS.replace("answer", "other"), "data.columns")):
        recipe = load_recipe(write_recipe(tree, tmp_path, model, rows))
        with pytest.raises(UserError, match="num_hidden_layers is -1") as refused:
            check_recipe(recipe, quiet, prepare_rows_first(recipe, quiet))
        assert told in str(refused.value)
        assert len(refused.value.faults) == len(set(refused.value.faults)) == 2


def test_rows_are_prepared_again_where_the_likely_tokenizer_is_another_one(admitted, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "empty"))
    recipe = load_recipe(write_recipe(tree, tmp_path, admitted / "kept", GOOD_ROWS))
    plain = check_recipe(recipe, quiet)[1]
    other = read_tokenizer(admitted / "kept")
    other.backend_tokenizer.normalizer = Lowercase()
    wrong = RowsFirst(admitted / "kept", prepare_with_faults(recipe, other), other, (), known=False)
    assert not wrong.agrees(read_tokenizer(admitted / "kept"))
    assert check_recipe(recipe, quiet, wrong)[1] | {"disk": None} == plain | {"disk": None}


def test_a_named_class_that_cannot_read_the_rows_is_no_likely_tokenizer(admitted, tree, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(admitted / "kept", model)
    edit(model, "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert prepare_rows_first(load_recipe(write_recipe(tree, tmp_path, model, GOOD_ROWS)), quiet) is None


def test_many_rows_of_an_unknown_model_wait_for_it(admitted, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "empty"))
    many = GOOD_ROWS * (MIN_PARALLEL_BYTES // len(GOOD_ROWS) + 1)
    recipe = load_recipe(write_recipe(tree, tmp_path, admitted / "kept", many))
    assert prepare_rows_first(recipe, quiet) is None


def test_check_says_the_same_whether_rows_came_first_or_the_model(own, tree):
    recipe = settings(tree, model={"name": str(own)})
    first = prepare_rows_first(recipe, quiet)
    assert first is not None
    facts, plain = check_recipe(recipe, quiet, first)[1], check_recipe(recipe, quiet)[1]
    assert facts | {"disk": None} == plain | {"disk": None}  # others fill the disk meanwhile


def test_a_tokenizer_loaded_by_its_known_class_is_the_one_that_transformers_chooses(own, monkeypatch, tmp_path):
    known = read_tokenizer(own)
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "empty"))
    chosen = read_tokenizer(own)
    assert type(known) is type(chosen)
    assert tokenizer_state(known) == tokenizer_state(chosen)
    assert {k: v for k, v in vars(known).items() if k != "_tokenizer"}.keys() == vars(chosen).keys() - {"_tokenizer"}
    assert known.init_kwargs == chosen.init_kwargs


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_changes_is_admitted_anew_and_its_fault_told(change, admitted, own):
    folder = admitted / change
    assert was_admitted(folder)
    CHANGES[change](folder)
    assert not was_admitted(folder)
    with pytest.raises(UserError, match=r"model\.name: "):
        admit(folder)
    assert not was_admitted(folder), "what is refused is not remembered"
    assert was_admitted(own)


def test_a_folder_whose_code_may_run_is_never_known(own, tree):
    recipe = settings(tree, model={"name": str(own), "trust_remote_code": True})
    assert prepare_rows_first(recipe, quiet) is None


def test_weights_that_were_not_read_are_not_known_to_be_finite(own, tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "empty"))
    admit(own, read_weights=False)
    assert not was_admitted(own)
    admit(own)
    assert was_admitted(own)
