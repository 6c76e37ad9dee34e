"""Numbers, truth values and lists of one where text belongs: read as their text, and told."""

from datetime import date
from decimal import Decimal

import pytest
from support.prepared_rows import with_rows

from thinktune.data.columns.mapping import ColumnMapping
from thinktune.data.columns.values import as_text, spell_values
from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.types import RawRow

PAIR = ColumnMapping(question="question", reasoning="think", answer="answer")
TALK = ColumnMapping(messages="messages")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((7, "7"), (-3, "-3"), (2.5, "2.5"), (10**30, str(10**30)), (0, "0"), (True, "true"), (False, "false")),
        *((["只有一条"], "只有一条"), ([7], "7"), ([[3]], "3"), (Decimal("1.50"), "1.50"), (date(2024, 5, 1), "2024-05-01")),
    ],
)  # fmt: skip
def test_what_has_one_spelling_is_read_as_text(value, text):
    row, finding = spell_values(
        RawRow("rows.jsonl:2", {"question": "几？", "think": "数一数。", "answer": value}), PAIR
    )
    assert row.columns == {"question": "几？", "think": "数一数。", "answer": text}
    assert (finding.fault, finding.action) == ("not_text", "repaired")
    assert finding.sentence.startswith("rows.jsonl:2: answer: is ")
    assert finding.sentence.endswith(f"not text; it is read as {text!r}")


@pytest.mark.parametrize(
    "value", ["text", "", None, [], ["a", "b"], {"a": 1}, float("nan"), float("inf"), [None], b"x"]
)
def test_what_is_text_or_has_no_sure_spelling_is_left_alone(value):
    row = RawRow("rows.jsonl:2", {"question": "几？", "think": "数一数。", "answer": value})
    assert spell_values(row, PAIR) == (row, None)
    assert as_text(value) is None


def test_reasoning_that_is_true_is_a_mode_and_no_text():
    row = RawRow("rows.jsonl:2", {"question": True, "think": False, "answer": "好。"})
    assert spell_values(row, PAIR) == (row, None)


def test_a_message_may_be_a_number_and_its_weight_stays_one():
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": 2, "weight": 1}]
    row, finding = spell_values(RawRow("rows.jsonl:2", {"messages": messages}), TALK)
    assert row.columns["messages"][1] == {"role": "assistant", "content": "2", "weight": 1}
    assert finding.sentence == "rows.jsonl:2: messages[1].content: is 2, not text; it is read as '2'"
    assert messages[1]["content"] == 2  # the row as it was read is not changed


def test_a_question_and_an_answer_that_are_lists_of_one_are_texts(tree, tokenizer):
    wrapped = [{"question": [f"第{n}题？"], "think": f"看第{n}题。", "answer": [f"选第{n}个。"]} for n in range(4)]
    prepared = prepare_with_faults(with_rows(tree, wrapped, validation=0.0), tokenizer)
    assert [example.turns[0].content for example in prepared.train.examples()] == [f"第{n}题？" for n in range(4)]


@pytest.mark.parametrize(("policy", "rows"), [("repair", 4), ("drop", 0)])
def test_number_answers_are_trained_or_dropped_by_the_policy(tree, tokenizer, policy, rows):
    sums = [{"question": f"{n} 加 {n}？", "think": f"{n}+{n}={2 * n}。", "answer": 2 * n} for n in range(4)]
    prepared = prepare_with_faults(with_rows(tree, sums, faults={"not_text": policy}, validation=0.0), tokenizer)
    assert prepared.summary["train_rows"] == rows
    counts = {fault["fault"]: fault["actions"] for fault in prepared.summary["faults"]}
    assert counts["not_text"] == {"repaired" if policy == "repair" else "dropped": 4}
    assert [example.turns[1].content for example in prepared.train.examples()] == ["0", "2", "4", "6"][:rows]
