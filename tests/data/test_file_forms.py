"""A text file is read by what it is, whatever its ending says; what the ending says wrongly is told once."""

import json

import pytest
from support.row_files import ROWS, lines, read, refusal, table, told, write

ROW, OTHER = {"question": "Why?", "answer": "Since."}, {"question": "为何？", "answer": "因此。"}
BOTH = [ROW, OTHER]
PRETTY = "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in BOTH)
AS_LIST, AS_TABLE = "is a JSON list, not JSON lines", "is a table, not JSON"


def wrapped(value, **settings):
    return json.dumps(value, ensure_ascii=False, **settings)


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.jsonl", wrapped(BOTH, indent=2), "is a JSON list, not JSON lines"),
        ("a.ndjson", wrapped(BOTH), "is a JSON list, not JSON lines"),
        ("a.jsonl", "[\n" + ",\n".join(map(wrapped, BOTH)) + "\n]\n", "is a JSON list, not JSON lines"),
        ("a.jsonl", PRETTY, "holds objects over several lines"),
        ("a.json", PRETTY.replace("}\n{", "},\n{"), "holds objects over several lines"),
        ("a.json", "".join(map(wrapped, BOTH)), "holds objects over several lines"),
        ("a.txt", lines(BOTH), "holds JSON"),
        ("a", wrapped(BOTH), "holds JSON"),
        ("a.csv", lines(BOTH), "is JSON, not a table"),
        ("a.csv", wrapped(BOTH, indent=1), "is JSON, not a table"),
        ("a.tsv", PRETTY, "is JSON, not a table"),
        ("a.json", table(BOTH), "is a table, not JSON"),
        ("a.jsonl", table(BOTH, "\t"), "is a table, not JSON lines"),
        ("a.txt", table(BOTH, ";"), "is a table of text"),
        ("a.parquet", lines(BOTH), "is text, not a Parquet file"),
        ("a.xlsx", table(BOTH), "is text, not an Excel workbook"),
    ],
)
def test_the_content_decides_and_a_wrong_ending_is_told_once(tmp_path, name, text, what):
    rows = read(write(tmp_path, name, text))
    assert [row.columns for row in rows] == BOTH
    assert what in told(rows)[0] + " and was read as that"
    assert rows[0].findings[0].sentence.startswith(f"{name}:1: ")
    assert not rows[1].findings


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", wrapped(BOTH)), ("a.json", lines(BOTH)), ("a.jsonl", lines(BOTH)), ("a.csv", table(ROWS))],
)
def test_of_what_the_ending_says_nothing_is_told(tmp_path, name, text):
    assert not told(read(write(tmp_path, name, text)))


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"version": "1", "data": BOTH}, "are under data"),
        ({"data": {"rows": BOTH, "count": 2}}, "are under data.rows"),
        ({"name": "A set of questions and their answers", "license": None, "examples": BOTH}, "are under examples"),
        ({"question": ["Why?", "为何？"], "answer": ["Since.", "因此。"]}, "of columns"),
        ({"question": {"0": "Why?", "1": "为何？"}, "answer": {"0": "Since.", "1": "因此。"}}, "of columns"),
        ({"columns": ["question", "answer"], "index": [0, 1], "data": [list(row.values()) for row in BOTH]}, "apart"),
        ({"q-1": ROW, "q-2": OTHER}, "by their names"),
        ({"0": ROW, "1": OTHER}, "by their names"),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_rows_inside_of_one_object_are_found(tmp_path, name, value, where, indent):
    rows = read(write(tmp_path, name, wrapped(value, indent=indent)))
    assert [row.columns for row in rows] == BOTH
    assert [row.source for row in rows] == [f"{name}[0]", f"{name}[1]"]
    assert where in told(rows)[0]


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Since."}]},
        {"conversations": [{"from": "human", "value": "Why?"}], "id": 7},
        {"question": "Why?", "answer": "Since.", "references": [{"title": "A"}, {"title": "B"}]},
        {"input": {"text": "Why?"}, "output": {"text": "Since."}},
        {"prompt": [{"role": "user", "content": "Why?"}], "completion": [{"role": "assistant", "content": "Since."}]},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_one_object_that_is_a_row_stays_one(tmp_path, row, indent):
    [one] = read(write(tmp_path, "a.json", wrapped(row, indent=indent)))
    assert one.columns == row
    assert not one.findings


def test_of_several_lists_one_is_chosen_by_its_key(tmp_path):
    file = write(tmp_path, "a.json", wrapped({"train": BOTH, "test": [ROW], "meta": {"by": "us"}}))
    assert refusal(file) == ": is one object with rows under train, test; choose with data.rows: train"
    assert [row.columns for row in read(file, rows_key="test")] == [ROW]
    why = refusal(file, rows_key="dev")
    assert why == ": has no list of rows under 'dev', as data.rows says; rows are under train, test"


def test_a_key_of_rows_where_there_is_none_is_refused(tmp_path):
    for name, text in (("a.jsonl", lines(BOTH)), ("a.json", wrapped(BOTH)), ("b.json", PRETTY)):
        assert "leave data.rows out" in refusal(write(tmp_path, name, text), rows_key="data")


PYTHON = [
    {"question": "It's 1 o'clock?", "ok": True, "n": None, "list": [1, -2.5, "x"]},
    {"question": '"No", 他说', "n": 7},
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "\n".join(map(repr, PYTHON))),
        ("a.json", repr(PYTHON)),
        ("a.jsonl", "[" + ",\n ".join(map(repr, PYTHON)) + ",]"),
        ("a.txt", "".join(f"{row!r},\n" for row in PYTHON)),
        ("a.jsonl", "\n".join(repr(row).replace("True", "true").replace("None", "null") for row in PYTHON)),
    ],
)
def test_python_text_of_plain_values_is_read_and_told_for_each_row(tmp_path, name, text):
    rows = read(write(tmp_path, name, text))
    assert [row.columns for row in rows] == PYTHON
    assert sum("is written as Python does" in what for what in told(rows)) == 2


@pytest.mark.parametrize(
    "line",
    [
        "{'a': print('x')}",
        "{'a': {1, 2}}",
        "{'a': array([1])}",
        "{'a': 1, 'a': 2}",
        "{1: 'a'}",
        "{'a': b'bytes'}",
        "{'a': 'x' if 1 else 'y'}",
        "{'a': " + "(" * 500 + ")" * 500 + "}",
        "{'a': '\\d'}",
        "{question: 'a'}",
    ],
)
def test_python_text_of_anything_else_is_no_row(tmp_path, line):
    rows = read(write(tmp_path, "a.jsonl", f"{{'a': 0}}\n{line}\n{{'a': 9}}\n"))
    assert [row.columns for row in rows] == [{"a": 0}, None, {"a": 9}]
    assert rows[1].findings[0].sentence.startswith("a.jsonl:2: is not valid JSON")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", ",\n".join(map(wrapped, BOTH)) + ",\n"),
        ("a.json", "[" + ", ".join(map(wrapped, BOTH)) + ", ]"),
        ("a.jsonl", '{"question": "Why?", "answer": "Since.",}\n{"question": "为何？", "answer": "因此。" , }\n'),
        ("a.json", '[\n{"question": "Why?", "answer": "Since.",\n},\n{"question": "为何？", "answer": "因此。"},\n]'),
    ],
)
def test_a_comma_too_many_is_read_past(tmp_path, name, text):
    rows = read(write(tmp_path, name, text))
    assert [row.columns for row in rows] == BOTH


def test_commas_and_brackets_inside_of_texts_stay(tmp_path):
    [row] = read(write(tmp_path, "a.jsonl", '{"a": "[1,]", "b": "\\",}", "c": [1,],}'))
    assert row.columns == {"a": "[1,]", "b": '",}', "c": [1]}
    assert told([row]) == ["has a comma after its last value, which is not JSON, and was read without it"]


def test_lists_one_after_the_other_are_all_read(tmp_path):
    for name in ("a.json", "a.jsonl"):
        rows = read(write(tmp_path, name, wrapped(BOTH) + "\n" + wrapped(BOTH)))
        assert [row.columns for row in rows] == BOTH * 2
        assert [row.source for row in rows] == [f"{name}[{index}]" for index in range(4)]


def test_json_written_as_a_text_is_read_as_its_object(tmp_path):
    rows = read(write(tmp_path, "a.jsonl", "".join(json.dumps(wrapped(row)) + "\n" for row in BOTH)))
    assert [row.columns for row in rows] == BOTH
    assert told(rows) == ["is JSON written as a text, and was read as an object"] * 2


def test_bare_lists_of_messages_are_conversations(tmp_path):
    talk = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Since."}]
    for name, text in (
        ("a.jsonl", lines([talk, talk])),
        ("a.json", wrapped([talk, talk])),
        ("b.json", lines([talk, talk])),
    ):
        rows = read(write(tmp_path, name, text))
        assert [row.columns for row in rows] == [{"messages": talk}] * 2, name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"Some notes, not rows.\n", "is a text without rows"),
        (b"<!DOCTYPE html><html></html>", "is a web page, perhaps from a download that failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a pointer of Git LFS"),
        (b"SQLite format 3\0", "is an SQLite database"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
            "is a workbook or document of an old version of Office; save it as .xlsx",
        ),
        (b"%PDF-1.7", "is a PDF document"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it"),
        (b"\x80\x04\x95rest", "is a Python pickle, which could run code"),
        (b"rows.jsonl".ljust(257, b"\0") + b"ustar\0", "is a tar archive; unpack it"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.bin"])
def test_what_holds_no_rows_is_called_by_its_name(tmp_path, name, text, why):
    assert refusal(write(tmp_path, name, text)).startswith(f": {why}")


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
def test_a_compressed_file_is_read_under_any_name(tmp_path, ending):
    whole = write(tmp_path, f"a.jsonl.{ending}", lines(BOTH)).read_bytes()
    (tmp_path / "b.jsonl").write_bytes(whole)
    rows = read(tmp_path / "b.jsonl")
    assert [row.columns for row in rows] == BOTH
    assert "is compressed by" in told(rows)[0]
    (tmp_path / f"c.jsonl.{ending}").write_text(lines(BOTH), encoding="utf-8")
    rows = read(tmp_path / f"c.jsonl.{ending}")
    assert [row.columns for row in rows] == BOTH
    assert "is not compressed by" in told(rows)[0]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (wrapped([ROW, OTHER, ROW]), ["a.json[0]", "a.json[1]", "a.json[2]"]),
        ("[\n" + ",\n".join([wrapped(ROW)] * 2) + "]", ["a.json:2", "a.json:3"]),
        (f"[{wrapped(ROW)},\n{wrapped(ROW)}, {wrapped(ROW)}]", ["a.json:1", "a.json[1]", "a.json[2]"]),
        (
            "[" + wrapped(ROW, indent=1) + ", " + wrapped(ROW) + ",\n" + wrapped(ROW) + "]",
            ["a.json:1", "a.json:4", "a.json:5"],
        ),
        (wrapped([ROW]), ["a.json:1"]),
    ],
)
def test_rows_that_share_a_line_are_told_apart_by_their_index(tmp_path, text, places):
    assert [row.source for row in read(write(tmp_path, "a.json", text))] == places
