"""Read files of rows (JSON lines, JSON, CSV, Parquet) as raw rows in order, each with what is wrong with it."""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from thinktune.data.sources import SUFFIXES
from thinktune.data.types import Finding, RawRow
from thinktune.errors import UserError, shorten_error

# First bytes of files that are not text in UTF-8 or GBK. UTF-32 begins as UTF-16 does, so it comes first.
UNSUPPORTED_SIGNATURES = {
    codecs.BOM_UTF32_LE: "UTF-32, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF32_BE: "UTF-32, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF16_LE: "UTF-16, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16, not UTF-8; save it as UTF-8",
    b"\x1f\x8b": "compressed by gzip; add .gz to its name",
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8",
}


MIN_GB2312_SHARE = 0.9


RARE_LEAD_BYTES = bytes(range(0xD8, 0xF8))  # first bytes of GB2312's second level: its rarer characters


@dataclass(frozen=True, slots=True)
class BadByte:
    """The first byte that is not UTF-8: its line and its column in bytes, both from 1."""

    line: int
    column: int
    value: int

    def __str__(self) -> str:
        return f"byte {self.column} is {self.value:#x}"


@contextmanager
def open_text(file: Path) -> Generator[tuple[BinaryIO, bool]]:
    """Open a text file, decompressed, after its byte order mark; yields the bytes and whether it has such a mark.

    Raises UserError, naming the file, where it cannot be read to its end or is not text.
    """
    compressed = file.name.lower().endswith(".gz")
    try:
        with cast(BinaryIO, gzip.open(file)) if compressed else file.open("rb") as opened:
            head = opened.read(4)
            if compressed and not file.stat().st_size:
                raise EOFError("it is empty")  # which gzip accepts as complete
            for mark, meaning in UNSUPPORTED_SIGNATURES.items():
                if head.startswith(mark):
                    raise UserError(f"{file}: is {meaning}")
            marked = head.startswith(codecs.BOM_UTF8)
            opened.seek(len(codecs.BOM_UTF8) if marked else 0)
            yield opened, marked
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{file}: is not a complete gzip file ({shorten_error(error)}); copy or download it again"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or shorten_error(error)}); fix that first") from None


def find_bad_byte(lines: Iterable[bytes]) -> BadByte | None:
    """Find the first byte that is not UTF-8, or None; in UTF-8 and GBK a line feed is never part of a character."""
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return BadByte(number, error.start + 1, line[error.start])
    return None


def is_gbk(lines: Iterable[bytes]) -> bool:
    """Return True if lines that are not UTF-8 are surely GBK.

    They decode as GB18030, nearly all characters beyond ASCII are in GB2312, and at least half of these in its first
    level: broken UTF-8 gives characters that GB2312 lacks, and two accented letters of Latin-1 give a rare one.
    """
    beyond = known = rare = 0
    try:
        for line in lines:
            characters = re.sub("[\0-\x7f]+", "", line.decode("gb18030"))
            pairs = characters.encode("gb2312", "ignore")
            beyond += len(characters)
            known += len(pairs) // 2
            rare += len(pairs) // 2 - len(pairs[::2].translate(None, RARE_LEAD_BYTES))
    except UnicodeDecodeError:
        return False
    return known >= MIN_GB2312_SHARE * beyond and rare <= known / 2


Findings = tuple[Finding, ...]


PARQUET_BATCH_ROWS = 1024  # held in memory at once


JSON_WHITESPACE = b" \t\r\n"  # all that JSON allows as white space


JSON_WHITESPACE_PATTERN = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open text file: its path, its name in messages, its bytes, and findings for its first row."""

    file: Path
    display_name: str
    stream: BinaryIO
    repair_encoding: bool
    findings: Findings


def read_rows(file: Path, display_name: str, *, repair_encoding: bool) -> Iterator[RawRow]:
    """Read the rows of one file in order, faulty ones included; their sources are `display_name:line`.

    JSON lines and CSV are streamed, Parquet is read in batches, and a JSON list is held in memory. Raises UserError,
    naming the file, where the file cannot be read as a whole: the rows yielded until then are not all of it.
    """
    if not file.name.lower().endswith(SUFFIXES):
        raise UserError(f"{file}: its extension is none of {', '.join(SUFFIXES)}; convert the rows or rename the file")
    if file.name.lower().endswith(".parquet"):
        yield from _parquet(file, display_name)
        return
    with open_text(file) as (opened, marked):
        sentence = f"{display_name}:1: begins with a byte order mark"
        findings = (Finding("byte_order_mark", sentence, "repaired"),) if marked else ()
        source = OpenFile(file, display_name, opened, repair_encoding, findings)
        match file.name.lower().removesuffix(".gz").rpartition(".")[2]:
            case "json":
                yield from _json(source)
            case "csv":
                yield from _csv(source, ",")
            case "tsv":
                yield from _csv(source, "\t")
            case _:
                yield from _json_lines(source)


def _json_lines(source: OpenFile) -> Iterator[RawRow]:
    found = source.findings
    for number, line in enumerate(source.stream, start=1):
        if not line.isspace():
            yield _json_line(f"{source.display_name}:{number}", line.rstrip(b"\r\n"), source.repair_encoding, found)
            found = ()


def _json_line(place: str, line: bytes, repair_encoding: bool, findings: Findings) -> RawRow:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        if not is_gbk([line]):
            sentence = f"{place}: is neither UTF-8 nor GBK ({find_bad_byte([line])})"
            return RawRow(place, None, (*findings, Finding("encoding", sentence)))
        if not repair_encoding:
            return RawRow(place, None, (*findings, Finding("encoding", f"{place}: is GBK, not UTF-8")))
        text = line.decode("gb18030")
        findings = (*findings, Finding("encoding", f"{place}: is GBK, not UTF-8, and was read as GBK", "repaired"))
    try:
        return _object_row(place, DECODER.decode(text), findings)
    except (ValueError, RecursionError) as error:
        return _unreadable_row(place, _describe_json_error(error), findings)


def _json(source: OpenFile) -> Iterator[RawRow]:
    """Read a list, JSON lines named `.json`, or one object; the first line that is not blank decides which."""
    start = source.stream.tell()
    first = next((bare for line in source.stream if (bare := line.strip(JSON_WHITESPACE))), b"")
    source.stream.seek(start)
    if first.startswith(b"["):
        yield from _json_list(source)
    elif not first.startswith(b"{") or _is_json(first):
        yield from _json_lines(source)
    else:
        yield from _json_object(source, is_line=first.endswith(b"}"))


def _json_object(source: OpenFile, is_line: bool) -> Iterator[RawRow]:
    """Read one object over several lines; if it is not one and the first line looks like a row, read JSON lines."""
    start = source.stream.tell()
    text, found = _whole_text(source)
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        if not is_line:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise UserError(
                f"{source.file}:{line}: {_describe_json_error(error)}; fix it, or save the rows as JSON lines"
            ) from None
        source.stream.seek(start)
        yield from _json_lines(source)
    else:
        yield _object_row(f"{source.display_name}:{_line_number(text, text.index('{'))}", value, found)


def _json_list(source: OpenFile) -> Iterator[RawRow]:
    """Read the elements of a list, each with its own line."""
    text, found = _whole_text(source)
    start, line, counted = _skip_whitespace(text, text.index("[") + 1), 1, 0
    closed = text[start : start + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, start), start
        try:
            row, end = _json_element(text, start, f"{source.display_name}:{line}", found)
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise UserError(
                f"{source.file}:{line}: the list {_describe_json_error(error)}; fix it, or save the rows as JSON lines"
            ) from None
        yield row
        found, start = (), _skip_whitespace(text, end)
        closed = text[start : start + 1] == "]"
        if not closed:
            if text[start : start + 1] != ",":
                where = f"{source.file}:{_line_number(text, start)}"
                raise UserError(f"{where}: the list breaks off or lacks a comma after an element; fix it")
            start = _skip_whitespace(text, start + 1)
    rest = _skip_whitespace(text, start + 1)
    if rest < len(text):
        where = f"{source.file}:{_line_number(text, rest)}"
        raise UserError(f"{where}: there is more after the end of the list ({text[rest : rest + 20]!r}); remove it")


def _json_element(text: str, start: int, place: str, findings: Findings) -> tuple[RawRow, int]:
    """Read the row at a position of a text, and where it ends; raises ValueError where not even its end is known."""
    try:
        value, end = DECODER.raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # a duplicate key or a number too long: the lenient decoder finds the end
        return _unreadable_row(place, _describe_json_error(error), findings), LENIENT_DECODER.raw_decode(text, start)[1]
    return _object_row(place, value, findings), end


def _csv(source: OpenFile, delimiter: str) -> Iterator[RawRow]:
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))  # the most that fits every platform's C long
    encoding, found = _whole_encoding(source)
    text = io.TextIOWrapper(source.stream, encoding, newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{source.file}:{line}: is not valid CSV ({error}); fix the row that begins here") from None
        if not cells or (len(cells) == 1 and cells[0].isspace()):
            continue
        place = f"{source.display_name}:{line}"
        if not names:
            names = cells
            _refuse_bad_names(f"{source.file}:{line}", names)
            continue
        if len(cells) == len(names):
            yield RawRow(place, dict(zip(names, cells, strict=True)), found)
        else:
            yield _unreadable_row(place, f"has {len(cells)} columns where the header has {len(names)}", found)
        found = ()


def _refuse_bad_names(place: str, names: list[str]) -> None:
    double = sorted(name for name, count in Counter(names).items() if count > 1 and name.strip())
    if double:
        raise UserError(f"{place}: names the column {', '.join(double)} more than once; rename all but one")
    nameless = [str(number) for number, name in enumerate(names, start=1) if not name.strip()]
    if nameless:
        raise UserError(
            f"{place}: column {', '.join(nameless)} has no name; give it one (save a table without its row numbers)"
        )


def _parquet(file: Path, display_name: str) -> Iterator[RawRow]:
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{file}: Parquet needs one more package; install thinktune[parquet]") from None
    number = 0
    try:
        with parquet.ParquetFile(file, page_checksum_verification=True) as opened:
            _refuse_bad_names(str(file), opened.schema_arrow.names)
            for batch in opened.iter_batches(PARQUET_BATCH_ROWS):
                for index in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(batch.slice(index, 1), f"{display_name}:{number}")
    except UserError:
        raise
    except Exception as error:  # the library raises Arrow's errors, OSError and others: each means a bad file
        raise UserError(
            f"{file}: cannot be read as Parquet ({shorten_error(error)}); write or download it again"
        ) from None


def _parquet_row(batch: Any, place: str) -> RawRow:
    try:
        return RawRow(place, batch.to_pylist()[0])
    except Exception as error:  # text that is not UTF-8, dates beyond Python's: the library has an error for each
        return _unreadable_row(
            place, f"contains a value that Python cannot represent ({shorten_error(error, 100)})", ()
        )


def _whole_text(source: OpenFile) -> tuple[str, Findings]:
    encoding, found = _whole_encoding(source)
    return source.stream.read().decode(encoding), found


def _whole_encoding(source: OpenFile) -> tuple[str, Findings]:
    """Detect the one encoding of a whole file by reading it through; returns it with the findings of its first row."""
    start = source.stream.tell()
    bad = find_bad_byte(source.stream)
    source.stream.seek(start)
    if bad is None:
        return "utf-8", source.findings
    gbk = is_gbk(source.stream)
    source.stream.seek(start)
    if not gbk:
        raise UserError(f"{source.file}:{bad.line}: is neither UTF-8 nor GBK ({bad}); save the file as UTF-8")
    if not source.repair_encoding:
        remedy = "save it as UTF-8, or set data.faults.encoding: repair"
        raise UserError(f"{source.file}: is GBK, not UTF-8 (line {bad.line}, {bad}); {remedy}")
    sentence = f"{source.display_name}:1: is GBK, not UTF-8, like the whole file, which was read as GBK"
    return "gb18030", (*source.findings, Finding("encoding", sentence, "repaired"))


def _object_row(place: str, value: Any, findings: Findings) -> RawRow:
    if isinstance(value, dict):
        return RawRow(place, value, findings)
    return _unreadable_row(place, f"is of type {type(value).__name__}, not an object with columns", findings)


def _unreadable_row(place: str, why: str, findings: Findings) -> RawRow:
    return RawRow(place, None, (*findings, Finding("unreadable", f"{place}: {why}")))


def _describe_json_error(error: ValueError | RecursionError) -> str:
    """Describe what is wrong with JSON, as the end of a sentence."""
    match error:
        case json.JSONDecodeError():
            return f"is not valid JSON ({error.msg.removesuffix(' at')}, character {error.colno})"
        case RecursionError():
            return "is nested too deeply"
        case _:
            return f"cannot be read ({str(error).partition(';')[0]})"


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON; Python itself would silently let the last of two equal keys win."""
    columns = dict(pairs)
    if len(columns) != len(pairs):
        double = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {double[:40]!r} appears twice in one object")
    return columns


DECODER = json.JSONDecoder(object_pairs_hook=_refuse_duplicate_keys)


LENIENT_DECODER = json.JSONDecoder(parse_int=str)  # only used to find where a value ends


def _is_json(line: bytes) -> bool:
    """Return True if a line by itself is JSON; bytes beyond ASCII do not matter for that."""
    try:
        DECODER.decode(line.decode("latin-1"))
    except (ValueError, RecursionError):
        return False
    return True


def _skip_whitespace(text: str, position: int) -> int:
    match = JSON_WHITESPACE_PATTERN.match(text, position)
    return match.end() if match else position


def _line_number(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
