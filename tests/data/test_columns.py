"""Columns are detected, described in one line, and never silently guessed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.detection import detect_columns
from thinktune.data.columns.mapping import UncheckedExample, to_example
from thinktune.data.columns.unused import UnusedColumns, unused_lines
from thinktune.data.reading.readers import read_rows
from thinktune.data.types import Finding, RawRow
from thinktune.errors import UserError

LONG = "a long sentence that was written to be read"
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def look(*rows, columns=None, ignore=()):
    numbered = [RawRow(f"rows.jsonl:{number}", row) for number, row in enumerate(rows, start=1)]
    return detect_columns(numbered, ColumnsConfig(**(columns or {})), ignore, "rows.jsonl")


def refused(*rows, columns=None, ignore=(), sample=None):
    """Return the unused columns of the rows that must not be left out untold."""
    layout = look(*(sample or rows), columns=columns, ignore=ignore)
    unused = UnusedColumns()
    for row in rows:
        unused.add_row(RawRow("rows.jsonl:1", row), layout)
    return unused.refused(layout)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Question": "q", "Complex_CoT": "t", "Response": "a"}, "columns: question = Question, reasoning = Complex_CoT, answer = Response"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca: question = instruction + input, answer = output (reasoning inside think tags)"),
        ({"instruction": "q", "output": "a", "system": None, "history": []}, "alpaca: question = instruction, answer = output (reasoning inside think tags), system = system, history = history"),
        ({"conversations": [{"from": "human", "value": "q"}]}, "messages: conversations (from / value)"),
        ({"conversation": [{"human": "q", "assistant": "a"}], "system": "s"}, "messages: conversation (human / assistant), system = system"),
        ({"Messages": CHAT, "keypoint": "k"}, "messages: Messages (role / content), keypoint = keypoint"),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "messages: prompt + completion (role / content)"),
        ({"问题": "q", "思维链": "t", "回答": "a"}, "columns: question = 问题, reasoning = 思维链, answer = 回答"),
        ({"指令": "q", "输入": "i", "输出": "a"}, "alpaca: question = 指令 + 输入, answer = 输出 (reasoning inside think tags)"),
        ({"input": "q", "output": "a", "user": 7}, "columns: question = input, answer = output (reasoning inside think tags)"),
        ({"question": "q", "answer": "a", "thinking": True, "think": "t"}, "columns: question = question, reasoning = think, answer = answer, mode = thinking"),
        ({"prompt": "q", "conversation": "not a list", "completion": "a"}, "columns: question = prompt, answer = completion (reasoning inside think tags)"),
    ],
)  # fmt: skip
def test_a_mapping_is_detected_and_described_in_one_line(row, message):
    assert look(row).describe() == message


def test_the_first_of_several_spellings_is_taken_and_the_recipe_comes_before_it():
    row = {"instruction": "i", "question": "q", "cot": "c", "think": "t", "solution": "s", "answer": "a"}
    assert look(row).as_recipe_value == "{question: question, reasoning: think, answer: answer}"
    given = {"question": "instruction", "reasoning": "cot"}
    assert look(row, columns=given).as_recipe_value == "{question: instruction, reasoning: cot, answer: answer}"
    assert (
        look(row, ignore=["question", "think", "answer"]).as_recipe_value
        == "{question: instruction, reasoning: cot, answer: solution}"
    )
    assert (
        look({"messages": CHAT, "a b": "q", "answer": "a"}, columns={"question": "a b"}).as_recipe_value
        == "{question: a b, answer: answer}"
    )


def test_an_input_joins_an_instruction_alone_and_only_unless_ignored():
    row = {"instruction": "q", "input": "i", "output": "a", "question": "p"}
    assert look(row).input is None
    assert look(row, columns={"question": "instruction"}).input == "input"
    assert look(row, columns={"question": "instruction"}, ignore=["input"]).input is None


def test_columns_of_later_sample_rows_count():
    assert look({"question": "q", "answer": "a"}, {"question": "q", "think": "t", "answer": "a"}).reasoning == "think"


@pytest.mark.parametrize(
    ("row", "columns", "ignore", "message"),
    [
        ({"a": 1, "b": 2, "c": 3}, {}, [], ["data.columns: rows.jsonl has the columns a, b, c and none is recognized as the question or the answer; write data.columns: {question: …, answer: …} with the names of yours"]),
        ({"text": "x", "think": "t", "answer": "a"}, {}, [], ["data.columns: rows.jsonl has the columns text, think, answer and none is recognized as the question; write data.columns: {question: …, reasoning: think, answer: answer} with the names of yours"]),
        ({"prompt": "q", "answer": "a"}, {"question": "promt", "answer": "antwort"}, [], [
            "data.columns.question: no row of rows.jsonl has a column 'promt'; its columns are prompt, answer",
            "data.columns.answer: no row of rows.jsonl has a column 'antwort'; its columns are prompt, answer",
        ]),
        ({"q": "q", "answer": "a"}, {"question": "q"}, ["q"], ["data.columns.question: is 'q', which is also in data.ignore; remove it from one of them"]),
        ({"q": "q"}, {"question": "q", "answer": "q"}, [], ["data.columns: {question: q, answer: q} names a column twice; a column can be only one part"]),
        ({"m": CHAT, "q": "q"}, {"messages": "m", "question": "q"}, [], ["data.columns: messages holds whole conversations; remove question, or messages"]),
    ],
)  # fmt: skip
def test_what_is_not_clear_stops_with_the_mapping_to_write(row, columns, ignore, message):
    with pytest.raises(UserError) as caught:
        look(row, columns=columns, ignore=ignore)
    assert caught.value.faults == message


def test_a_file_without_a_readable_row_says_why():
    broken = RawRow("rows.jsonl:1", None, (Finding("unreadable", "rows.jsonl:1: is not valid JSON"),))
    gbk = RawRow("rows.jsonl:1", None, (Finding("encoding", "rows.jsonl:1: is GBK, not UTF-8"),))
    for rows, message in (
        ([RawRow("rows.jsonl:1", {})], r"no row can be read \(all are empty\); fix the file"),
        ([broken], r"\(rows.jsonl:1: is not valid JSON\); fix the file$"),
        ([gbk], r"fix the file, or write data.faults: {encoding: repair}"),
    ):
        with pytest.raises(UserError, match=message):
            detect_columns(rows, ColumnsConfig(), (), "rows.jsonl")


def test_an_unused_column_full_of_text_stops_the_run():
    row = {"instruction": LONG, "question": "q", "think": "t", "answer": "a", "notes": LONG}
    assert refused(row, row) == ["instruction", "notes"]
    assert refused(row, ignore=["notes"]) == ["instruction"]
    assert refused(row, ignore=["instruction", "notes"]) == []


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"reasoning": "t", "cot": "u"}, ["cot"]),
        ({"Solution": "x"}, ["Solution"]),
        ({"input": "i"}, ["input"]),
        ({"messages": "x"}, ["messages"]),
        ({"tools": [{"name": "f"}]}, ["tools"]),
        ({"id": "x1", "score": 7, "ok": True, "metadata": {"by": "us"}, "tags": ["a", "b"]}, []),
        ({"metadata": {"by": {"them": [LONG]}}, "tags": [LONG], "raw": LONG.encode()}, ["metadata", "raw", "tags"]),
        ({"steps": ["先看体温有没有升高。", "再看呼吸是否困难。", "最后给出建议。"]}, ["steps"]),
        ({"solution": " ", "cot": None, "tools": [], "query": 7}, []),
        ({"notes": "x " * 10}, []),
        ({"notes": "x " * 10 + "y"}, ["notes"]),
        ({"notes": "心" * 21}, ["notes"]),
        ({"uuid": "0" * 36, "url": "https://example.org/" + "a" * 30}, []),
        ({"reasoning": "t", "cot": "one_word"}, ["cot"]),
    ],
)
def test_known_names_and_prose_are_never_left_out_silently(more, names):
    assert refused({"question": "q", "answer": "a"} | more) == names


def test_one_long_text_among_many_blanks_is_seen():
    rows = [{"question": "q", "answer": "a", "notes": ""}] * 99 + [{"question": "q", "answer": "a", "notes": LONG}]
    assert refused(*rows) == ["notes"]


def test_a_known_column_that_comes_after_the_sample_is_not_lost():
    row = {"question": "q", "answer": "a"}
    assert refused(row, row | {"think": "t"}, sample=[row]) == ["think"]


def test_a_conversation_wins_over_columns_which_stop_the_run():
    assert refused({"prompt": "q?", "messages": CHAT, "answer": "a?"}) == ["answer", "prompt"]
    assert refused({"prompt": CHAT[:1], "completion": CHAT[1:], "history": [["q", "a"]]}) == ["history"]


def test_text_under_an_unknown_key_of_a_message_stops_the_run():
    messages = [
        CHAT[0],
        CHAT[1] | {"content": LONG, "Reasoning-Content": LONG, "inner_voice": LONG[::-1], "id": "m1", "name": None},
    ]
    assert refused({"messages": messages}) == ["messages.inner_voice"]
    assert refused({"messages": messages}, ignore=["messages.inner_voice"]) == []
    assert refused({"prompt": messages[1:], "completion": CHAT}) == ["prompt.inner_voice"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["user", "gpt", "<think>t</think>a", "\ud83d"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["role", "from", "content", "value", "type", "text", "reasoning", "weight", "human", "assistant", "tool_calls", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
names = st.sampled_from(["messages", "conversation", "prompt", "completion", "instruction", "input", "output", "history", "think", "cot", "system", "keypoint", "tools", "x", "\ud83d"])  # fmt: skip
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]) | json_values, "content": st.text() | json_values},
        optional={"reasoning": json_values, "loss_weight": st.sampled_from([0, 1]) | json_values, "x": json_values},
    ),
    max_size=4,
)
chats = st.just(CHAT) | messages.map(lambda found: [*CHAT, *found])
values = st.text() | chats | messages | json_values
rows = st.dictionaries(names, values, max_size=6)


@given(st.lists(rows, min_size=1, max_size=3), rows)
@settings(max_examples=200, deadline=None)
def test_any_json_anywhere_gives_an_example_or_a_reason(sample, row):
    try:
        layout = look(*sample)
    except UserError as error:
        assert all(sentence.encode() for sentence in error.faults)
        return
    assert "\n" not in layout.describe()
    unused = UnusedColumns()
    for columns in (*sample, row):
        raw = RawRow("rows.jsonl:7", columns)
        unused.add_row(raw, layout)
        check(to_example(raw, layout))
    assert {*unused.refused(layout)} <= {*unused.contents}
    assert all(line.encode() and "\n" not in line for line in unused_lines(unused.facts(layout)))


def check(found):
    """Assert that an example has turns of text in order, or that a finding has its source and can be printed."""
    if isinstance(found, Finding):
        assert found.sentence.startswith("rows.jsonl:7: ")
        assert found.sentence.encode()
        return
    roles = [turn.role for turn in found.example.turns if turn.role != "system"]
    assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
    assert "assistant" in roles
    assert len(found.example.turns) - len(roles) in (0, 1)
    assert len(found.field_names) == len(found.example.turns)
    for turn, (content, reasoning) in zip(found.example.turns, found.field_names, strict=True):
        assert (turn.content + turn.reasoning).encode() is not None
        assert content
        assert bool(reasoning) == (turn.role == "assistant")


REAL = {  # rows, examples, findings
    "llamafactory_identity.json": (91, 91),
    "llamafactory_reason_tool_use_demo_50.jsonl": (50, 19),
    "llamafactory_v1_sft_demo.jsonl": (500, 500),
    "msswift_alpaca.csv": (3, 3),
    "msswift_alpaca.jsonl": (3, 3),
    "msswift_chatml.jsonl": (3, 3),
    "msswift_conversations.jsonl": (3, 3),
    "msswift_sharegpt.jsonl": (3, 3),
    "oumi_alpaca_format.json": (2, 2),
    "oumi_alpaca_format.jsonl": (2, 2),
    "oumi_oumi_format.jsonl": (2, 2),
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_the_files_of_other_tools_load(real, name):
    found = list(read_rows(real / "formats" / name, name, repair_encoding=False))
    layout = detect_columns(found[:9], ColumnsConfig(), ["tools"], name)
    results = [to_example(row, layout) for row in found]
    assert (len(results), sum(isinstance(result, UncheckedExample) for result in results)) == REAL[name]
    assert {result.sentence.rpartition(": ")[2] for result in results if isinstance(result, Finding)} <= {
        "calls tools, which cannot be trained yet"
    }


@pytest.mark.real
def test_the_medical_rows_stop_with_their_mapping_and_then_load(real):
    file = real / "medical" / "delicate_medical_r1_val.jsonl"
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert refused(*found) == ["instruction"]
    ignore = ["instruction", "metrics"]
    assert refused(*found, ignore=ignore) == []
    layout = look(*found, ignore=ignore)
    results = [to_example(RawRow("x:1", row), layout) for row in found]
    assert (
        sum(isinstance(result, UncheckedExample) and bool(result.example.turns[1].reasoning) for result in results)
        == 241
    )
