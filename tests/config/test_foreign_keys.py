"""Words of other trainers in a recipe or an override are answered with ours; and rows in the place of a recipe."""

import json

import pytest
import yaml

from thinktune.config.foreign_keys import FOREIGN_KEYS, answer_foreign_key
from thinktune.config.loading import load_recipe
from thinktune.config.recipe_keys import EXPERT_FIELDS
from thinktune.config.schema import Recipe
from thinktune.errors import UserError

NAMED_IN_THE_ISSUE = [
    "batch_size",
    "per_device_train_batch_size",
    "num_train_epochs",
    "lr",
    "cutoff_len",
    "max_seq_length",
    "lora_rank",
    "gradient_accumulation_steps",
    "warmup_ratio",
    "bf16",
    "output_dir",
    "dataset",
    "model_name_or_path",
]


def faults_of(tmp_path, tree=None, *overrides):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"model": {"name": "m"}, "data": {"name": "r"}} | (tree or {})), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_recipe(file, overrides)
    return caught.value.faults


def is_setting(key):
    section, _, leaf = key.partition(".")
    if section == "expert":
        return leaf in EXPERT_FIELDS
    field = Recipe.model_fields.get(section)
    return (
        field is not None and (not leaf or leaf in field.annotation.model_fields) and key not in EXPERT_FIELDS.values()
    )


def test_every_answer_names_settings_that_exist_or_says_what_happens_instead():
    for name, answer in FOREIGN_KEYS.items():
        assert all(map(is_setting, answer.keys)), name
        assert answer.keys or len(answer.note.split()) >= 4, name
        assert answer.answer.startswith("here it is " if answer.keys else "leave it out: ")


def test_no_setting_of_ours_is_taken_for_a_foreign_one():
    """At its own place it is ours; elsewhere it would be answered with another one."""
    for section, field in Recipe.model_fields.items():
        for leaf in getattr(field.annotation, "model_fields", ()):
            assert leaf not in FOREIGN_KEYS, f"{section}.{leaf}"


@pytest.mark.parametrize("name", FOREIGN_KEYS)
def test_a_foreign_word_is_answered_wherever_it_is_written(tmp_path, name):
    answer = answer_foreign_key(name)
    for tree, key in (
        ({name: 1}, name),
        ({"train": {name: 1}}, f"train.{name}"),
        ({"expert": {name: 1}}, f"expert.{name}"),
    ):
        [fault] = faults_of(tmp_path, tree)
        assert fault.endswith(f"{key}: unknown key; {answer}")
    [fault] = faults_of(tmp_path, None, f"train.{name}=1")
    assert fault.endswith(f"train.{name}: unknown key; {answer}")


def test_those_of_the_issue_are_known_and_lead_to_ours(tmp_path):
    assert set(NAMED_IN_THE_ISSUE) <= set(FOREIGN_KEYS)
    [fault] = faults_of(tmp_path, None, "train.batch_size=8")
    assert "train.tokens_per_step or expert.rows_per_step" in fault
    [fault] = faults_of(tmp_path, {"--per-device-train-batch-size": 8})
    assert "train.tokens_per_step" in fault


@pytest.mark.parametrize(
    ("tree", "answer"),
    [
        ({"learning_rate": 1e-5}, "learning_rate: unknown key; write it as train.learning_rate"),
        ({"expert": {"learning_rate": 1e-5}}, "expert.learning_rate: unknown key; write it as train.learning_rate"),
        ({"train": {"max_tokens": 9}}, "train.max_tokens: unknown key; write it as data.max_tokens"),
        ({"seed": 3}, "seed: unknown key; write it as expert.split_seed or train.seed"),
        ({"model": "Qwen/Qwen3-1.7B"}, 'model: is "Qwen/Qwen3-1.7B"; write model: {name: "Qwen/Qwen3-1.7B"}'),
        ({"train": {"learning_rat": 1}}, "train.learning_rat: unknown key; did you mean learning_rate?"),
    ],
)  # fmt: skip
def test_our_own_words_at_another_place_are_told_theirs(tmp_path, tree, answer):
    assert [fault.partition(": ")[2] for fault in faults_of(tmp_path, tree)] == [answer]


@pytest.mark.parametrize("name", ["my rows.jsonl", "rows.csv", "rows.parquet", "rows.json", "rows.jsonl.gz"])
def test_rows_in_the_place_of_a_recipe_are_recognised(tmp_path, name):
    file = tmp_path / name
    file.write_text(json.dumps({"question": "q", "answer": "a"}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"is a file of rows, but a recipe is expected; .* thinktune init") as caught:
        load_recipe(file)
    assert caught.value.faults[0].endswith(f"thinktune init '{file}'" if " " in name else f"thinktune init {file}")


def test_a_recipe_written_as_json_is_no_rows(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"model": {"name": "m"}, "data": {"name": "r"}}), encoding="utf-8")
    assert load_recipe(file).model.name == "m"
