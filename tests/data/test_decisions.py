"""Decisions about single rows: they count for exactly the row that was shown, and say so; the rows stay as they are."""

import json
from pathlib import Path

import pytest
from support.prepared_rows import rows_of, tokens_of, with_rows

from thinktune.data.doubts import find_doubts
from thinktune.data.faults.decisions import (
    RowDecision,
    decisions_file,
    digest_row,
    format_decisions,
    read_decisions,
)
from thinktune.data.pipeline import prepare, prepare_with_faults
from thinktune.data.summary import summary_lines
from thinktune.errors import UserError

HANDED = "The provided answer is 2, so I say 2."


def faulty_rows():
    rows = rows_of(8)
    rows[2]["think"] = HANDED
    rows[4]["answer"] = "It is 4, because"
    rows[5]["answer"] = "First line.\\nSecond line."
    rows[6]["answer"] = "7"
    return rows


def decide(recipe, policies, rows=None):
    """Write decisions, by the number of the row, for the rows as they are."""
    file = Path(recipe.data.name)
    rows = rows or [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    decisions = {f"{file.name}:{n + 1}": RowDecision(digest_row(rows[n]), chosen) for n, chosen in policies.items()}
    decisions_file(file).write_text(json.dumps(format_decisions(decisions, file, file.name)), encoding="utf-8")


def trained(prepared):
    return {example.source.rpartition(":")[2]: example for example in prepared.train.examples()}


def test_a_decision_counts_for_its_row_alone_and_leaves_the_file_alone(tree, tokenizer):
    rows = faulty_rows()
    rows[3]["think"] = HANDED
    recipe = with_rows(tree, rows, validation=0.0)
    file = Path(recipe.data.name)
    raw, before = file.read_bytes(), prepare(recipe, tokenizer)
    assert not {"3", "4"} & trained(before).keys()
    decide(recipe, {2: {"handed_answer": "keep"}, 5: {"literal_newline": "keep"}, 6: {"bare_number": "drop"}})
    after = prepare(recipe, tokenizer)
    assert trained(after).keys() == trained(before).keys() - {"7"} | {"3"}
    assert trained(after)["6"].turns[-1].content == "First line.\\nSecond line."
    assert after.fingerprint != before.fingerprint
    assert any("rows.jsonl.doubts.json: 3 rows are decided" in line for line in summary_lines(after.summary))
    assert file.read_bytes() == raw
    decisions_file(file).unlink()
    assert tokens_of(prepare(recipe, tokenizer)) == tokens_of(before)


def test_a_row_that_changed_moved_or_went_is_never_decided_about(tree, tokenizer):
    recipe = with_rows(tree, faulty_rows(), validation=0.0)
    decide(recipe, {2: {"handed_answer": "keep"}, 6: {"bare_number": "drop"}, 7: {"fragment": "drop"}})
    rows = faulty_rows()
    rows[2]["think"] += " Another one."
    rows[6], rows[5] = rows[5], rows[6]
    recipe = with_rows(tree, rows[:7], validation=0.0)
    prepared = prepare(recipe, tokenizer)
    assert "3" not in trained(prepared)
    assert {"6", "7"} <= trained(prepared).keys()
    [facts] = prepared.summary["decisions"]
    assert facts == {
        "file": "rows.jsonl.doubts.json",
        "applied": 0,
        "changed": ["rows.jsonl:3", "rows.jsonl:7"],
        "gone": ["rows.jsonl:8"],
    }
    assert any("3 rows have changed or are gone" in line for line in summary_lines(prepared.summary))


def test_the_spelling_of_a_row_may_change(tree, tokenizer):
    rows = faulty_rows()
    recipe = with_rows(tree, rows, validation=0.0)
    decide(recipe, {2: {"handed_answer": "keep"}})
    spelled = "\n".join(json.dumps(dict(reversed(row.items())), indent=None, separators=(",", ":")) for row in rows)
    Path(recipe.data.name).write_text(spelled, encoding="utf-8")
    assert "3" in trained(prepare(recipe, tokenizer))


def test_near_duplicates_can_be_left_out_one_by_one(tree, tokenizer):
    rows = rows_of(3)
    for number, row in enumerate(rows):
        row["question"] = f"What does the human heart pump through the whole body, day after day, number {number}?"
    recipe = with_rows(tree, rows, validation=0.0)
    assert len(prepare(recipe, tokenizer).train) == 3
    decide(recipe, {1: {"near_duplicate": "drop"}})
    assert trained(prepare(recipe, tokenizer)).keys() == {"1", "3"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a list of decisions in format 1"),
        ('{"format": 9, "decisions": []}', "is not a list of decisions in format 1"),
        ('{"format": 1, "decisions": [{"row": "rows.jsonl:1"}]}', r"decisions\[0\] lacks row, digest or policies"),
        ('{"format": 1, "decisions": [{"row": "other.jsonl:1", "digest": "x", "policies": {"blank": "drop"}}]}', "not a row of rows.jsonl"),
        ('{"format": 1, "decisions": [{"row": "rows.jsonl:1", "digest": "x", "policies": {"blank": "keep"}}]}', "write one of drop"),
        ('{"format": 1, "decisions": [{"row": "rows.jsonl:1", "digest": "x", "policies": {"blank": "stop"}}]}', "write one of drop"),
        ('{"format": 1, "decisions": [{"row": "rows.jsonl:1", "digest": "x", "policies": {"vibes": "drop"}}]}', "is not a fault"),
        ('{"format": 1, "decisions": [{"row": "rows.jsonl:1", "digest": "x", "policies": {}}]}', "no policies"),
    ],
)  # fmt: skip
def test_a_faulty_file_of_decisions_stops_with_a_sentence(tree, tokenizer, text, told):
    recipe = with_rows(tree, rows_of(2), validation=0.0)
    decisions_file(Path(recipe.data.name)).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=told) as caught:
        prepare_with_faults(recipe, tokenizer)
    assert "doubts.json" in str(caught.value)


def test_places_in_a_one_line_list_are_decided_too(tmp_path):
    rows = tmp_path / "rows.json"
    decisions = {
        "rows.json[2]": RowDecision("00", {"fragment": "keep"}),
        "rows.json:3": RowDecision("01", {"blank": "drop"}),
    }
    decisions_file(rows).write_text(json.dumps(format_decisions(decisions, rows, "rows.json")), encoding="utf-8")
    assert read_decisions(rows, "rows.json") == decisions
    assert read_decisions(rows, "a/rows.json").keys() == {"a/rows.json[2]", "a/rows.json:3"}


def test_the_file_of_decisions_is_no_file_of_rows(tree, tokenizer):
    recipe = with_rows(tree, faulty_rows(), validation=0.0)
    decide(recipe, {2: {"handed_answer": "keep"}})
    folder = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"name": str(Path(recipe.data.name).parent / "only")})}
    )
    (Path(recipe.data.name).parent / "only").mkdir()
    for file in (Path(recipe.data.name), decisions_file(Path(recipe.data.name))):
        file.rename(Path(folder.data.name) / file.name)
    prepared = prepare(folder, tokenizer)
    assert [file["path"] for file in prepared.summary["files"]] == ["rows.jsonl"]
    assert "3" in trained(prepared)


def test_doubts_show_every_kind_with_what_each_policy_would_train(tree, tokenizer):
    rows = faulty_rows() + [
        row | {"question": f"{row['question']} {n}", "think": HANDED} for n in range(5) for row in rows_of(8)
    ]
    recipe = with_rows(tree, rows, validation=0.0)
    doubts = find_doubts(recipe, tokenizer, limit=6)
    assert len(doubts.rows) == 6
    assert {row.fault for row in doubts.rows} == {"handed_answer", "fragment", "literal_newline", "bare_number"} & {
        *doubts.counts
    }
    assert doubts.counts["handed_answer"] == 41
    repaired = next(row for row in doubts.rows if row.fault == "literal_newline")
    assert repaired.outcomes["repair"][-1]["content"] == "First line.\nSecond line."
    assert repaired.outcomes["keep"] == repaired.turns
    assert repaired.outcomes["drop"] is None
    again = find_doubts(recipe, tokenizer, limit=6)
    assert again == doubts


def test_what_is_decided_is_not_asked_again(tree, tokenizer):
    recipe = with_rows(tree, faulty_rows(), validation=0.0)
    first = find_doubts(recipe, tokenizer)
    policies = {int(row.row.rpartition(":")[2]) - 1: {row.fault: row.policy} for row in first.rows}
    decide(recipe, policies)
    second = find_doubts(recipe, tokenizer)
    assert not second.rows
    assert len(second.decisions["rows.jsonl"]) == len(policies) > 2
    assert tokens_of(prepare(recipe, tokenizer)) != ([], [])


@pytest.mark.parametrize("form", ["table", "lines", "loose"])
def test_what_reading_was_certain_of_is_no_doubt(tree, tokenizer, form):
    recipe = with_rows(tree, rows_of(3), validation=0.0)
    file, [first, *others] = Path(recipe.data.name), rows_of(3)
    lines = [json.dumps(row, ensure_ascii=False) for row in ({**first, "answer": "心脏泵血。"}, *others)]
    match form:
        case "table":
            file = file.with_suffix(".csv")
            rows = "".join(f"第{n}个问题是什么？,我想一想第{n}个。,第{n}个回答。\n" for n in range(3))
            file.write_bytes(("question,think,answer\n" + rows).encode("gbk"))
        case "lines":
            file.write_bytes("\n".join(lines).encode("gbk"))
        case _:
            file.write_text("\n".join([repr(first), *lines[1:]]), encoding="utf-8")
    fault = "loose_json" if form == "loose" else "encoding"

    def under(policy):
        faults = recipe.data.faults | {fault: policy}
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"name": str(file), "faults": faults})})

    summary = prepare_with_faults(under("repair"), tokenizer).summary
    assert [each["count"] for each in summary["faults"] if each["fault"] == fault] == [1]
    assert fault not in find_doubts(under("repair"), tokenizer).counts
    if form == "loose":
        [doubt] = find_doubts(under("drop"), tokenizer).rows
        assert (doubt.fault, doubt.outcomes["drop"], doubt.outcomes["repair"]) == (fault, None, doubt.turns)
