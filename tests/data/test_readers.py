"""Every format is read as raw rows with true lines; every fault is reported, and no incomplete file passes."""

import codecs
import csv
import gc
import json
import math
import sys
import tracemalloc
import warnings
from itertools import islice

import pytest
from support.row_files import GOOD, ROWS, as_file, findings_of, lines, read, refusal, table, write

from thinktune.data.reading.readers import read_rows
from thinktune.files import ROW_FILE_ENDINGS

BOM = codecs.BOM_UTF8
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("suffix", ROW_FILE_ENDINGS)
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    read_back = read(as_file(tmp_path, suffix, ROWS))
    assert [row.columns for row in read_back] == ROWS
    assert not any(row.findings for row in read_back)


PRETTY = json.dumps(ROWS, ensure_ascii=False, indent=1)


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("a.jsonl", lines(ROWS, "\r\n\n \t\n"), [1, 4]),
        ("a.jsonl", "\n\n" + lines(ROWS).rstrip("\n"), [3, 4]),
        ("a.json", lines(ROWS, "\n\n"), [1, 3]),
        ("a.json", "\n" + PRETTY + "\n\n", [3, 8]),
        ("a.json", "[\n]\n", []),
        ("a.json", "\n" + json.dumps(GOOD, indent=2), [2]),
        ("a.json", '{"a": {"b": 1}\n}', [1]),
        ("a.json", "", []),
        ("a.jsonl", "", []),
        ("a.csv", "", []),
        ("a.csv", 'a,b\n\n1,"x\n\ny"\n  \n3,4\r\n5,6', [3, 7, 8]),
        ("a.csv", 'a\n""\n\nx\n', [2, 4]),
    ],
)
def test_a_row_is_at_its_true_line(tmp_path, name, text, places):
    file = write(tmp_path, name, text)
    rows = read(file)
    assert [row.source for row in rows] == [f"{name}:{place}" for place in places]
    assert all(row.columns for row in rows)


def test_sources_have_the_name_that_is_shown(tmp_path):
    file = write(tmp_path, "a.jsonl", "{}\n[]\n")
    rows = list(read_rows(file, "train/a.jsonl", repair_encoding=False))
    assert [row.source for row in rows] == ["train/a.jsonl:1", "train/a.jsonl:2"]
    assert rows[1].findings[0].sentence.startswith("train/a.jsonl:2: ")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("nonsense", "is not valid JSON (Expecting value, character 1)"),
        ('{"a": 1} {"a": 2}', "is not valid JSON (Extra data, character 10)"),
        ('{"a": "cut off', "is not valid JSON (Unterminated string starting, character 7)"),
        ('{"a": "\0"}', "is not valid JSON (Invalid control character, character 8)"),
        ("[1]", "is of type list, not an object with columns"),
        ("null", "is of type NoneType, not an object with columns"),
        ('{"a": 1, "b": 2, "a": 3}', "cannot be read (the key 'a' appears twice in one object)"),
        ('{"m": [{"a": 1, "a": 1}]}', "cannot be read (the key 'a' appears twice in one object)"),
        (f'{{"a": {DEEP}}}', "is nested too deeply"),
        (f'{{"a": {"7" * 5000}}}', "cannot be read (Exceeds the limit (4300 digits) for integer string conversion"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.json", "rows.jsonl.gz"])
def test_a_line_that_is_no_row_is_a_finding_and_the_next_is_read(tmp_path, name, bad, why):
    rows = read(write(tmp_path, name, f'{{"a": 0}}\n{bad}\n{{"a": 9}}\n'))
    assert [row.columns for row in rows] == [{"a": 0}, None, {"a": 9}]
    [(fault, action, sentence)] = findings_of(rows[1])
    assert (fault, action) == ("unreadable", "dropped")
    assert sentence.startswith(f"{name}:2: {why}")


def test_a_first_line_that_is_no_json_does_not_hide_the_lines_after_it(tmp_path):
    rows = read(write(tmp_path, "rows.json", '{"a": 1,,}\n{"a": 2}\n'))
    assert [row.columns for row in rows] == [None, {"a": 2}]


def test_constants_that_only_python_writes_are_read(tmp_path):
    [row] = read(write(tmp_path, "rows.jsonl", '{"a": NaN, "b": -Infinity}'))
    assert row.columns
    assert math.isnan(row.columns["a"])
    assert row.columns["b"] == -math.inf


@pytest.mark.parametrize(
    ("element", "why"),
    [
        ("7", "is of type int"),
        ('{"a": 1, "a": [{}, "]"]}', "cannot be read (the key 'a' appears twice"),
        (f'{{"a": {"7" * 5000}}}', "cannot be read (Exceeds the limit"),
    ],
)
def test_an_element_that_is_no_row_is_a_finding_and_the_next_is_read(tmp_path, element, why):
    rows = read(write(tmp_path, "rows.json", f'[\n{{"a": 0}},\n{element} ,\n{{"a": 9}}]'))
    assert [(row.source, row.columns) for row in rows] == [
        ("rows.json:2", {"a": 0}),
        ("rows.json:3", None),
        ("rows.json:4", {"a": 9}),
    ]
    assert rows[1].findings[0].sentence.startswith(f"rows.json:3: {why}")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.json", '[\n{"a": 1},\n', ":3: the list is not valid JSON (Expecting value"),
        ("a.json", '[\n{"a": 1}\n', ":3: the list breaks off or lacks a comma"),
        ("a.json", '[{"a": 1}\n{"a": 2}]', ":2: the list breaks off or lacks a comma"),
        ("a.json", '[{"a": 1},\n\n{"a" 2}]', ":3: the list is not valid JSON (Expecting ':' delimiter, character 6)"),
        ("a.json", '[{"a": 1},,]', ":1: the list is not valid JSON"),
        ("a.json", '[{"a": 1}, {"b" 1},]', ":1: the list is not valid JSON"),
        ("a.json", "[", ":1: the list is not valid JSON"),
        ("a.json", f'[{{"a": 1}},\n{DEEP}]', ":2: the list is nested too deeply"),
        ("a.json", '[{"a": 1}]\n\n]', ":3: there is more after the end of the list (']')"),
        ("a.json", '[]\n{"a": 1}', ":2: there is more after the end of the list"),
        ("a.json", '{\n"a": 1,\n"b" 2}', ":3: is not valid JSON (Expecting ':' delimiter, character 5)"),
        ("a.json", '{\n"a": 1}\n{\n"a" 2}', ":4: is not valid JSON (Expecting ':' delimiter, character 5)"),
        ("a.csv", 'a,b\n1,2\n3,"4\n5,6\n', ":3: is not valid CSV (unexpected end of data)"),
        ("a.csv", 'a,b\n1,2\n3,"4" 5\n', ":3: is not valid CSV ("),
        ("a.csv", "a,b,a\n1,2,3\n", ":1: names the column a more than once"),
        ("a.txt", "a", ": is a text without rows; rows may be JSON, "),
        ("a.parquet.gz", "a", ": is a text without rows"),
        ("a.parquet", "a", ": is a text without rows"),
        ("a.parquet", "PAR1 and so on", ": cannot be read as Parquet ("),
        ("a.arrow", "ARROW1 and so on", ": cannot be read as Arrow ("),
        ("a.parquet", "", ": is empty, which is not a complete file"),
        ("a.zip", "", ": is empty, which is not a complete file"),
    ],
)
def test_a_file_that_would_lose_rows_or_columns_is_refused(tmp_path, name, text, why):
    assert refusal(write(tmp_path, name, text)).startswith(why)


def test_a_csv_row_with_too_few_or_too_many_columns_is_a_finding(tmp_path):
    rows = read(write(tmp_path, "a.csv", "a,b\n1\n2,3,4\n5,6\n"))
    assert [row.columns for row in rows] == [None, None, {"a": "5", "b": "6"}]
    assert rows[1].findings[0].sentence == "a.csv:3: has 3 columns where the header has 2"


def test_a_csv_field_longer_than_pythons_limit_is_read(tmp_path):
    csv.field_size_limit(131_072)  # Python's own
    [row] = read(write(tmp_path, "a.csv", f'a\n"{"心" * 200_000}"\n'))
    assert row.columns == {"a": "心" * 200_000}


@pytest.mark.skipif(sys.maxsize < 2**32 or sys.platform == "win32", reason="no limit is higher than ours")
def test_a_higher_limit_of_csv_fields_is_not_lowered(tmp_path):
    csv.field_size_limit(2**31 + 7)
    read(write(tmp_path, "a.csv", "a\n1\n"))
    assert csv.field_size_limit() == 2**31 + 7


def test_a_csv_field_keeps_its_own_line_ends(tmp_path):
    [row] = read(write(tmp_path, "a.csv", 'a\r\n"x\r\ny\rz"\r\n'))
    assert row.columns == {"a": "x\r\ny\rz"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.csv.gz"])
def test_a_byte_order_mark_is_read_past_and_reported_once(tmp_path, name):
    text = {"jsonl": "\n" + lines(ROWS), "json": json.dumps(ROWS)}.get(name.split(".")[1]) or table(ROWS)
    rows = read(write(tmp_path, name, BOM + text.encode()))
    assert [row.columns for row in rows] == ROWS
    assert findings_of(rows[0]) == [("byte_order_mark", "repaired", f"{name}:1: begins with a byte order mark")]
    assert not rows[1].findings


@pytest.mark.parametrize("file", ["", None])
def test_what_cannot_be_opened_is_refused(tmp_path, file):
    for suffix in ROW_FILE_ENDINGS:
        place = tmp_path / f"{suffix.strip('.')}{suffix}"
        if file == "":
            place.mkdir()
        assert refusal(place).startswith(": ")


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz", ".jsonl.bz2", ".json.xz", ".csv.zst"])
def test_a_packed_file_that_is_cut_off_anywhere_or_damaged_never_passes_as_complete(tmp_path, suffix):
    whole = as_file(tmp_path, suffix, ROWS).read_bytes()
    for length in range(len(whole)):
        (tmp_path / f"cut{suffix}").write_bytes(whole[:length])
        assert ": is not a complete " in refusal(tmp_path / f"cut{suffix}")
    for raw in (b"\0plain", whole + b"more"):
        (tmp_path / f"bad{suffix}").write_bytes(raw)
        assert ": is not a complete " in refusal(tmp_path / f"bad{suffix}")


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])  # pyarrow writes Zstandard without a checksum
def test_a_packed_file_with_a_changed_byte_never_passes_as_complete(tmp_path, ending):
    whole = as_file(tmp_path, f".jsonl{ending}", ROWS).read_bytes()
    for place in (len(whole) // 2, len(whole) - 6):
        changed = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        (tmp_path / f"bad.jsonl{ending}").write_bytes(changed)
        assert ": is not a complete " in refusal(tmp_path / f"bad.jsonl{ending}")


@pytest.mark.slow
def test_lines_and_tables_are_streamed(tmp_path):
    for name, text in (
        ("a.jsonl", lines(ROWS * 20_000)),
        ("a.csv", table(ROWS * 20_000)),
        ("a.csv.gz", table(ROWS * 20_000)),
    ):
        file = write(tmp_path, name, text)
        tracemalloc.start()
        assert sum(row.columns is not None for row in read_rows(file, name, repair_encoding=False)) == 40_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000 < len(text), name


def test_parquet_of_several_batches_is_read_to_its_end_with_the_number_of_each_row(tmp_path):
    rows = read(as_file(tmp_path, ".parquet", [{"a": number} for number in range(2500)]))
    assert [row.columns for row in rows] == [{"a": number} for number in range(2500)]
    assert [row.source for row in rows] == [f"rows.parquet:{number}" for number in range(1, 2501)]


def test_a_parquet_value_that_python_cannot_represent_is_a_finding_and_the_next_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = pyarrow.StringArray.from_buffers(
        2, pyarrow.array([0, 2, 3], "int32").buffers()[1], pyarrow.py_buffer(b"\xff\xfea")
    )
    parquet.write_table(pyarrow.table({"a": texts}), tmp_path / "rows.parquet")
    bad, good = read(tmp_path / "rows.parquet")
    assert (bad.columns, good.columns) == (None, {"a": "a"})
    assert bad.findings[0].sentence.startswith(
        "rows.parquet:1: contains a value that Python cannot represent ('utf-8' codec"
    )


def test_parquet_columns_of_one_name_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.Table.from_arrays([pyarrow.array(["x"]), pyarrow.array(["y"])], ["a", "a"])
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert "names the column a more than once" in refusal(tmp_path / "rows.parquet")


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(write(tmp_path, "rows.parquet", b"PAR1")).endswith("install thinktune[parquet]")


@pytest.mark.real
def test_the_files_of_other_projects_are_all_read(real):
    files = sorted((real / "formats").iterdir())
    assert files
    for file in files:
        rows = read(file)
        assert rows, file
        assert all(row.columns is not None and not row.findings for row in rows), file


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_no_file_is_left_open_however_many_rows_are_read(tmp_path, name, encoding):
    """What is left to the garbage collector warns of it on the user's terminal."""
    good = {"question": "心脏泵什么？", "reasoning": "先想一想。", "answer": "血液"}
    text = lines([good] * 3) if "jsonl" in name else table([good] * 3, "\t" if "tsv" in name else ",")
    file = write(tmp_path, name, text.encode(encoding))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for wanted in (1, 9):
            list(islice(read_rows(file, name, repair_encoding=True), wanted))
        gc.collect()
    assert [str(each.message) for each in warned if each.category is ResourceWarning] == []
