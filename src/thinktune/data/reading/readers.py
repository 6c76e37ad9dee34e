"""Read files of rows (JSON lines, JSON, CSV, Parquet) as raw rows in order, each with what is wrong with it."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from thinktune.data.reading.encoding import BLOCK_BYTES, find_bad_byte, is_gbk, open_text, read_stream
from thinktune.data.reading.sources import SUFFIXES
from thinktune.data.types import Finding, RawRow
from thinktune.errors import UserError, shorten_error

Findings = tuple[Finding, ...]


# A longer row is not read, only named, unless `data.max_tokens` allows for longer ones. Reading one takes several times
# its size, and no row of text for training is that long.
MAX_ROW_BYTES = 16 * 2**20


MAX_NESTING = 100


PARQUET_BATCH_ROWS, PARQUET_BATCH_BYTES = 1024, 64 * 2**20  # held in memory at once


JSON_WHITESPACE = b" \t\r\n"  # all that JSON allows as white space


JSON_WHITESPACE_PATTERN = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open text file: its path, its name in messages, its bytes, and findings for its first row."""

    file: Path
    display_name: str
    stream: BinaryIO
    repair_encoding: bool
    max_row_bytes: int
    findings: Findings


def read_rows(
    file: Path, display_name: str, *, repair_encoding: bool, max_row_bytes: int = MAX_ROW_BYTES
) -> Iterator[RawRow]:
    """Read the rows of one file in order, faulty ones included; their sources are `display_name:line`.

    JSON lines and CSV are streamed, Parquet is read in batches, and a JSON list is held in memory. A row of more than
    `max_row_bytes` (characters, where the file is read as text) is not read: it has the fault `too_long`. Raises
    UserError, naming the file, where the file cannot be read as a whole: the rows yielded until then are not all of it.
    """
    if not file.name.lower().endswith(SUFFIXES):
        raise UserError(f"{file}: its extension is none of {', '.join(SUFFIXES)}; convert the rows or rename the file")
    if file.name.lower().endswith(".parquet"):
        yield from _parquet(file, display_name, max_row_bytes)
        return
    with open_text(file) as (opened, marked):
        sentence = f"{display_name}:1: begins with a byte order mark"
        findings = (Finding("byte_order_mark", sentence, "repaired"),) if marked else ()
        source = OpenFile(file, display_name, opened, repair_encoding, max_row_bytes, findings)
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
    for number in count(1):
        line = source.stream.readline(source.max_row_bytes + 1)
        place = f"{source.display_name}:{number}"
        if not line:
            return
        if len(line) > source.max_row_bytes and not line.endswith(b"\n"):
            yield _too_long_row(place, len(line) + _skip_line(source.stream), source.max_row_bytes, found)
        elif not line.isspace():
            yield _json_line(place, line.rstrip(b"\r\n"), source.repair_encoding, found)
        else:
            continue
        found = ()


def _skip_line(stream: BinaryIO) -> int:
    """Read on to the end of a line, and count its bytes."""
    size = 0
    while piece := stream.readline(BLOCK_BYTES):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


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
        return _object_row(place, DECODER.decode(text), findings, len(line))
    except (ValueError, RecursionError) as error:
        return _unreadable_row(place, _describe_json_error(error), findings)


def _json(source: OpenFile) -> Iterator[RawRow]:
    """Read a list, JSON lines named `.json`, or one object; the first line that is not blank decides which."""
    start = source.stream.tell()
    pieces = iter(lambda: source.stream.readline(source.max_row_bytes + 1), b"")
    first = next((bare for piece in pieces if (bare := piece.strip(JSON_WHITESPACE))), b"")
    source.stream.seek(start)
    if first.startswith(b"["):
        yield from _json_list(source)
    elif not first.startswith(b"{") or len(first) > source.max_row_bytes or _is_json(first):
        yield from _json_lines(source)
    else:
        yield from _json_object(source, is_line=first.endswith(b"}"))


def _json_object(source: OpenFile, is_line: bool) -> Iterator[RawRow]:
    """Read one object over several lines; if it is not one and the first line looks like a row, read JSON lines."""
    start = source.stream.tell()
    size = sum(map(len, read_stream(source.stream)))
    source.stream.seek(start)
    if size > source.max_row_bytes:
        if is_line:
            yield from _json_lines(source)
        else:
            yield _too_long_row(f"{source.display_name}:1", size, source.max_row_bytes, source.findings)
        return
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
        yield _object_row(f"{source.display_name}:{_line_number(text, text.index('{'))}", value, found, size)


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
        too_long = end - start > source.max_row_bytes
        yield _too_long_row(row.source, end - start, source.max_row_bytes, found) if too_long else row
        del row
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
    return _object_row(place, value, findings, end - start), end


def _csv(source: OpenFile, delimiter: str) -> Iterator[RawRow]:
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))  # the most that fits every platform's C long
    encoding, found = _whole_encoding(source)
    lines = _CsvLines(io.TextIOWrapper(source.stream, encoding, newline=""), delimiter, source.max_row_bytes)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        line = lines.start_record()
        place = f"{source.display_name}:{line}"
        try:
            cells = _next_record(reader, lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{source.file}:{line}: is not valid CSV ({error}); fix the row that begins here") from None
        if isinstance(cells, int):
            if not names:
                raise UserError(f"{source.file}:{line}: the row of column names is {cells:,} characters long; fix it")
            yield _too_long_row(place, cells, source.max_row_bytes, found)
            found = ()
            continue
        if not cells or (len(cells) == 1 and cells[0].isspace()):
            continue
        if not names:
            names = cells
            _refuse_bad_names(f"{source.file}:{line}", names)
            continue
        if len(cells) == len(names):
            yield RawRow(place, dict(zip(names, cells, strict=True)), found, lines.record_size)
        else:
            yield _unreadable_row(place, f"has {len(cells)} columns where the header has {len(names)}", found)
        found = ()


def _next_record(reader: Iterator[list[str]], lines: "_CsvLines") -> list[str] | int:
    """Return the cells of the next record, or the length of one that was too long and is skipped."""
    try:
        return next(reader)
    except _RecordTooLongError:
        return lines.skip_record()


class _RecordTooLongError(Exception):
    """A record of a CSV file that is longer than a row may be."""


class _CsvLines:
    """Lines of a CSV file, counted, for the reader of the csv module; a record that gets too long can be skipped."""

    def __init__(self, text: TextIO, delimiter: str, max_characters: int) -> None:
        self.record_size = 0
        self._text, self._max_characters, self._number, self._held = text, max_characters, 0, ""
        self._special = re.compile(f'["\r\n{delimiter}]')
        self._pieces: list[str] = []
        self._lines_before = 0  # the record

    def __iter__(self) -> "_CsvLines":
        return self

    def __next__(self) -> str:
        """Return the next line; raises _RecordTooLongError, and keeps what it has read of the record."""
        line = self._read_line(self._max_characters + 1)
        if not line:
            raise StopIteration
        self._pieces.append(line)
        self.record_size += len(line)
        if self.record_size > self._max_characters:
            raise _RecordTooLongError
        self._number += 1
        return line

    def start_record(self) -> int:
        """Return the number of the line at which the next record begins."""
        self._pieces, self.record_size, self._lines_before = [], 0, self._number
        return self._number + 1

    def skip_record(self) -> int:
        """Read on to the end of the record, and return its length in characters; raises csv.Error if it has none."""
        state, size = "start", 0
        self._number = self._lines_before
        for piece in chain(self._pieces, iter(lambda: self._read_line(BLOCK_BYTES), "")):
            size += len(piece)
            state = self._state_after(piece, state)
            if piece[-1] in "\r\n":
                self._number += 1
                if state == "start":
                    return size
        if state == "quoted":
            raise csv.Error("unexpected end of data")
        return size

    def _read_line(self, limit: int) -> str:
        """Read a line, or about `limit` characters of it, but never half of a line's end."""
        line = self._held if self._held == "\r" else self._held + self._text.readline(limit)
        self._held = ""
        if line.endswith("\r"):
            more = self._text.readline(1)
            line, self._held = (line + more, "") if more == "\n" else (line, more)
        return line

    def _state_after(self, piece: str, state: str) -> str:
        """Follow the quotes through a piece: at a field's start, in a plain or quoted one, or after a quote."""
        end = 0
        for found in self._special.finditer(piece):
            adjacent, end = found.start() == end, found.end()
            if state == "quoted":
                state = "quote" if found[0] == '"' else "quoted"
            elif found[0] != '"':
                state = "start"
            elif state == "quote" and adjacent:
                state = "quoted"
            else:
                state = "quoted" if state == "start" and adjacent else "plain"
        return state if end == len(piece) or state == "quoted" else "plain"


def _refuse_bad_names(place: str, names: list[str]) -> None:
    double = sorted(name for name, count in Counter(names).items() if count > 1 and name.strip())
    if double:
        raise UserError(f"{place}: names the column {', '.join(double)} more than once; rename all but one")
    nameless = [str(number) for number, name in enumerate(names, start=1) if not name.strip()]
    if nameless:
        raise UserError(
            f"{place}: column {', '.join(nameless)} has no name; give it one (save a table without its row numbers)"
        )


def _parquet(file: Path, display_name: str, max_row_bytes: int) -> Iterator[RawRow]:
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{file}: Parquet needs one more package; install thinktune[parquet]") from None
    number = 0
    try:
        with parquet.ParquetFile(file, page_checksum_verification=True) as opened:
            _refuse_bad_names(str(file), opened.schema_arrow.names)
            for batch in opened.iter_batches(_parquet_batch_rows(opened.metadata)):
                for index in range(batch.num_rows):
                    number += 1
                    yield _parquet_row(batch.slice(index, 1), f"{display_name}:{number}", max_row_bytes)
    except UserError:
        raise
    except Exception as error:  # the library raises Arrow's errors, OSError and others: each means a bad file
        raise UserError(
            f"{file}: cannot be read as Parquet ({shorten_error(error)}); write or download it again"
        ) from None


def _parquet_batch_rows(metadata: Any) -> int:
    """Return how many rows, of the largest that a group has on average, are held in memory at once."""
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    largest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(PARQUET_BATCH_ROWS, PARQUET_BATCH_BYTES // max(1, largest)))


def _parquet_row(batch: Any, place: str, max_row_bytes: int) -> RawRow:
    # A dictionary is counted whole for each of its rows, which only point into it.
    size = sum(column.nbytes for column in batch.columns if not hasattr(column, "dictionary"))
    if size > max_row_bytes:
        return _too_long_row(place, size, max_row_bytes, ())
    try:
        return RawRow(place, batch.to_pylist()[0], size=size)
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
    bad = find_bad_byte(read_stream(source.stream))
    source.stream.seek(start)
    if bad is None:
        return "utf-8", source.findings
    gbk = is_gbk(read_stream(source.stream))
    source.stream.seek(start)
    if not gbk:
        raise UserError(f"{source.file}:{bad.line}: is neither UTF-8 nor GBK ({bad}); save the file as UTF-8")
    if not source.repair_encoding:
        remedy = "save it as UTF-8, or set data.faults.encoding: repair"
        raise UserError(f"{source.file}: is GBK, not UTF-8 (line {bad.line}, {bad}); {remedy}")
    sentence = f"{source.display_name}:1: is GBK, not UTF-8, like the whole file, which was read as GBK"
    return "gb18030", (*source.findings, Finding("encoding", sentence, "repaired"))


def _object_row(place: str, value: Any, findings: Findings, size: int) -> RawRow:
    if isinstance(value, dict):
        if _is_too_deep(value):
            return _unreadable_row(place, "is nested too deeply", findings)
        return RawRow(place, value, findings, size)
    return _unreadable_row(place, f"is of type {type(value).__name__}, not an object with columns", findings)


def _is_too_deep(value: dict[str, Any]) -> bool:
    """Return True where a value of JSON is nested so deeply that it could not be passed to another process."""
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        inside = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in inside if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _unreadable_row(place: str, why: str, findings: Findings) -> RawRow:
    return RawRow(place, None, (*findings, Finding("unreadable", f"{place}: {why}")))


def _too_long_row(place: str, size: int, limit: int, findings: Findings) -> RawRow:
    """Return a row that was not read: so long a one takes several times its size in memory."""
    sentence = f"{place}: is {size / 1e6:,.1f} MB long; a row of more than {limit / 1e6:,.1f} MB is not read"
    return RawRow(place, None, (*findings, Finding("too_long", sentence)))


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
