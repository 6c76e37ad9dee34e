"""`check --fix` follows the remedies that the check names, and writes a recipe beside that is ready, with its reasons."""

import shutil
from pathlib import Path

import pytest
import yaml
from support.prepared_rows import rows_of, write

from thinktune.commands.fix import fix_recipe
from thinktune.config.loading import load_recipe
from thinktune.config.proposals import read_changes
from thinktune.data.pipeline import prepare_with_faults
from thinktune.errors import UserError

PROSE = "A long remark that somebody may have meant to train, or may not have meant to."


def fix(tree, rows, tokenizer, **data):
    """Write rows and a recipe, fix it, and return the new recipe's file, the lines about it, and what it prepares."""
    if rows:
        write(Path(tree["data"]["name"]), rows)
    folder = Path(tree["data"]["name"]).parent
    values = {"name": None, "model": tree["model"], "data": {"name": tree["data"]["name"], "validation": 0.0} | data}
    (folder / "mine.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    file, recipe, lines = fix_recipe(folder / "mine.yaml", load_recipe(folder / "mine.yaml"), lambda _: None)
    assert lines[0].startswith(f"{file}: ")
    written = load_recipe(file)
    assert written.data == recipe.data
    assert written.model == recipe.model
    try:
        return file, lines, prepare_with_faults(written, tokenizer)
    except UserError as error:
        return file, lines, error


@pytest.mark.parametrize(
    ("change", "setting", "value"),
    [
        (lambda row: row | {"remark": PROSE}, "ignore", ("remark",)),
        (lambda row: row | {"remark": PROSE, "comment": PROSE * 2}, "ignore", ("comment", "remark")),
        (lambda row: {"question": row["question"], "answer": row["answer"]}, "faults", {"no_reasoning": "silent"}),
    ],
)
def test_the_written_recipe_is_ready(tree, tokenizer, change, setting, value):
    rows = [change(row) for row in rows_of(6)]
    file, lines, prepared = fix(tree, rows, tokenizer)
    assert not prepared.stop_reasons
    assert len(prepared.train) == 6
    found = getattr(load_recipe(file).data, setting)
    assert found == value if setting == "ignore" else found.items() >= value.items()
    text = file.read_text(encoding="utf-8")
    assert f"data.{setting}" in lines[0]
    place = text.index(next(iter(value)) + (":" if setting == "faults" else ""), text.index("data:"))
    assert "#" in text[text.index("data:") : place]


def test_nothing_is_overwritten_and_what_was_set_stays(tree, tokenizer):
    rows = [row | {"remark": PROSE, "kind": "x y"} for row in rows_of(6)]
    one, _, _ = fix(
        tree, rows, tokenizer, ignore=["kind"], system="Be brief.", max_tokens=512, faults={"fragment": "keep"}
    )
    text = one.read_text(encoding="utf-8")
    two, _, _ = fix(
        tree, rows, tokenizer, ignore=["kind"], system="Be brief.", max_tokens=512, faults={"fragment": "keep"}
    )
    assert (one.name, two.name) == ("mine.fixed.yaml", "mine.fixed-2.yaml")
    assert one.read_text(encoding="utf-8") == text
    data = load_recipe(one).data
    assert (data.ignore, data.system, data.max_tokens, data.faults["fragment"]) == (
        ("kind", "remark"),
        "Be brief.",
        512,
        "keep",
    )


def test_faults_that_were_met_stand_there_with_their_figures(tree, tokenizer):
    rows = rows_of(6)
    rows[1]["answer"] = "First.\\nSecond\x1b[2J # not: a comment\u2028."
    rows[2]["think"] = "The provided answer is 2."
    file, _, prepared = fix(tree, rows, tokenizer)
    text = file.read_text(encoding="utf-8")
    assert "1 dropped, as in rows.jsonl:3" in text
    assert "handed_answer: drop" in text
    assert "# rows are read as columns: question = question" in text
    assert "\x1b" not in text
    assert len(prepared.train) == 5


def test_what_cannot_be_fixed_is_said(tree, tokenizer):
    file, lines, error = fix(tree, [{"a": 1, "b": 2}], tokenizer)
    assert isinstance(error, UserError)
    assert "is not ready yet" in lines[1]
    assert "# Not ready: data.columns" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("sentence", "values"),
    [
        ("data.ignore: column 'x' is full of text; write data.ignore: [x]", [{"data.ignore": ["x"]}]),
        (
            "rows are odd; write data.columns: {question: 'a, b', answer: c} and data.ignore: [d, e] to train these, or data.faults: "
            "{no_reasoning: silent}",
            [{"data.columns": {"question": "a, b", "answer": "c"}, "data.ignore": ["d", "e"]}, {"data.faults": {"no_reasoning": "silent"}}],
        ),
        ("is read as data.columns: {answer: a}; if that is right, write it and data.ignore: ['a b', c]", [{"data.ignore": ["a b", "c"]}]),
        ("it leaves the reasoning out; write model.template: think, which keeps the prompt", [{"model.template": "think"}]),
        ("data.max_tokens: is too small; write data.max_tokens: 4096.", [{"data.max_tokens": 4096}]),
        ("data.name: no row is left; fix the rows", []),
        ("a row says 'write nothing' and data.columns: {", []),
    ],
)  # fmt: skip
def test_changes_are_read_out_of_sentences(sentence, values):
    assert [dict(change.values) for change in read_changes(sentence)] == values


@pytest.mark.real
def test_real_inputs_that_stop_are_ready_after_a_fix_or_say_why(tree, tokenizer, real):
    ready = 0
    for source in sorted((real / "failing").glob("*/rows.jsonl")):
        shutil.copy(source, tree["data"]["name"])
        _, lines, prepared = fix(tree, None, tokenizer)
        stopped = isinstance(prepared, UserError) or bool(prepared.stop_reasons)
        assert stopped == (len(lines) > 1), source
        ready += not stopped
    assert ready >= 10


def test_replay_stays_beside_the_rows_that_are_fixed(tree, tokenizer):
    rows = [row | {"remark": PROSE} for row in rows_of(6)]
    file, _, prepared = fix(tree, rows, tokenizer, replay=0.2)
    assert not prepared.stop_reasons
    recipe = load_recipe(file)
    assert recipe.data.ignore == ("remark",)
    assert recipe.data.replay.share == 0.2
    assert recipe.data.columns.question == "question"
