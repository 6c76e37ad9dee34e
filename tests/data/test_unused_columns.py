"""Every column that is not used is accounted for: its kind, its share of the rows, an example, and what it may be."""

import pytest
from support.prepared_rows import rows_of, with_rows

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.content import ColumnContent, kind_of, texts_in
from thinktune.data.columns.detection import detect_columns
from thinktune.data.columns.unused import UnusedColumns, unused_lines
from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.summary import summary_lines
from thinktune.data.types import RawRow

BASE = {"question": "q?", "think": "t", "answer": "a"}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def account(*rows, ignore=()):
    raw = [RawRow(f"rows.jsonl:{number}", row) for number, row in enumerate(rows, start=1)]
    mapping = detect_columns(raw, ColumnsConfig(), ignore, "rows.jsonl")
    unused = UnusedColumns()
    for row in raw:
        unused.add_row(row, mapping)
    return unused, mapping


def facts_of(*rows, ignore=()):
    unused, mapping = account(*rows, ignore=ignore)
    return {one["column"]: one for one in unused.facts(mapping)}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("发烧三天了", "text"),
        ("two words", "text"),
        ("word", "word"),
        ("12.5", "number"),
        (7, "number"),
        (False, "true or false"),
        ("True", "true or false"),
        ("2024-05-06 10:00:00", "date"),
        ("2024年5月6日", "date"),
        ("https://example.org/a", "link or path"),
        ("img/a.JPG", "image"),
        (["a.png", "b.png"], "image"),
        ({"bytes": PNG, "path": None}, "image"),
        (PNG, "image"),
        ({"path": "a.wav", "sampling_rate": 16000}, "audio"),
        ("clips/one.mp4", "video"),
        ("data:image/png;base64,AAAA", "image"),
        ("文字".encode(), "text as bytes"),
        (b"\xff\xfe\x00\x01", "bytes"),
        ([1, 2, 3], "list of numbers"),
        (["先看。", "再答。"], "list of texts"),
        ([{"role": "user", "content": "q"}], "messages"),
        ([{"name": "find", "parameters": {}}], "tools"),
        ('[{"name": "find", "description": "Finds."}]', "tools"),
        ('{"by": "us"}', "JSON as text"),
        ({"by": "us"}, "object"),
        ("see fig.1 of the book", "text"),
    ],
)
def test_the_kind_of_a_value_is_named(value, kind):
    assert kind_of(value) == kind


def test_texts_are_found_in_lists_objects_and_bytes_but_not_in_media_and_words():
    value = {
        "laws": ["第一条。", {"more": b"two words"}],
        "id": "x1",
        "image": {"bytes": PNG, "path": "a b.png"},
    }
    assert list(texts_in(value)) == ["第一条。", "two words"]
    deep = "here it is"
    for _ in range(100):
        deep = [deep]
    assert list(texts_in(deep)) == []  # bounded, as is the time


def test_every_column_has_its_kind_share_example_and_meaning():
    rows = [
        BASE | {"title": f"标题{number}", "is_correct": number > 1, "score": number, "subset": "law", "note": None}
        for number in range(4)
    ]
    rows[3] |= {"note": "短"}
    found = facts_of(*rows)
    assert list(found) == ["title", "is_correct", "score", "subset", "note"]
    assert found["title"] | {"may_be": ""} == {
        **{"column": "title", "kind": "text", "filled": 1.0, "characters_per_row": 3, "example": "'标题0'"},
        **{"may_be": "", "ignored": False},
    }
    assert found["note"]["filled"] == 0.25
    assert [one["may_be"] for one in found.values()] == [
        "may be part of the question, or its topic",
        "may say whether the row is good; data.columns.label: is_correct leaves out the rows that it calls false",
        "may say whether the row is good",
        "may be a class of rows",
        "",
    ]
    assert found["subset"]["kind"] == "label"


@pytest.mark.parametrize(
    ("more", "kind", "may_be"),
    [
        ({"laws": ["《合同法》第十条：合同应当书面订立。", "第十一条：口头也可以。"]}, "list of texts", "may be material that belongs before the question"),
        ({"passage": {"body": "The whole passage that the question is about."}}, "object", "may be material that belongs before the question"),
        ({"background": b"A long background text as bytes."}, "text as bytes", "may be material that belongs before the question"),
        ({"参考资料": ["甲：二十个字以内的资料文字", "乙：另外一份资料的文字内容"]}, "list of texts", "may be material that belongs before the question"),
        ({"essay": "a text that somebody may have meant to train"}, "text", "may be text that is meant to be trained"),
    ],
)  # fmt: skip
def test_prose_in_lists_objects_and_bytes_stops_like_prose(more, kind, may_be):
    unused, mapping = account(BASE | more, BASE | more)
    [name] = more
    assert unused.refused(mapping) == [name]
    assert (unused.facts_of(name)["kind"], unused.facts_of(name)["may_be"]) == (kind, may_be)


@pytest.mark.parametrize(
    ("name", "stops"), [("context", True), ("材料", True), ("options", True), ("title", False), ("topic", False)]
)
def test_short_text_that_answers_come_from_stops_as_well(name, stops):
    unused, mapping = account(BASE | {name: "病人三十岁，没有其他疾病。"})
    assert bool(unused.refused(mapping)) == stops


def test_a_copy_of_text_that_is_used_is_listed_and_stops_nothing():
    chat = [{"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": "Because it is so, of course.", "thinking": "I think about it for a while."}]  # fmt: skip
    row = {"messages": chat, "user": "Why is it so?", "final": "Because it is so, of course.", "analysis": "I think about it for a while."}  # fmt: skip
    unused, mapping = account(row, row)
    assert unused.refused(mapping) == []
    assert {one["may_be"] for one in unused.facts(mapping)} == {"a copy of text that is used"}
    unused, mapping = account(row, row | {"final": "Another text than that of the reply."})
    assert unused.refused(mapping) == ["final"]


def test_text_under_an_unknown_key_of_a_message_is_no_copy_of_itself():
    chat = [{"role": "user", "content": "Why?", "inner_voice": "a voice that speaks inside the head"}, {"role": "assistant", "content": "So."}]  # fmt: skip
    unused, mapping = account({"messages": chat})
    assert unused.refused(mapping) == ["messages.inner_voice"]


def test_columns_are_listed_in_the_terminal_and_in_the_summary(tree, tokenizer):
    rows = [row | {"title": f"Heading no. {index}", "ok": True} for index, row in enumerate(rows_of(6))]
    summary = prepare_with_faults(with_rows(tree, rows), tokenizer).summary
    assert [one["column"] for one in summary["files"][0]["unused"]] == ["title", "ok"]
    assert summary_lines(summary)[1:3] == [
        "  not used: title (text, in 100 % of the rows, as in 'Heading no. 0'); may be part of the question, or its topic",
        "  not used: ok (true or false, in 100 % of the rows, as in True)",
    ]


def test_ignored_columns_are_told_where_rows_may_need_them():
    tools = [{"name": "find", "description": "Finds a thing.", "parameters": {}}]
    unused, mapping = account(BASE | {"tools": tools, "essay": "long " * 9}, ignore=["tools", "essay"])
    assert {one["column"]: one["ignored"] for one in unused.facts(mapping)} == {"tools": True, "essay": True}
    [line] = unused_lines(unused.facts(mapping))
    assert line.startswith("  ignored: tools (tools, in 100 % of the rows")
    assert line.endswith("a reply that mentions them learns to mention what its prompt lacks")


def test_many_columns_are_cut_to_a_few_lines():
    unused, mapping = account(BASE | {f"c{number}": number for number in range(40)})
    lines = unused_lines(unused.facts(mapping))
    assert len(lines) == 13
    assert lines[-1] == "  not used: 28 more columns; check --json lists them"


def test_chunks_add_up_to_what_one_reading_gives():
    values = ["短", None, "a text of some words", ["x y"], 7, True, "2024-01-02"] * 3
    whole, left, right = ColumnContent(), ColumnContent(), ColumnContent()
    for index, value in enumerate(values):
        if value is not None:
            whole.add(value, "a text of some words")
            (left if index < 9 else right).add(value, "a text of some words")
    left.merge(right)
    assert left == whole
