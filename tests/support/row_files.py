"""Small row files in every format, and reading them."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile

import pytest

from thinktune.data.reading.readers import read_rows
from thinktune.errors import UserError

GOOD = {"question": "心脏泵什么？", "reasoning": "想一想，心脏是一块肌肉。", "answer": "血液"}
ROWS = [GOOD, {"question": 'He said "hi",\nthen left', "reasoning": "a, b\t\\", "answer": "é"}]
PACKED = (".gz", ".bz2", ".xz", ".zst")


def lines(rows, gap="\n"):
    return "".join(json.dumps(row, ensure_ascii=False) + gap for row in rows)


def table(rows, delimiter=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def packed(name, raw):
    """Return bytes as a file of this name holds them."""
    if name.endswith(".zst"):
        pyarrow = pytest.importorskip("pyarrow")
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(raw)
        return sink.getvalue().to_pybytes()
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(name[name.rfind(".") :])
    return pack(raw) if pack else raw


def write(folder, name, raw):
    raw = raw.encode() if isinstance(raw, str) else raw
    (folder / name).write_bytes(packed(name, raw))
    return folder / name


def write_zip(folder, name, files):
    """Write a zip archive of texts or bytes by their names."""
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, raw in files.items():
            archive.writestr(inside, raw)
    return folder / name


def write_workbook(folder, name, sheets):
    """Write a workbook of sheets, each a list of rows of cells."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(folder / name)
    return folder / name


def cells(rows):
    """Return rows as those of a sheet, with the names first."""
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def write_arrow(folder, name, rows, *, as_stream=False):
    pyarrow = pytest.importorskip("pyarrow")
    made = pyarrow.Table.from_pylist(rows)
    new = pyarrow.ipc.new_stream if as_stream else pyarrow.ipc.new_file
    with new(str(folder / name), made.schema) as writer:
        writer.write_table(made)
    return folder / name


def read(file, repair=False, **settings):
    return list(read_rows(file, file.name, repair_encoding=repair, **settings))


def refusal(file, repair=False, **settings):
    with pytest.raises(UserError) as caught:
        read(file, repair, **settings)
    assert str(caught.value).startswith(str(file))
    return str(caught.value).removeprefix(str(file))


def findings_of(row):
    return [(finding.fault, finding.action, finding.sentence) for finding in row.findings]


def told(rows):
    """Return the sentences of a file's form and of rows that are no strict JSON, without their places."""
    found = [finding for row in rows for finding in row.findings if finding.fault in ("file_form", "loose_json")]
    assert all(finding.action == "repaired" for finding in found)
    return [finding.sentence.partition(": ")[2] for finding in found]


def as_file(folder, suffix, rows):
    for ending in PACKED:
        if suffix.endswith(ending):
            plain = as_file(folder, suffix.removesuffix(ending), rows).read_bytes()
            return write(folder, f"rows{suffix}", plain)
    match suffix:
        case ".parquet":
            pyarrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
            return folder / "rows.parquet"
        case ".arrow" | ".feather":
            return write_arrow(folder, f"rows{suffix}", rows, as_stream=suffix == ".arrow")
        case ".xlsx" | ".xlsm":
            return write_workbook(folder, f"rows{suffix}", {"Sheet": cells(rows)})
        case ".zip":
            return write_zip(folder, "rows.zip", {"rows.jsonl": lines(rows)})
        case ".csv" | ".tsv" as kind:
            return write(folder, f"rows{suffix}", table(rows, "," if kind == ".csv" else "\t"))
        case ".json":
            return write(folder, f"rows{suffix}", json.dumps(rows, ensure_ascii=False, indent=1))
        case _:
            return write(folder, f"rows{suffix}", lines(rows))
