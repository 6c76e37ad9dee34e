"""Feed damaged files of every format to the readers and count the outcomes; only a crash is wrong.

    python benchmarks/fuzz_readers.py --minutes 10 [--seed N]

Four in five inputs are whole files of rows (UTF-8, GBK, UTF-16, Latin-1) with bytes changed, inserted, removed, doubled
or cut off, before or after compression; Hypothesis makes up the others. Text is in every form that is read under
any ending: lines, lists, objects over lines, rows under a key, Python text, tables with each separator. An outcome
is right if each row is either read or reported as faulty, or if a UserError names the file. Opening files takes most of
the time, so TMPDIR is best in memory. Needs the extra `test`.
"""

import bz2
import csv
import faulthandler
import gzip
import io
import json
import lzma
import random
import sys
import tempfile
import time
import traceback
import zipfile
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

import openpyxl
import pyarrow
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pyarrow import parquet

from thinktune.data.reading.readers import read_rows
from thinktune.errors import UserError
from thinktune.files import ROW_FILE_ENDINGS

DAMAGED, MADE_UP = 100, 25  # inputs of each format in a round
PACKED = (".gz", ".bz2", ".xz", ".zst")
# Every form, and of the compressed ones each compression with each kind of text.
FUZZED = [
    *(suffix for suffix in ROW_FILE_ENDINGS if not suffix.endswith(PACKED)),
    *(text + packed for text in (".jsonl", ".json", ".csv") for packed in PACKED),
]
ENCODINGS = (*["utf-8"] * 5, "utf-8-sig", "gb18030", "utf-16", "latin-1")
ROWS = [
    {"question": "心脏泵什么？", "reasoning": "想一想，\n心脏是一块肌肉。", "answer": "血液"},
    {"question": 'He said "no", did he?', "reasoning": "a, b\t\\ and so on", "answer": "café"},
    {"question": "高血压患者应如何饮食？", "reasoning": "", "answer": "建议减少盐分摄取，多吃蔬菜水果。"},
]
# Typical damage: in JSON, in CSV, in Chinese, at the beginning and at the end of a file.
PIECES = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\n\n", b"\0", b" ", b"\t", b"\x85", b"null"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b\x08", b"PAR1", b'{"a": 1, "a": 2}', b"\\ud83d", b"1e999", b"-Infinity"),
    *("糖尿病".encode("gb18030"), "糖尿病".encode(), "größte".encode("latin-1"), b"[" * 3000, b"7" * 5000, b"\x81\x30"),
)


@dataclass(slots=True)
class Count:
    """Outcomes of the inputs of one format."""

    inputs: int = 0
    rows: int = 0
    findings: int = 0
    refusals: int = 0
    crashes: int = 0


def main() -> int:
    faulthandler.enable()  # reports where a library's C code crashes
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    generator = random.Random(arguments.seed)
    counts = {suffix: Count() for suffix in FUZZED}
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            for suffix, count in counts.items():
                file = Path(folder) / f"rows{suffix}"
                for _ in range(DAMAGED):
                    try_input(file, damaged(suffix, generator), count, repair=generator.random() < 0.5)
                try_made_up(file, count, generator)
    print("| format | inputs | rows | findings | refusals | crashes |\n|---|---:|---:|---:|---:|---:|")
    for suffix, count in [*counts.items(), ("all", total(counts))]:
        print(f"| {suffix} | {count.inputs} | {count.rows} | {count.findings} | {count.refusals} | {count.crashes} |")
    return 1 if total(counts).crashes else 0


def try_input(file: Path, raw: bytes, count: Count, repair: bool) -> None:
    """Read one input and count the outcome; print the input and the traceback of a crash."""
    file.write_bytes(raw)
    count.inputs += 1
    try:
        read_all(file, count, repair)
    except Exception:
        count.crashes += 1
        print(f"{file.name}: {raw!r}\n{traceback.format_exc()}", file=sys.stderr)


def read_all(file: Path, count: Count, repair: bool) -> None:
    """Count the rows, findings and refusals of a file; raise AssertionError if one breaks the readers' contract."""
    try:
        for row in read_rows(file, file.name, repair_encoding=repair):
            faults = [finding for finding in row.findings if finding.action != "repaired"]
            assert (row.columns is None) == bool(faults), "a row is either read or reported as faulty"
            assert all(finding.sentence.startswith(file.name) for finding in row.findings), "no file and line"
            count.rows += row.columns is not None
            count.findings += len(row.findings)
    except UserError as error:
        if not str(error).startswith(str(file)):
            raise AssertionError("the file is not named") from error
        count.refusals += 1


def damaged(suffix: str, generator: random.Random) -> bytes:
    """Return a file of rows with up to four damages, for half of the compressed files before compression."""
    packed = next((ending for ending in PACKED if suffix.endswith(ending)), "")
    inside = not packed or generator.random() < 0.5
    raw = whole(suffix.removesuffix(packed), generator)
    raw = damage(raw, generator) if inside else raw
    raw = pack(raw, packed)
    return raw if inside else damage(raw, generator)


def pack(raw: bytes, packed: str) -> bytes:
    """Compress bytes as an ending says."""
    match packed:
        case ".gz":
            return gzip.compress(raw, 1)
        case ".bz2":
            return bz2.compress(raw, 1)
        case ".xz":
            return lzma.compress(raw, preset=0)
        case ".zst":
            sink = pyarrow.BufferOutputStream()
            with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
                stream.write(raw)
            return sink.getvalue().to_pybytes()
        case _:
            return raw


def whole(suffix: str, generator: random.Random) -> bytes:
    """Return a file of rows without any fault, except possibly its encoding and its form."""
    rows = generator.choices(ROWS, k=generator.randrange(1, 5))
    stream = io.BytesIO()
    table = pyarrow.Table.from_pylist([{**row, "messages": [row], "number": 7, "raw": b"\xff"} for row in rows])
    match suffix:
        case ".parquet":
            parquet.write_table(table, stream, compression=generator.choice(("none", "snappy", "zstd", "gzip")))
        case ".arrow" | ".feather":
            new = generator.choice((pyarrow.ipc.new_file, pyarrow.ipc.new_stream))
            with new(stream, table.schema) as writer:
                writer.write_table(table)
        case ".xlsx" | ".xlsm":
            book = openpyxl.Workbook()
            for row in [list(ROWS[0]), *(list(row.values()) for row in rows)]:
                book.worksheets[0].append(row)
            book.save(stream)
        case ".zip":
            with zipfile.ZipFile(stream, "w", generator.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
                for name in generator.choices(("a.jsonl", "train/b.csv", "c.json.gz", "notes.txt"), k=2):
                    archive.writestr(name, text_of(rows, generator).encode())
        case _:
            return text_of(rows, generator).encode(generator.choice(ENCODINGS), "replace")
    return stream.getvalue()


def text_of(rows: list[dict[str, str]], generator: random.Random) -> str:
    """Write rows in one of the forms of text."""
    indent = generator.choice((None, 1))
    objects = [json.dumps(row, ensure_ascii=False, indent=indent) for row in rows]
    columns = {name: [row[name] for row in rows] for name in ROWS[0]}
    match generator.randrange(9):
        case 0:
            return json.dumps(rows, ensure_ascii=False, indent=indent)
        case 1:
            return json.dumps({"version": 1, "data": rows}, ensure_ascii=False, indent=indent)
        case 2:
            return generator.choice((",\n", "\n", "")).join(objects)
        case 3:
            return generator.choice(("\n".join(map(repr, rows)), repr(rows)))
        case 4:
            return json.dumps(generator.choice((columns, {str(index): row for index, row in enumerate(rows)})))
        case 5 | 6 | 7:
            text = io.StringIO(newline="")
            text.write(generator.choice(("", "", "sep=;\r\n", "A title\n")))
            writer = csv.DictWriter(text, ["", *ROWS[0]], delimiter=generator.choice(",;\t|"))
            writer.writeheader()
            writer.writerows({**row, "": index} for index, row in enumerate(rows))
            return text.getvalue()
        case _:
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def damage(raw: bytes, generator: random.Random) -> bytes:
    """Damage bytes up to four times."""
    for _ in range(generator.randrange(5)):
        start = generator.randrange(len(raw) + 1)
        stop = min(len(raw), start + generator.choice((1, 1, 2, 3, 8, 60)))
        match generator.randrange(6):
            case 0:
                raw = raw[:start] + generator.randbytes(stop - start) + raw[stop:]
            case 1:
                raw = raw[:start] + raw[stop:]
            case 2:
                raw = raw[:start]
            case 3:
                raw = raw[:stop] + raw[start:]
            case _:
                raw = raw[:start] + generator.choice(PIECES) + raw[generator.choice((start, stop)) :]
    return raw


def try_made_up(file: Path, count: Count, generator: random.Random) -> None:
    """Read what Hypothesis makes up: random bytes, and sequences of pieces of JSON, CSV and text."""
    parts = st.sampled_from((*PIECES, b'{"a": "b"}', b'"a": ', b"a,b", '{"问": "答"}'.encode("gb18030"))) | st.binary(
        max_size=4
    )
    inputs = st.binary(max_size=200) | st.lists(parts, max_size=12).map(b"".join)

    @settings(max_examples=MADE_UP, database=None, deadline=None, phases=(Phase.generate,),
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(inputs, st.booleans(), st.booleans())
    def run(raw: bytes, repair: bool, packed: bool) -> None:
        try_input(file, pack(raw, file.suffix) if packed else raw, count, repair)

    seed(generator.randrange(2**32))(run)()


def total(counts: dict[str, Count]) -> Count:
    """Add up the counts of all formats."""
    return Count(*(sum(getattr(count, name) for count in counts.values()) for name in Count.__slots__))


if __name__ == "__main__":
    sys.exit(main())
