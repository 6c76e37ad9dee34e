"""Small row files in every format, and reading them."""

import csv
import gzip
import io
import json

import pytest

from thinktune.data.reading.readers import read_rows
from thinktune.errors import UserError

GOOD = {"question": "心脏泵什么？", "reasoning": "想一想，心脏是一块肌肉。", "answer": "血液"}
ROWS = [GOOD, {"question": 'He said "hi",\nthen left', "reasoning": "a, b\t\\", "answer": "é"}]


def lines(rows, gap="\n"):
    return "".join(json.dumps(row, ensure_ascii=False) + gap for row in rows)


def table(rows, delimiter=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(folder, name, raw):
    raw = raw.encode() if isinstance(raw, str) else raw
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return folder / name


def read(file, repair=False):
    return list(read_rows(file, file.name, repair_encoding=repair))


def refusal(file, repair=False):
    with pytest.raises(UserError) as caught:
        read(file, repair)
    assert str(caught.value).startswith(str(file))
    return str(caught.value).removeprefix(str(file))


def findings_of(row):
    return [(finding.fault, finding.action, finding.sentence) for finding in row.findings]


def as_file(folder, suffix, rows):
    match suffix.removesuffix(".gz"):
        case ".parquet":
            pyarrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
            return folder / "rows.parquet"
        case ".csv" | ".tsv" as kind:
            return write(folder, f"rows{suffix}", table(rows, "," if kind == ".csv" else "\t"))
        case ".json":
            return write(folder, f"rows{suffix}", json.dumps(rows, ensure_ascii=False))
        case _:
            return write(folder, f"rows{suffix}", lines(rows))
