"""Any bytes give rows, each complete or reported as faulty, or one UserError that names the file."""

import gzip
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.row_files import PACKED, ROWS, as_file, packed, table

from thinktune.data.reading.places import split_place
from thinktune.data.reading.readers import read_rows
from thinktune.errors import UserError
from thinktune.files import ROW_FILE_ENDINGS

ENCODINGS = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "gb18030", "utf-16", "latin-1"])
HARD = [
    b'"',
    b"\\",
    b"{",
    b"[",
    b"]",
    b",",
    b"\n",
    b"\r",
    b"\0",
    b"\xef\xbb\xbf",
    b"\x1f\x8b\x08",
    b"\x81\x30",
    b"[" * 3000,
]
SPLICES = st.sampled_from([*HARD, "糖尿病".encode("gbk"), b'{"a": 1, "a": 2}', b"7" * 5000, b"\\ud83d"]) | st.binary(
    max_size=8
)
values = st.none() | st.integers() | st.floats() | st.text(max_size=20) | st.text("心脏泵血液的肌，。", max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text("心脏泵血液的肌，。", max_size=30)


def read(suffix, raw, repair=False):
    """Read a file of such bytes, asserting what holds of every file; None if it is refused."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"rows{suffix}"
        file.write_bytes(raw)
        try:
            rows = list(read_rows(file, "shown", repair_encoding=repair))
        except UserError as error:
            assert all(fault.startswith((f"{file}:", f"{file}/")) for fault in error.faults)
            return None
    numbers = [split_place(row.source)[1] for row in rows]
    lines = [number for number in numbers if number > 0]
    assert lines == sorted(lines) or suffix == ".zip"
    for row in rows:
        assert (row.columns is None) == any(finding.action != "repaired" for finding in row.findings)
        assert all(finding.sentence.startswith("shown") for finding in row.findings)
    return rows


BINARY = (".parquet", ".arrow", ".xlsx", ".zip")
# Every form once, and every compression.
FUZZED = [
    ".jsonl",
    ".json",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".xlsx",
    ".zip",
    ".jsonl.gz",
    ".csv.bz2",
    ".json.xz",
    ".tsv.zst",
]


def plain_suffix(suffix):
    return suffix.rpartition(".")[0] if suffix.endswith(PACKED) else suffix


@pytest.mark.parametrize("suffix", FUZZED)
@given(raw=st.binary(max_size=300), repair=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_bytes(suffix, raw, repair):
    read(suffix, raw, repair)
    read(suffix, packed(suffix, raw), repair)


@st.composite
def damaged(draw, whole):
    """Draw damaged bytes: with pieces inserted, overwritten, or the end cut off."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(whole)))
        stop = draw(st.sampled_from([start, start + 1, start + 8, len(whole)]))
        whole = whole[:start] + draw(SPLICES) + whole[stop:]
    return whole


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {suffix: as_file(folder, suffix, ROWS).read_bytes() for suffix in ROW_FILE_ENDINGS}


@pytest.mark.parametrize("suffix", FUZZED)
@given(data=st.data(), encoding=ENCODINGS, repair=st.booleans())
@settings(max_examples=40, deadline=None)
def test_damaged_files(whole_files, suffix, data, encoding, repair):
    whole = whole_files[suffix]
    read(suffix, data.draw(damaged(whole)), repair)
    if suffix not in BINARY:
        text = whole_files[plain_suffix(suffix)].decode()
        read(suffix, packed(suffix, data.draw(damaged(text.encode(encoding, "replace")))), repair)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.bz2", ".json.xz", ".tsv.zst"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_packed_file_that_is_cut_off_is_never_read_to_its_end(whole_files, suffix, data):
    whole = whole_files[suffix]
    assert read(suffix, whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


@given(
    st.lists(st.dictionaries(st.text(max_size=5), values | st.lists(values, max_size=3), max_size=4), max_size=5),
    st.data(),
)
@settings(max_examples=80, deadline=None)
def test_json_comes_back_as_it_was_written(rows, data):
    indent, ascii_only = data.draw(st.sampled_from([None, 0, 2])), data.draw(st.booleans())
    try:
        as_list = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode()
        as_lines = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()
    except UnicodeEncodeError:  # half a character has no bytes unless JSON spells it
        return
    for suffix, raw in (
        (".json", as_list),
        (".jsonl", as_lines),
        (".json", as_lines),
        (".jsonl.gz", gzip.compress(as_lines)),
    ):
        back = read(suffix, raw)
        assert back is not None
        assert repr([row.columns for row in back]) == repr(rows)  # repr, since NaN is not itself


@given(st.lists(st.fixed_dictionaries({"a": texts, "b": texts}), min_size=1, max_size=5), st.booleans())
@settings(max_examples=80, deadline=None)
def test_tables_come_back_as_they_were_written(rows, tabs):
    suffix, text = (".tsv", table(rows, "\t")) if tabs else (".csv", table(rows))
    back = read(suffix, text.encode())
    assert back is not None
    assert [row.columns for row in back] == rows


@given(
    st.lists(
        st.fixed_dictionaries({"a": texts, "b": st.lists(st.fixed_dictionaries({"c": texts}), min_size=1)}), min_size=1
    )
)
@settings(max_examples=40, deadline=None)
def test_parquet_comes_back_as_it_was_written(rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    raw = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), raw)
    back = read(".parquet", raw.getvalue())
    assert back is not None
    assert [row.columns for row in back] == rows
