"""Replay: general rows of our own beside the user's, whole, disjoint from the probe, and a share of the tokens."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.prepared_rows import rows_of, write

from thinktune.config.loading import dump_recipe, load_recipe, validate_recipe
from thinktune.config.recipe_keys import of_replay
from thinktune.data.faults.duplicates import find_near_duplicates, fingerprint, question_text
from thinktune.data.packing import account_for_sources, plan_steps
from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.reading.sources import match_files, refuse_missing_paths
from thinktune.data.summary import summary_lines
from thinktune.errors import UserError
from thinktune.eval.general_probe import probe_tasks
from thinktune.report.trained_rows import count_trained
from thinktune.tokenization import Example, Turn

[BUNDLED] = match_files("bundled:general", None, "data.name")
ROWS = [json.loads(line) for line in BUNDLED.read_text(encoding="utf-8").splitlines()]


def is_chinese(text):
    return bool(re.search("[\u4e00-\u9fff]", text))


@pytest.fixture
def replayed(tree):
    return validate_recipe({**tree, "data": {**tree["data"], "replay": 0.25}}, "here")


def test_the_short_form_is_a_source_of_that_share_and_is_recorded_as_one(replayed, tree, tmp_path):
    own, general = replayed.sources
    assert own.model_copy(update={"replay": None}) == validate_recipe(tree, "here").data
    assert (general.name, general.share, general.validation) == ("bundled:general", 0.25, 0)
    assert general.max_tokens == own.max_tokens
    (tmp_path / "written.yaml").write_text(dump_recipe(replayed))
    assert load_recipe(tmp_path / "written.yaml") == replayed


def test_a_file_of_the_users_is_replayed_and_no_list_is_needed(tree, tokenizer, tmp_path):
    general = write(tmp_path / "mine.jsonl", [{k: row[k] for k in ("question", "answer", "think")} for row in ROWS[:9]])
    replay = {"share": 0.4, "rows": str(general)}
    recipe = validate_recipe({**tree, "data": {**tree["data"], "replay": replay}}, "here")
    prepared = prepare_with_faults(recipe, tokenizer)
    assert not prepared.stop_reasons
    assert [source["name"] for source in prepared.summary["sources"]] == [Path(tree["data"]["name"]).name, "mine.jsonl"]
    assert {example.source.partition(":")[0] for example in prepared.validation.examples()} == {"rows.jsonl"}


def test_a_mistake_beside_replay_is_told_once_and_its_remedy_can_be_written(tree, tokenizer, tmp_path):
    with pytest.raises(UserError) as error:
        validate_recipe({**tree, "data": {**tree["data"], "max_tokens": 0, "replay": 0.1}}, "here")
    assert len(error.value.faults) == 1
    strange = [{"alpha": "x y z", "beta": 3}] * 4
    own, general = write(tmp_path / "own.jsonl", strange), write(tmp_path / "general.jsonl", strange)
    data = {"name": str(own), "replay": {"share": 0.1, "rows": str(general)}}
    with pytest.raises(UserError) as error:
        prepare_with_faults(validate_recipe({**tree, "data": data}, "here"), tokenizer)
    first, second = error.value.faults
    assert first.startswith("data.columns")
    assert second.startswith("data.replay: data.1.columns")
    assert "data.0" not in first + second
    with pytest.raises(UserError, match=r"data\.replay\.rows: 'nowhere\.jsonl' is not a file"):
        refuse_missing_paths(
            validate_recipe(
                {**tree, "data": {"name": str(own), "replay": {"share": 0.1, "rows": "nowhere.jsonl"}}}, "h"
            )
        )


def test_the_key_of_a_mistake_in_replayed_rows_stands_there_once(tree, tokenizer, tmp_path):
    general = write(
        tmp_path / "general.jsonl",
        [{"question": f"Why {n}?", "think": "So it is.", "answer": "So it is."} for n in "abc"],
    )
    data = tree["data"] | {"replay": {"share": 0.1, "rows": str(general)}}
    prepared = prepare_with_faults(validate_recipe({**tree, "data": data}, "here"), tokenizer)
    [told] = [stop for stop in prepared.stop_reasons if "no row is left" in stop]
    assert told.startswith("data.replay.rows: no row is left to train on"), told


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("data.name: is empty; write data.columns", "data.replay.rows: is empty; write data.1.columns (data.1 is the"),
        ("data.answers: is own; raise data.max_tokens", "data.replay.answers: is own; raise data.max_tokens"),
        ("data.max_tokens: is 9", "data.replay: data.max_tokens: is 9"),
        ("data.share: is 9", "data.replay.share: is 9"),
        ("expert.think_tags: are", "data.replay: data.1.think_tags: are (data.1 is the replay once"),
        ("rows.jsonl:1: is blank", "data.replay: rows.jsonl:1: is blank"),
    ],
)
def test_a_sentence_about_replayed_rows_names_keys_that_the_recipe_can_have(sentence, told):
    assert of_replay(sentence).startswith(told)


def test_sources_of_a_recipe_without_a_list_are_named_by_its_keys(tree, tokenizer, tmp_path):
    rows = rows_of(4)
    own, general = write(tmp_path / "rows.jsonl", rows), write(tmp_path / "general.jsonl", rows_of(6))
    data = {"name": str(own), "validation": 0.0, "replay": {"share": 0.1, "rows": str(general)}}
    prepared = prepare_with_faults(validate_recipe({**tree, "data": data}, "here"), tokenizer)
    text = "\n".join(summary_lines(prepared.summary))
    assert "  data, rows.jsonl: 4 rows to train on" in text, text
    assert "  data.replay, general.jsonl: " in text
    told = [example for fault in prepared.summary["sources"][1]["faults"] for example in fault["examples"]]
    assert any(example.endswith("is the same as rows.jsonl:1 (data)") for example in told)
    assert "data.0" not in text + "".join(told)


def test_rows_that_a_share_leaves_over_are_not_counted_as_trained(replayed, tokenizer):
    prepared = prepare_with_faults(replayed, tokenizer)
    steps = plan_steps(replayed, prepared)
    facts = prepared.summary | account_for_sources(replayed, prepared, steps)
    dealt = {row for step in steps for row in step.rows}
    assert facts["trained_rows"] == len(dealt) < facts["train_rows"]
    assert facts["trained_tokens"] == sum(int(prepared.train.lengths[row]) for row in dealt)
    assert [each["trained_rows"] for each in facts["sources"]] == np.bincount(
        prepared.train.source_numbers_at(sorted(dealt)), minlength=2
    ).tolist()
    pool = facts["train_rows"]
    count_trained(facts)
    assert (facts["train_rows"], facts["left_over_rows"]) == (len(dealt), pool - len(dealt))
    assert facts["sources"][1]["train_rows"] == len(dealt) - facts["sources"][0]["train_rows"]


@pytest.mark.parametrize("share", [0, 1, -0.1, True, "much"])
def test_what_is_no_share_is_refused_by_name(tree, share):
    with pytest.raises(UserError, match=r"data\.replay: is .*; write a share between 0 and 1"):
        validate_recipe({**tree, "data": {**tree["data"], "replay": share}}, "here")


def test_every_bundled_row_is_trained_without_a_fault(tree, tokenizer):
    data = {"name": "bundled:general", "max_tokens": 4096, "validation": 0}
    prepared = prepare_with_faults(validate_recipe({**tree, "data": data}, "here"), tokenizer)
    assert not prepared.stop_reasons
    assert [fault["examples"] for fault in prepared.summary["faults"]] == []
    assert len(prepared.train) == len(ROWS) >= 200


def test_both_languages_have_about_half_of_the_bundled_rows():
    chinese = sum(is_chinese(row["question"] + row["answer"]) for row in ROWS)
    assert abs(chinese / len(ROWS) - 0.5) < 0.06


def test_arithmetic_and_programs_of_the_bundled_rows_are_right():
    sums = programs = 0
    for row in ROWS:
        for left, right in re.findall(r"([\d.]+ [×÷+−] [\d.]+) = ([\d.]+\d|\d)", row["think"]):
            said = left.translate(str.maketrans({"×": "*", "÷": "/", "−": "-"}))
            first, sign, second = said.split()
            numbers = float(first), float(second.rstrip("."))
            result = {"*": np.multiply, "/": np.divide, "+": np.add, "-": np.subtract}[sign](*numbers)
            assert result == pytest.approx(float(right)), row
            sums += 1
        if found := re.search(r"```python\n(.*?)\n```", row["question"], re.DOTALL):
            ast.parse(found[1])
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(found[1], {})
            assert f"`{printed.getvalue().strip()}`" in row["answer"]
            programs += 1
    assert sums > 50
    assert programs == 16


def test_bundled_rows_and_the_probe_have_no_question_in_common():
    asked = [example_of(row["question"]) for row in ROWS]
    probe = [Example(task.turns, "probe") for task in probe_tasks(None)]
    everything = [*asked, *probe]
    prints = [fingerprint(example) for example in everything]
    hashes = np.array([found.question_hash for found in prints], np.uint64)
    assert not set(hashes[: len(asked)].tolist()) & set(hashes[len(asked) :].tolist())
    groups = np.array([0] * len(asked) + [1] * len(probe))
    near = find_near_duplicates(
        np.array([found.minhash for found in prints]), hashes, lambda row: question_text(everything[row]), groups
    )
    assert list(near) == []


def example_of(question):
    return Example((Turn("user", question),), "bundled")


def test_replayed_rows_have_their_share_of_the_steps_and_none_is_held_out(replayed, tree, tokenizer):
    prepared = prepare_with_faults(replayed, tokenizer)
    alone = prepare_with_faults(validate_recipe(tree, "here"), tokenizer)
    assert [each.turns for each in prepared.validation.examples()] == [
        each.turns for each in alone.validation.examples()
    ]
    steps = plan_steps(replayed, prepared)
    own, general = account_for_sources(replayed, prepared, steps)["sources"]
    assert own["passes"] == replayed.train.epochs
    longest = int(prepared.train.lengths.max())
    assert general["dealt_tokens"] == pytest.approx(own["dealt_tokens"] / 3, abs=longest / 2 + 1)
