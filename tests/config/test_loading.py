"""Recipes: every mistake at once, in words; what is written out is read back; every knob has a reader."""

import ast
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import thinktune
from thinktune.config import loading as recipe
from thinktune.config.row_faults import ROW_FAULTS
from thinktune.config.schema import Recipe
from thinktune.errors import UserError

PACKAGE = Path(thinktune.__file__).parent
ROOT = Path(__file__).parents[2]
SMALL = {"model": {"name": "m"}, "data": {"name": "d"}, "train": {"rows_per_step": 4}}


def write(folder: Path, tree) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    return path


def knobs(section=Recipe, prefix=""):
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from knobs(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def test_a_recipe_written_out_is_read_back_equal(tmp_path):
    first = recipe.load_recipe(write(tmp_path, SMALL), ["data.system=你是医生", "train.learning_rate=1e-5"])
    (tmp_path / "again.yaml").write_text(recipe.dump_recipe(first), encoding="utf-8")
    assert recipe.load_recipe(tmp_path / "again.yaml") == first


@given(
    rate=st.floats(1e-9, 1),
    share=st.floats(0, 0.5),
    prompt=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
)
def test_any_recipe_survives_being_written_out(rate, share, prompt):
    tree = {
        **SMALL,
        "data": {"name": "d", "validation": share, "system": prompt},
        "train": {"rows_per_step": 1, "learning_rate": rate},
    }
    first = recipe.validate_recipe(tree, "here")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8", newline="") as file:
        file.write(recipe.dump_recipe(first))
        file.flush()
        again = recipe.load_recipe(Path(file.name))
    assert again.model_copy(update={"name": first.name}) == first


def test_all_mistakes_are_told_at_once_with_place_value_and_remedy(tmp_path):
    tree = {
        "model": {"nam": "m"},
        "data": {"name": "d", "max_tokens": -1},
        "train": {"learning_rat": 1, "schedule": "wavy", "rows_per_step": 1},
    }
    with pytest.raises(UserError) as caught:
        recipe.load_recipe(write(tmp_path, tree))
    told = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 5
    assert "model.name: is missing" in told
    assert "model.nam: unknown key; did you mean name?" in told
    assert "train.learning_rat: unknown key; did you mean learning_rate?" in told
    assert "data.max_tokens" in told
    assert "-1" in told
    assert "train.schedule" in told
    assert "'wavy'" in told


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epochs", "is no override"),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs=[", "its value is no YAML"),
        ("data.files=*.jsonl", "put it into quotes"),
        ("train.betas=[0.9, 1.5]", "train.betas.1"),
        ("name.first=1", "name is a value"),
        ("train.tokens_per_step=5", "exactly one"),
        ("train.batch_tokens=5", "data.max_tokens 2048"),
        ("data.validation=0.7", "0.7"),
    ],
)
def test_a_wrong_override_is_explained(tmp_path, override, told):
    with pytest.raises(UserError, match=told):
        recipe.load_recipe(write(tmp_path, SMALL), [override])


@pytest.mark.parametrize("text", ["- a\n", "a: [", "\x00"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match="mine"):
        recipe.load_recipe(tmp_path / "mine.yaml")


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        recipe.load_recipe(Path("nowhere.yaml"))


@pytest.mark.parametrize("text", ["1e-5", "2E-5", "1.5e-5"])
def test_a_text_that_looks_like_a_number_stays_a_text(tmp_path, text):
    first = recipe.load_recipe(write(tmp_path, SMALL), [f"data.system='{text}'"])
    assert first.data.system == text
    (tmp_path / "again.yaml").write_text(recipe.dump_recipe(first), encoding="utf-8")
    assert recipe.load_recipe(tmp_path / "again.yaml") == first


@pytest.mark.parametrize("text", ["1e-5", "2E-5", "1.5e-5"])
def test_scientific_notation_is_a_number(tmp_path, text):
    assert recipe.load_recipe(write(tmp_path, SMALL), [f"train.learning_rate={text}"]).train.learning_rate == float(
        text
    )


def test_the_files_stem_names_the_run(tmp_path):
    for extra in ({}, {"name": None}):
        assert recipe.load_recipe(write(tmp_path, SMALL | extra)).run_folder == Path("runs/mine")


def test_there_are_at_most_61_knobs_and_each_is_explained():
    found = dict(knobs())
    assert len(found) <= 61
    assert not [name for name, field in found.items() if not field.description]


def test_every_knob_is_read_somewhere():
    read = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
    for name, _ in knobs():
        leaf = name.rpartition(".")[2]
        assert leaf in read, f"nothing reads {name}"


def test_every_fault_is_found_somewhere():
    rooms = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.stem != "faults")
    assert not [fault for fault in ROW_FAULTS if f'"{fault}"' not in rooms]


def test_every_fault_has_a_policy_and_wrong_ones_are_all_told():
    chosen = recipe.validate_recipe(SMALL | {"data": {"name": "d", "faults": {"blank": "stop"}}}, "here").data.faults
    assert set(chosen) == set(ROW_FAULTS)
    assert (chosen["blank"], chosen["leak"]) == ("stop", "drop")
    with pytest.raises(UserError) as caught:
        recipe.validate_recipe(
            SMALL | {"data": {"name": "d", "faults": {"blnk": "drop", "blank": "keep", "leak": 1}}}, "here"
        )
    told = str(caught.value)
    assert "data.faults" in told
    with pytest.raises(UserError) as caught:
        recipe.validate_recipe(SMALL | {"data": {"name": "d", "faults": {"blnk": "drop", "blank": "keep"}}}, "here")
    told = str(caught.value)
    assert "blnk is not a fault; did you mean blank?" in told
    assert "blank is 'keep'; write one of drop, stop" in told


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_load(path):
    recipe.load_recipe(path)


def test_the_page_of_knobs_is_the_one_that_the_recipe_makes():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "recipe_page.py"], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == done.stdout


def test_a_key_of_older_recipes_is_told_its_new_name():
    with pytest.raises(UserError, match=r"train\.recompute: unknown key; did you mean activation_budget\?"):
        recipe.validate_recipe(
            {"model": {"name": "m"}, "data": {"name": "d"}, "train": {"rows_per_step": 1, "recompute": True}}, "here"
        )
