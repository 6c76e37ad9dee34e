"""Zip archives, workbooks, Arrow files and saved data sets are read like folders and files of rows."""

import datetime
import json
import struct
import zipfile

import pytest
from support.row_files import (
    GOOD,
    ROWS,
    as_file,
    cells,
    lines,
    read,
    refusal,
    table,
    told,
    write,
    write_arrow,
    write_workbook,
    write_zip,
)

from thinktune.data.reading import containers
from thinktune.data.reading.sources import match_files
from thinktune.errors import UserError


def found(path, pattern=None):
    return match_files(path, pattern, "data.name")


def names(path, pattern=None, below=None):
    return [file.relative_to(below or path).as_posix() for file in found(path, pattern)]


def refused(path, pattern=None):
    with pytest.raises(UserError) as caught:
        found(path, pattern)
    return str(caught.value)


def columns(files):
    return [row.columns for file in files for row in read(file)]


@pytest.mark.parametrize("name", ["rows.zip", "rows.jsonl", "rows"])
@pytest.mark.parametrize("inside", ["rows.jsonl", "data/deep/rows.json", "rows.csv", "rows.tsv.gz"])
def test_an_archive_of_one_file_is_read(tmp_path, name, inside):
    suffix = inside[inside.index(".") :]
    raw = as_file(tmp_path, suffix, ROWS).read_bytes()
    file = write_zip(
        tmp_path, name, {inside: raw, "__MACOSX/._rows.jsonl": "x", ".hidden.jsonl": "x", "README.md": "#"}
    )
    assert names(file) == [inside]
    assert columns(found(file)) == ROWS
    assert columns([file]) == ROWS


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".xlsx"])
def test_an_archive_of_a_binary_file_is_read(tmp_path, suffix):
    raw = as_file(tmp_path, suffix, ROWS).read_bytes()
    assert columns(found(write_zip(tmp_path, "rows.zip", {f"a/rows{suffix}": raw}))) == ROWS


def test_all_files_of_an_archive_are_read_and_those_of_a_folder_with_one(tmp_path):
    write_zip(
        tmp_path, "rows.zip", {"b.jsonl": lines(ROWS), "a/c.csv": table(ROWS), "a/config.json": "{}", "d.txt": "notes"}
    )
    write(tmp_path, "more.jsonl", lines([GOOD]))
    assert names(tmp_path) == ["more.jsonl", "rows.zip/a/c.csv", "rows.zip/b.jsonl"]
    assert columns(found(tmp_path)) == [GOOD, *ROWS, *ROWS]
    assert names(tmp_path, "b.*") == ["rows.zip/b.jsonl"]
    assert names(tmp_path, "*.zip") == ["rows.zip/a/c.csv", "rows.zip/b.jsonl"]
    assert names(tmp_path / "rows.zip", "a/*") == ["a/c.csv"]
    assert found(tmp_path / "rows.zip" / "b.jsonl") == [tmp_path / "rows.zip" / "b.jsonl"]


def test_splits_of_an_archive_are_refused_with_a_line_that_works(tmp_path):
    file = write_zip(
        tmp_path, "rows.zip", {"train/0.csv": table(ROWS), "train/1.csv": table(ROWS), "test.csv": table(ROWS)}
    )
    why = refused(file)
    assert "contains files of several splits (test.csv, train/0.csv, train/1.csv)" in why
    assert why.endswith("data.files: train/*")
    assert names(file, "train/*") == ["train/0.csv", "train/1.csv"]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"../out.jsonl": "{}"}, "a name that points outside the archive"),
        ({"/etc/rows.jsonl": "{}"}, "a name that points outside the archive"),
        ({"a/../../b.jsonl": "{}"}, "a name that points outside the archive"),
        ({"notes.pdf": "%PDF", "b.png": "x"}, "holds no file of rows, but notes.pdf, b.png"),
        ({}, "holds no file of rows, but nothing"),
        ({"[Content_Types].xml": "<x/>", "word/document.xml": "<x/>"}, "is an Office document"),
        ({"mimetype": "application/vnd.oasis", "content.xml": "<x/>"}, "is an OpenDocument file; save it as .xlsx"),
    ],
)
def test_an_archive_without_rows_or_with_names_that_lead_out_is_refused(tmp_path, files, why):
    assert why in refused(write_zip(tmp_path, "rows.zip", files))


def test_an_archive_of_an_archive_or_with_a_name_twice_is_refused(tmp_path):
    inner = write_zip(tmp_path, "a.zip", {"a.jsonl": lines(ROWS)}).read_bytes()
    outer = write_zip(tmp_path, "b.zip", {"a.zip": inner})
    assert "is an archive inside of another; unpack it" in refusal(found(outer)[0])
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("a.jsonl", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.jsonl", "{}")
    assert "holds 'a.jsonl' more than once" in refused(tmp_path / "c.zip")


def test_a_member_without_a_name_is_refused(tmp_path):
    file = write_zip(tmp_path, "rows.zip", {"x.jsonl": lines(ROWS)})
    file.write_bytes(file.read_bytes().replace(b"x.jsonl", b"\0.jsonl"))  # what follows a zero is no part of a name
    assert "holds a file without a name; pack it again" in refused(file)


def test_an_encrypted_member_is_refused_by_name(tmp_path):
    file = write_zip(tmp_path, "rows.zip", {"rows.jsonl": lines(ROWS)})
    raw = bytearray(file.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + place] |= 1
    file.write_bytes(raw)
    assert refusal(file / "rows.jsonl") == ": is encrypted; unpack the archive with its password"


def test_a_member_made_to_fill_memory_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_UNPACKED_BYTES", 10_000)
    file = write_zip(tmp_path, "rows.zip", {"rows.json": "[" + " " * 1_000_000 + "]", "small.jsonl": lines(ROWS)})
    assert "unlike any text" in refusal(file / "rows.json")
    assert columns([file / "small.jsonl"]) == ROWS


def test_a_damaged_archive_is_refused_and_never_read_in_part(tmp_path):
    file = write_zip(tmp_path, "rows.zip", {"rows.jsonl": lines(ROWS * 50)})
    whole = file.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert "is not a complete zip archive" in refusal(file)
    place = whole.index(b"rows.jsonl") + 60
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    assert "cannot be unpacked" in refusal(file / "rows.jsonl")


def test_names_of_a_chinese_windows_are_read_as_gbk(tmp_path):
    file = write_zip(tmp_path, "rows.zip", {"xx.jsonl": lines(ROWS)})
    file.write_bytes(file.read_bytes().replace(b"xx.jsonl", "题".encode("gbk") + b".jsonl"))
    assert names(file) == ["题.jsonl"]
    assert columns(found(file)) == ROWS


def test_a_workbook_gives_values_dates_and_the_numbers_of_its_rows(tmp_path):
    day, moment = datetime.date(2026, 5, 4), datetime.datetime(2026, 5, 4, 13, 30)
    rows = [
        ["question", "answer", "day"],
        ["Why?", 42, day],
        [None, None, None],
        ["为何？", 1.5, moment],
        ["ok", True, None],
    ]
    read_back = read(write_workbook(tmp_path, "rows.xlsx", {"Sheet": rows}))
    assert [row.columns for row in read_back] == [
        {"question": "Why?", "answer": 42, "day": "2026-05-04"},
        {"question": "为何？", "answer": 1.5, "day": "2026-05-04 13:30:00"},
        {"question": "ok", "answer": True, "day": None},
    ]
    assert [row.source for row in read_back] == ["rows.xlsx:2", "rows.xlsx:4", "rows.xlsx:5"]


def test_a_title_and_nameless_columns_of_a_workbook_are_read_past(tmp_path):
    body = [[number, *cells_] for number, cells_ in enumerate(cells(ROWS)[1:])]
    rows = [["Questions of 2026"], [None], [None, *ROWS[0]], *body]
    read_back = read(write_workbook(tmp_path, "rows.xlsx", {"Sheet": rows}))
    assert [row.columns for row in read_back] == ROWS
    assert [what.partition(" ")[0] for what in told(read_back)] == ["has", "column"]


def test_sheets_alike_are_read_and_others_are_told_with_a_way_that_works(tmp_path):
    notes = [["How to use", "by"], ["Read it", "us"], ["Again", "us"]]
    file = write_workbook(tmp_path, "rows.xlsx", {"a": cells(ROWS), "b": cells(ROWS), "notes": notes, "empty": []})
    assert names(file) == ["a", "b"]
    assert columns(found(file)) == ROWS * 2
    assert told(read(file / "a")) == [
        "sheet 'notes', 'empty' of the workbook was not read, unlike 'a'; data.files: notes reads it instead"
    ]
    assert names(file, "notes") == ["notes"]
    assert columns(found(file, "notes"))[0] == {"How to use": "Read it", "by": "us"}
    train_test = write_workbook(tmp_path, "split.xlsx", {"train": cells(ROWS), "test": cells(ROWS)})
    assert refused(train_test).endswith("data.files: train")


def test_formulas_without_values_are_refused_with_their_place(tmp_path):
    rows = [["question", "answer"], ["1+1", "=1+1"], ["2+2", "=2+2"]]
    why = refusal(write_workbook(tmp_path, "rows.xlsx", {"Sheet": rows}))
    assert why.startswith(":2: column 2 is a formula whose value was never saved; open the workbook in")


def test_a_workbook_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    import sys

    file = write_workbook(tmp_path, "rows.xlsx", {"Sheet": cells(ROWS)})
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert refusal(file).endswith("install thinktune[excel], or save it as CSV in UTF-8")


@pytest.mark.parametrize("as_stream", [False, True])
@pytest.mark.parametrize("name", ["rows.arrow", "rows.json"])
def test_arrow_is_read_as_file_and_as_stream(tmp_path, name, as_stream):
    assert columns([write_arrow(tmp_path, name, ROWS, as_stream=as_stream)]) == ROWS


def test_a_damaged_arrow_file_is_refused_and_not_followed(tmp_path):
    whole = write_arrow(tmp_path, "rows.arrow", ROWS).read_bytes()
    for offset in (b"\xff\xff\xff\x7f", struct.pack("<i", -5)):
        first = whole.index(struct.pack("<ii", 0, len(ROWS[0]["question"].encode())))
        (tmp_path / "bad.arrow").write_bytes(whole[: first + 4] + offset + whole[first + 8 :])
        assert "cannot be read as Arrow (" in refusal(tmp_path / "bad.arrow")


def test_bytes_that_are_text_are_read_as_text_and_others_stay(tmp_path):
    raw = [
        {
            "q": "Why?",
            "think": "想".encode(),
            "m": [{"content": b"a"}],
            "image": {"bytes": b"\x89PNG\xff"},
            "code": b"\0\1",
        }
    ] * 2
    rows = read(write_arrow(tmp_path, "rows.arrow", raw))
    expected = {
        "q": "Why?",
        "think": "想",
        "m": [{"content": "a"}],
        "image": {"bytes": b"\x89PNG\xff"},
        "code": b"\0\1",
    }
    assert [row.columns for row in rows] == [expected] * 2
    assert told(rows) == [f"column {name} holds bytes, which were read as text" for name in ("think", "m")]


@pytest.fixture
def saved(tmp_path):
    """Write a data set of two splits as datasets.save_to_disk does, with what later use leaves beside it."""
    for split in ("train", "test"):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        shards = [f"data-0000{number}-of-00002.arrow" for number in (0, 1)]
        for shard in shards:
            write_arrow(folder, shard, ROWS, as_stream=True)
        write_arrow(folder, "cache-1b2c3d4e5f607182.arrow", [{"input_ids": [1]}])
        state = {"_data_files": [{"filename": shard} for shard in shards], "_fingerprint": "x", "_split": split}
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
        (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}', encoding="utf-8")
    return tmp_path / "saved"


def test_a_saved_data_set_is_its_own_shards_and_nothing_beside_them(saved):
    assert names(saved / "train") == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert columns(found(saved / "train")) == ROWS * 2
    why = refused(saved)
    assert "state.json" not in why
    for pattern in (why.rpartition("data.files: ")[2], "train/*"):
        assert names(saved, pattern) == ["train/data-00000-of-00002.arrow", "train/data-00001-of-00002.arrow"]


def test_a_saved_data_set_in_an_archive_is_read(saved, tmp_path):
    train = saved / "train"
    file = write_zip(tmp_path, "a.zip", {f"d/{one.name}": one.read_bytes() for one in train.iterdir()})
    assert columns(found(file)) == ROWS * 2


def test_a_saved_data_set_that_lacks_a_shard_or_selects_rows_is_refused(saved):
    (saved / "train" / "data-00001-of-00002.arrow").unlink()
    assert "lacks data-00001-of-00002.arrow, a part of a saved data set; copy it again" in refused(saved / "train")
    state = {"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}
    (saved / "test" / "state.json").write_text(json.dumps(state), encoding="utf-8")
    assert "save it again after flatten_indices()" in refused(saved / "test")


@pytest.mark.real
def test_what_datasets_itself_saves_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one", num_shards=2)
    assert columns(found(tmp_path / "one")) == ROWS
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(tmp_path / "both")
    assert columns(found(tmp_path / "both", refused(tmp_path / "both").rpartition("data.files: ")[2])) == ROWS


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.log"])
def test_a_folder_without_usual_endings_is_read_by_what_is_in_it(tmp_path, name):
    write(tmp_path, name, lines(ROWS))
    write(tmp_path, "README", "Questions and answers.")
    assert names(tmp_path) == [name]
    assert columns(found(tmp_path)) == ROWS


def test_a_folder_without_rows_says_what_is_there(tmp_path):
    write(tmp_path, "book.pdf", "%PDF-1.7")
    write(tmp_path, "rows.7z", b"7z\xbc\xaf\x27\x1c")
    assert f"no file of rows is there in {tmp_path}, only book.pdf, rows.7z (rows may be JSON, " in refused(tmp_path)
