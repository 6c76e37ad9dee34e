"""YAML with two meanings: refused in one sentence with its line, in recipes, overrides and task layouts alike."""

import pytest

from thinktune.config.loading import dump_recipe, load_recipe, validate_recipe
from thinktune.errors import UserError
from thinktune.eval.task_files import read_tasks

HEAD = "model: {name: m}\ndata: {name: d}\n"  # two lines


def refusal(folder, text, *overrides):
    file = folder / "mine.yaml"
    file.write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_recipe(file, overrides)
    return [fault.replace(f"{folder}/", "") for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {epochs: 1}\nplan: {}\ntrain: {weight_decay: 0.1}\n", "mine.yaml:5: train: appears twice, first in line 3"),
        ("train:\n  epochs: 3\n  epochs: 3\n", "mine.yaml:5: train.epochs: appears twice, first in line 4"),
        ("train:\n  epochs: 3\n  'epochs': 4\n", "mine.yaml:5: train.epochs: appears twice, first in line 4"),
        ("data: {name: e}\n", "mine.yaml:3: data: appears twice, first in line 2"),
        ("train: {learning_rate: .inf}\n", "mine.yaml:3: train.learning_rate: .inf is not a finite number"),
        ("train: {learning_rate: inf}\n", 'mine.yaml:3: train.learning_rate: is "inf"; write a number'),
        ("train:\n  weight_decay: -.INF\n", "mine.yaml:4: train.weight_decay: -.INF is not a finite number"),
        ("train:\n  weight_decay: .nan\n", "mine.yaml:4: train.weight_decay: .nan is not a finite number"),
        ("train:\n  weight_decay: 1e400\n", "mine.yaml:4: train.weight_decay: 1e400 is too large"),
        ("train:\n  weight_decay: 1e-400\n", "mine.yaml:4: train.weight_decay: 1e-400 is too small"),
        ("train: {epochs: true}\n", "mine.yaml:3: train.epochs: is true; write a number"),
        ("train: {betas: [0.9, true]}\n", "mine.yaml:3: expert.betas: is true; write a number"),
        ("train: {epochs: yes}\n", 'mine.yaml:3: train.epochs: is "yes"; write a whole number'),
        ("train: {epochs: on}\n", 'mine.yaml:3: train.epochs: is "on"; write a whole number'),
        ("train: {epochs: 1:30}\n", 'mine.yaml:3: train.epochs: is "1:30"; write a whole number'),
        ("train: {epochs: 010}\n", "mine.yaml:3: train.epochs: 010 is not a decimal number"),
        ("train: {epochs: 09}\n", "mine.yaml:3: train.epochs: 09 is not a decimal number"),
        ("train: {epochs: 0o17}\n", "mine.yaml:3: train.epochs: 0o17 is not a decimal number"),
        ("train: {epochs: 0x1f}\n", "mine.yaml:3: train.epochs: 0x1f is not a decimal number"),
        ("train: {epochs: 2026-01-01}\n", 'mine.yaml:3: train.epochs: is "2026-01-01"; write a whole number'),
        ("train: {seed: 99999999999999999999999}\n", "mine.yaml:3: train.seed: "),
        ("expert: {split_seed: -1}\n", "mine.yaml:3: expert.split_seed: "),
        ("name: 12\n", "mine.yaml:3: name: is 12, not text; put it in quotes"),
        ("name: &a hello\n", "mine.yaml:3: name: &a is an anchor"),
        ("name: *a\n", "mine.yaml:3: name: *a is an alias"),
        ("train:\n  <<: {epochs: 3}\n", "mine.yaml:4: train.<<: is a merge key"),
        ("name: !!str 12\n", "mine.yaml:3: name: !!str is a tag"),
        ("name: !!python/name:os.system x\n", "mine.yaml:3: name: !!python/name:os.system is a tag"),
        ("name: " + 5000 * "[" + 5000 * "]" + "\n", "mine.yaml:3: is not YAML (more than 20 sections"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(500)), "mine.yaml:24: is not YAML (more than 20 sections"),
        ("---\nname: b\n", "mine.yaml:3: is not YAML (a second document begins)"),
        ("train:\n\tepochs: 1\n", "mine.yaml:4: is not YAML ("),
        ("? [a, b]\n: c\n", "mine.yaml:3: has a key that is not text"),
        ("runs_folder: ~nobody-of-this-name/x\n", "mine.yaml:3: runs_folder: is '~nobody-of-this-name/x'"),
        ("train: 5\n", "mine.yaml:3: train: is 5; write its settings below it"),
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused_with_its_line(tmp_path, text, told):
    faults = refusal(tmp_path, text)
    assert [fault for fault in faults if fault.startswith(told)], faults


def test_all_of_them_are_told_at_once_beside_the_schemas_own(tmp_path):
    text = "train:\n  epochs: 010\n  weight_decay: .inf\n  schedule: wavy\n  epochs: 3\nnam: x\n"
    lines = [fault.split(": ")[0] for fault in refusal(tmp_path, text, "train.clip_norm=.nan")]
    assert sorted(lines) == ["'train.clip_norm=.nan'", *(f"mine.yaml:{line}" for line in (4, 5, 6, 7, 8))]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.epochs=true"], "'train.epochs=true': train.epochs: is true"),
        (["train.learning_rate=.inf"], "'train.learning_rate=.inf': .inf is not a finite number"),
        (["train.epochs=1:30"], "'train.epochs=1:30': train.epochs: is \"1:30\""),
        (["train.seed=010"], "'train.seed=010': 010 is not a decimal number"),
        (["train={epochs: 1, epochs: 2}"], "'train={epochs: 1, epochs: 2}': epochs: appears twice"),
        (["train.epochs=1", "train.epochs=2"], "'train.epochs=2': sets the same key as 'train.epochs=1'"),
        (["train.log_every_steps=1", "expert.log_every_steps=2"], "'expert.log_every_steps=2': sets the same key as"),
        (["train.epochs=1", "train={}"], "'train={}': sets the same key as 'train.epochs=1'"),
    ],
)
def test_overrides_follow_the_same_rules(tmp_path, overrides, told):
    faults = refusal(tmp_path, "", *overrides)
    assert [fault for fault in faults if fault.startswith(told)], faults


def test_words_of_old_yaml_are_texts_and_the_field_decides_what_they_mean(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: no\nmodel: {name: 2026-01-01, trust_remote_code: yes}\ndata: {name: 1:30}\ntrack: {swanlab: off}\n"
        "train: {tokens_per_step: 16_384, learning_rate: 2e-5}\n"
    )
    made = load_recipe(file)
    assert (made.name, made.model.name, made.data.name) == ("no", "2026-01-01", "1:30")
    assert made.model.trust_remote_code is True
    assert made.track.swanlab == "off"
    assert (made.train.tokens_per_step, made.train.learning_rate) == (16_384, 2e-5)


@pytest.mark.parametrize(
    "text",
    ["010", "09", "0o17", ".inf", "1e400", "yes", "1:30", "true", "null", "~", "<<", "*a", "&a b", "!x", "1_000"],
)
def test_a_text_that_looks_like_something_else_survives_being_written_out(tmp_path, text):
    first = validate_recipe({"name": text, "model": {"name": "m"}, "data": {"name": "d", "system": text}}, "here")
    (tmp_path / "again.yaml").write_text(dump_recipe(first), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == first


def test_home_is_expanded_wherever_a_path_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(HEAD)
    made = load_recipe("~" / (tmp_path / "mine.yaml").relative_to(tmp_path), ["runs_folder=~/runs"])
    assert made.runs_folder == tmp_path / "runs"


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        (
            "columns: {question: q}\ncolumns: {question: p}\n",
            r"exam\.jsonl\.yaml:2: columns: appears twice, first in line 1",
        ),
        ("columns: {question: q, answer: 010}\n", r"exam\.jsonl\.yaml:1: columns\.answer: 010 is not a decimal number"),
    ],
)
def test_a_task_layout_follows_the_same_rules(tmp_path, layout, told):
    (tmp_path / "exam.jsonl").write_text('{"q": "1+1?", "a": "2"}\n')
    (tmp_path / "exam.jsonl.yaml").write_text(layout)
    with pytest.raises(UserError, match=told):
        read_tasks(tmp_path / "exam.jsonl")


def test_a_key_that_stands_twice_in_a_row_of_tasks_is_refused(tmp_path):
    (tmp_path / "exam.jsonl").write_text('{"question": "1+1?", "answer": "2", "answer": "3"}\n')
    with pytest.raises(UserError, match=r"exam\.jsonl:1: .*answer"):
        read_tasks(tmp_path / "exam.jsonl")
