"""Read tables of text (CSV, TSV and their like) record by record, whatever separates their columns."""

import csv
import io
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from typing import BinaryIO, TextIO

from thinktune.data.reading.encoding import BLOCK_BYTES
from thinktune.data.reading.places import line_place
from thinktune.data.reading.raw_rows import (
    Findings,
    OpenFile,
    form_finding,
    too_long_row,
    unreadable_row,
    whole_encoding,
)
from thinktune.data.reading.table_dialect import WINDOW_CHARACTERS, TableDialect, find_dialect
from thinktune.data.reading.table_header import MAX_TITLE_LINES, TableHeader, find_header
from thinktune.data.types import RawRow
from thinktune.errors import UserError

HEADER_RECORDS = 100 + MAX_TITLE_LINES  # read before the names are known


_Record = tuple[int, int, "list[str] | int"]  # its line, its characters, and its cells or, if it is too long, none


def read_table(source: OpenFile, usual_separator: str) -> Iterator[RawRow]:
    """Read a table; its separator, a title above it and columns without a name are found from its beginning."""
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))  # the most that fits every platform's C long
    encoding, found = whole_encoding(source)
    start = source.stream.tell()
    with _decoded(source.stream, encoding) as text:
        window = text.read(WINDOW_CHARACTERS)
    is_whole = len(window) < WINDOW_CHARACTERS
    dialect = find_dialect(window, usual_separator, is_whole=is_whole)
    source.stream.seek(start)
    with _decoded(source.stream, encoding) as text:
        lines = _TableLines(text, dialect, source.max_row_bytes)
        yield from _read_rows(source, lines, dialect, usual_separator, found)


@contextmanager
def _decoded(stream: BinaryIO, encoding: str) -> Generator[TextIO]:
    """Decode a stream as text, and leave it open: it is its opener's to close."""
    text = io.TextIOWrapper(stream, encoding, newline="")
    try:
        yield text
    finally:
        with suppress(ValueError):  # it is closed already
            text.detach()


def _read_rows(
    source: OpenFile, lines: "_TableLines", dialect: TableDialect, usual_separator: str, found: Findings
) -> Iterator[RawRow]:
    """Read the rows of a table whose dialect is known; `found` goes with the first."""
    records = _records(source, lines, dialect)
    first: list[_Record] = []
    for record in records:
        first.append(record)
        if len(first) == HEADER_RECORDS:
            break
    filled = [cells for _, _, cells in first if isinstance(cells, list)]
    if not first:
        return
    if isinstance(first[0][2], int):
        raise UserError(
            f"{source.file}:{first[0][0]}: the row of column names is {first[0][2]:,} characters long; fix it"
        )
    header = find_header(filled, f"{source.file}:{first[0][0]}")
    place = line_place(source.display_name, first[0][0])
    told = (*dialect.describe(usual_separator), *header.told)
    found = (*found, *(form_finding(place, what) for what in told))
    if dialect.separator == "|":
        header = replace(header, names=tuple(name.strip() for name in header.names))
    body = first[header.first_row :]
    if body and isinstance(body[0][2], list) and header.is_rule(body[0][2]):
        body = body[1:]
    for line, size, cells in chain(body, records):
        row = _row(line_place(source.display_name, line), cells, size, header, source.max_row_bytes)
        yield replace(row, findings=(*found, *row.findings)) if found else row
        found = ()


def _row(place: str, cells: list[str] | int, size: int, header: TableHeader, limit: int) -> RawRow:
    if isinstance(cells, int):
        return too_long_row(place, cells, limit, ())
    width = len(header.names)
    if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
        cells = cells[:width]  # separators at the end, as Excel writes them
    if len(cells) == width:
        return RawRow(place, header.to_columns(cells), (), size)
    return unreadable_row(place, f"has {len(cells)} columns where the header has {width}", ())


def _records(source: OpenFile, lines: "_TableLines", dialect: TableDialect) -> Iterator[_Record]:
    """Yield each record that is not blank."""
    reader = dialect.reader(lines)
    if dialect.names_separator:
        lines.skip_line()
    while True:
        line = lines.start_record()
        try:
            cells = _next_record(reader, lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{source.file}:{line}: is not valid CSV ({error}); fix the row that begins here") from None
        if isinstance(cells, int) or (cells and not (len(cells) == 1 and cells[0].isspace())):
            yield line, lines.record_size, cells


def _next_record(reader: Iterator[list[str]], lines: "_TableLines") -> list[str] | int:
    """Return the cells of the next record, or the length of one that was too long and is skipped."""
    try:
        return next(reader)
    except _RecordTooLongError:
        return lines.skip_record()


class _RecordTooLongError(Exception):
    """A record of a table that is longer than a row may be."""


class _TableLines:
    """Lines of a table, counted, for the reader of the csv module; a record that gets too long can be skipped."""

    def __init__(self, text: TextIO, dialect: TableDialect, max_characters: int) -> None:
        self.record_size = 0
        self._text, self._max_characters, self._number, self._held = text, max_characters, 0, ""
        self._dialect = dialect
        self._special = re.compile(f"[\r\n{re.escape(dialect.quote + dialect.separator)}]")
        self._pieces: list[str] = []
        self._lines_before = 0  # the record

    def __iter__(self) -> "_TableLines":
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
        return self._dialect.plain_quotes(line)

    def skip_line(self) -> None:
        """Read past one line that is no record."""
        self._read_line(self._max_characters + 1)
        self._number += 1

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
            state = self._state_after(self._dialect.plain_quotes(piece), state)
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
                state = "quote" if found[0] == self._dialect.quote else "quoted"
            elif found[0] != self._dialect.quote:
                state = "start"
            elif state == "quote" and adjacent:
                state = "quoted"
            else:
                state = "quoted" if state == "start" and adjacent else "plain"
        return state if end == len(piece) or state == "quoted" else "plain"
