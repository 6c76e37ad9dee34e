"""Recipes: every mistake at once, in words; what is written out is read back equal; every setting has a reader."""

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
from thinktune.config.loading import dump_recipe, load_recipe, load_recipe_text, validate_recipe
from thinktune.config.recipe_keys import EXPERT_FIELDS, of_replay, of_source
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


def fields(section=Recipe, prefix=""):
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def test_a_recipe_written_out_is_read_back_equal(tmp_path):
    first = load_recipe(write(tmp_path, SMALL), ["data.system=你是医生", "train.learning_rate=1e-5"])
    (tmp_path / "again.yaml").write_text(dump_recipe(first), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == first


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
    first = validate_recipe(tree, "here")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8", newline="") as file:
        file.write(dump_recipe(first))
        file.flush()
        again = load_recipe(Path(file.name))
    assert again.model_copy(update={"name": first.name}) == first


def test_all_mistakes_are_told_at_once_with_place_value_and_remedy(tmp_path):
    tree = {
        "model": {"nam": "m"},
        "data": {"name": "d", "max_tokens": -1},
        "train": {"learning_rat": 1, "schedule": "wavy", "rows_per_step": 1},
    }
    with pytest.raises(UserError) as caught:
        load_recipe(write(tmp_path, tree))
    told = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 4
    assert "model.nam: unknown key; did you mean name?" in told
    assert "train.learning_rat: unknown key; did you mean learning_rate?" in told
    assert "data.max_tokens" in told
    assert "-1" in told
    assert "train.schedule" in told
    assert "'wavy'" in told


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epochs", "is not an override"),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs=[", "its value is not YAML"),
        ("data.files=*.jsonl", "put it in quotes"),
        ("train.betas=[0.9, 1.5]", "expert.betas.1"),
        ("name.first=1", "name is a value"),
        ("train.tokens_per_step=5", "both set the size of a step"),
        ("train.batch_tokens=5", "data.max_tokens 2048"),
        ("expert.batch_tokens=5", r"expert\.batch_tokens is 5"),
        ("expert.beta=[0.9, 0.999]", r"expert\.beta: unknown key"),
        ("expert=7", "expert: holds 7"),
        ("expert.log_every_steps=0", r"expert\.log_every_steps: .* \(it is 0\)"),
        ("train.bets=1", r"did you mean expert\.betas\?"),
        ("batch_tokens=1", r"write it as expert\.batch_tokens"),
        ("data.validation=0.7", "0.7"),
        ("train.loss=ce", r"train\.loss: .*'cross_entropy' or 'dft' \(it is 'ce'\)"),
        ("train.weights=2", r"train\.weights: is 2; write parts and their weights"),
        ("train.weights.reasoning=-1", r"train\.weights: reasoning is -1; write 0, or a number from 0\.001 to 1000"),
        ("train.weights.answer=1e30", r"train\.weights: answer is 1e\+30; write 0, or a number"),
        ("train.weights.answer=true", r"train\.weights: answer is true; write 0, or a number"),
        (
            "train.weights={reasoning: 0, answer: 0}",
            "both have weight 0, so nothing would be learned; give one of them",
        ),
        ("train.weights={end: 2}", r"train\.weights: end has no weight of its own .* has the answer's weight"),
        (
            "train.weights={prompt: 1, reasoning: much}",
            '"prompt" is not a part of a reply with a weight; write reasoning or answer; reasoning is "much"',
        ),
    ],
)
def test_a_wrong_override_is_explained(tmp_path, override, told):
    with pytest.raises(UserError, match=told):
        load_recipe(write(tmp_path, SMALL), [override])


def test_a_setting_of_replay_stands_beside_the_share_that_is_written_alone(tmp_path):
    def short(share):
        return write(tmp_path, SMALL | {"data": {"name": "d", "replay": share}})

    for tree, overrides in ((SMALL | {"data": {"name": "d", "replay": 0.1}}, []), (SMALL, ["data.replay=0.1"])):
        recipe = load_recipe(write(tmp_path, tree), [*overrides, "data.replay.answers=own"])
        assert (recipe.data.replay.share, recipe.data.replay.answers) == (0.1, "own")
    with pytest.raises(UserError, match=r"mine\.yaml:\d+: data\.replay\.share: is 5; write a share"):
        load_recipe(short(5), ["data.replay.answers=own"])
    with pytest.raises(UserError, match="replay is a value, not a section"):
        load_recipe(short("much"), ["data.replay.answers=own"])


@pytest.mark.parametrize("text", ["- a\n", "a: [", "\x00"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match="mine"):
        load_recipe(tmp_path / "mine.yaml")


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load_recipe(Path("nowhere.yaml"))


@pytest.mark.parametrize("text", ["1e-5", "2E-5", "1.5e-5"])
def test_a_text_that_looks_like_a_number_stays_a_text(tmp_path, text):
    first = load_recipe(write(tmp_path, SMALL), [f"data.system='{text}'"])
    assert first.data.system == text
    (tmp_path / "again.yaml").write_text(dump_recipe(first), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == first


@pytest.mark.parametrize("text", ["1e-5", "2E-5", "1.5e-5"])
def test_scientific_notation_is_a_number(tmp_path, text):
    assert load_recipe(write(tmp_path, SMALL), [f"train.learning_rate={text}"]).train.learning_rate == float(text)


def test_the_files_stem_names_the_run(tmp_path):
    for extra in ({}, {"name": None}):
        assert load_recipe(write(tmp_path, SMALL | extra)).run_folder == Path("runs/mine")


def test_a_user_sees_at_most_55_settings_at_first_and_each_is_explained():
    found = dict(fields())
    # Of sources beside one's own rows, which a first recipe has not.
    beside_own_rows = {"other_sources", "data.share", "data.answers", "data.replay"}
    assert len(found.keys() - EXPERT_FIELDS.values() - beside_own_rows) <= 55
    assert len(EXPERT_FIELDS) == len(found.keys() & EXPERT_FIELDS.values()) <= 21
    assert not [name for name, field in found.items() if not field.description]


def test_every_setting_is_read_somewhere():
    read = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
    for name, _ in fields():
        leaf = name.rpartition(".")[2]
        assert leaf in read, f"nothing reads {name}"


def test_every_fault_is_found_somewhere():
    rooms = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.stem != "faults")
    assert not [fault for fault in ROW_FAULTS if f'"{fault}"' not in rooms]


def test_every_fault_has_a_policy_and_wrong_ones_are_all_told():
    chosen = validate_recipe(SMALL | {"data": {"name": "d", "faults": {"blank": "stop"}}}, "here").data.faults
    assert set(chosen) == set(ROW_FAULTS)
    assert (chosen["blank"], chosen["leak"]) == ("stop", "drop")
    with pytest.raises(UserError) as caught:
        validate_recipe(SMALL | {"data": {"name": "d", "faults": {"blnk": "drop", "blank": "keep", "leak": 1}}}, "here")
    told = str(caught.value)
    assert "data.faults" in told
    with pytest.raises(UserError) as caught:
        validate_recipe(SMALL | {"data": {"name": "d", "faults": {"blnk": "drop", "blank": "keep"}}}, "here")
    told = str(caught.value)
    assert "blnk is not a fault; did you mean blank?" in told
    assert "blank is 'keep'; write one of drop, stop" in told


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_load(path):
    load_recipe(path)


@pytest.mark.parametrize(("page", "language"), [("recipe.md", []), ("recipe.zh.md", ["zh"])])
def test_the_page_of_settings_is_the_one_that_the_schema_makes(page, language):
    command = [sys.executable, ROOT / "docs" / "recipe_page.py", *language]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == done.stdout


def test_a_key_of_older_recipes_is_told_its_new_name():
    with pytest.raises(UserError, match=r"train\.recompute: unknown key; did you mean expert\.activation_budget\?"):
        validate_recipe(
            {"model": {"name": "m"}, "data": {"name": "d"}, "train": {"rows_per_step": 1, "recompute": True}}, "here"
        )


def test_model_and_data_are_the_only_settings_that_must_be_written():
    made = validate_recipe({"model": {"name": "m"}, "data": {"name": "d"}}, "here")
    assert (made.train.tokens_per_step, made.train.rows_per_step) == (16_384, None)
    by_rows = validate_recipe({"model": {"name": "m"}, "data": {"name": "d"}, "expert": {"rows_per_step": 4}}, "here")
    assert (by_rows.train.tokens_per_step, by_rows.train.rows_per_step) == (None, 4)
    with pytest.raises(UserError, match=r"train\.tokens_per_step"):
        validate_recipe({"model": {"name": "m"}, "data": {"name": "d"}, "train": {"tokens_per_step": 0}}, "here")


VALUES = {
    "split": "shuffle", "split_seed": 7, "handed_phrases": ["given"], "rows_per_step": 3, "betas": [0.8, 0.9],
    "precision": "fp32", "update_in_backward": True, "activation_budget": 0.5, "offload_activations": True,
    "context_parallel": 2, "batch_tokens": 4096, "log_every_steps": 2,
    "bad_numbers": "stop", "full_disk": "stop", "deterministic": True, "sample_share": 0.2, "batch_rows": 5,
    "evaluate_tokens": 9, "track_machine": True, "data_license": "cc-by-4.0", "think_tags": ["<plan>", "</plan>"],
}  # fmt: skip


@pytest.mark.parametrize("name", EXPERT_FIELDS)
def test_an_expert_setting_is_read_at_both_places_and_the_former_one_is_named(tmp_path, name):
    """Under `expert:` nothing is printed; at its former place one line says where it is now."""
    section, leaf = EXPERT_FIELDS[name].split(".")
    plain = {"name": "m", "model": {"name": "m"}, "data": {"name": "d"}}
    new = {**plain, "expert": {name: VALUES[name]}}
    old = {**plain, section: {**plain.get(section, {}), leaf: VALUES[name]}}
    said: list[str] = []
    recipes = [load_recipe(write(tmp_path, new), say=said.append)]
    assert said == []
    recipes.append(load_recipe(write(tmp_path, old), say=said.append))
    path = tmp_path / "mine.yaml"
    assert said == [f"{path}: {EXPERT_FIELDS[name]} is now expert.{name}; the old name still works"]
    recipes += [
        load_recipe(
            write(tmp_path, plain), [f"{key}={yaml.safe_dump(VALUES[name], default_flow_style=True).split(chr(10))[0]}"]
        )
        for key in (f"expert.{name}", EXPERT_FIELDS[name])
    ]
    assert recipes.count(recipes[0]) == 4
    assert recipes[0] != validate_recipe(plain, "here")
    written = yaml.safe_load(dump_recipe(recipes[0]))
    assert list(written)[-1] == "expert"
    assert written["expert"][name] == VALUES[name]
    assert leaf not in written[section] or leaf in EXPERT_FIELDS


@pytest.mark.parametrize(
    ("first", "second"),
    [("expert.log_every_steps", "train.log_every_steps"), ("train.log_every_steps", "expert.log_every_steps")],
)
def test_the_command_line_wins_whichever_place_the_recipe_uses(tmp_path, first, second):
    section, leaf = first.split(".")
    made = load_recipe(write(tmp_path, {**SMALL, section: {**SMALL.get(section, {}), leaf: 3}}), [f"{second}=5"])
    assert made.train.log_every_steps == 5


def test_a_setting_at_both_places_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"expert\.rows_per_step, train\.rows_per_step: are one setting; keep the first"
    ):
        load_recipe(write(tmp_path, SMALL | {"expert": {"rows_per_step": 5}}))


@pytest.mark.parametrize(
    ("text", "address"), [("off", None), ("null", None), ("auto", "auto"), ("http://h:5000", "http://h:5000")]
)
def test_an_mlflow_server_is_an_address_auto_or_off(tmp_path, text, address):
    assert load_recipe(write(tmp_path, SMALL), [f"track.mlflow={text}"]).track.mlflow == address


def test_any_other_text_is_no_mlflow_server(tmp_path):
    with pytest.raises(UserError, match=r'track.mlflow: is "localhost:5000"; write http://HOST:PORT, auto, or off'):
        load_recipe(write(tmp_path, SMALL), ["track.mlflow=localhost:5000"])


def test_a_file_that_is_called_data_is_no_key():
    assert of_source("data.jsonl:3: answer: is blank; write data.faults: {blank: keep}", 1) == (
        "data.jsonl:3: answer: is blank; write data.1.faults: {blank: keep}"
    )
    assert (
        of_source("rows/data.csv.gz: x; write expert.split: hash", 2) == "rows/data.csv.gz: x; write data.2.split: hash"
    )
    assert "'data.zip'" in of_replay("data.name: 'data.zip' is not a file")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train:\n  epochs:10\n  learning_rate: 1e-3", [":4: is not YAML (a space is missing after a colon: write epochs: 10)"]),
        ("train:\n  learning_rate: 1e-3\n  epochs:10", [":5: is not YAML (a space is missing after a colon: write epochs: 10)"]),
        ("train:\n  learning_rate: 1e-3\n\n  epochs：10\n\n  warmup: 0.1", [":6: is not YAML (a space is missing after a colon: write epochs: 10)"]),
        ("train:\n  epochs:10", [':3: train: is "epochs:10"; write a space after the colon, as in epochs: 10']),
        ("train: {epochs:10}", [":3: train.epochs: has no space after its colon; write one"]),
        ("train: {epochs.x: 10}", [":3: train.epochs.x: unknown key; did you mean epochs?"]),
        ("generate:\n  note: |\n    epochs:10\n   bad: [", [":6: is not YAML (expected <block end>"]),
    ],
)  # fmt: skip
def test_a_colon_without_its_space_is_named_at_its_line(text, told):
    with pytest.raises(UserError) as caught:
        load_recipe_text(f"model: {{name: m}}\ndata: {{name: rows.jsonl}}\n{text}\n", Path("mine.yaml"))
    assert len(caught.value.faults) == len(told)
    for fault, sentence in zip(caught.value.faults, told, strict=True):
        assert fault.startswith(f"mine.yaml{sentence}"), fault


def test_a_section_of_one_setting_without_its_space_is_told():
    with pytest.raises(UserError, match=r'mine\.yaml:2: data: is "name:rows.jsonl"; write a space after the colon'):
        load_recipe_text("model: {name: m}\ndata:\n  name:rows.jsonl", Path("mine.yaml"))
    with pytest.raises(UserError, match=r'model: is "qwen3:8b"; write model: {name: "qwen3:8b"}'):
        load_recipe_text("model: qwen3:8b\ndata: {name: rows.jsonl}", Path("mine.yaml"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: {name: m}\ndta: {name: r.jsonl}", "mine.yaml:2: dta: unknown key; did you mean data?"),
        ("model: {nme: m}\ndata: {name: r.jsonl}", "mine.yaml:1: model.nme: unknown key; did you mean name?"),
    ],
)
def test_a_misspelt_key_is_not_also_missing(text, told):
    with pytest.raises(UserError) as caught:
        load_recipe_text(text, Path("mine.yaml"))
    assert caught.value.faults == [told]
