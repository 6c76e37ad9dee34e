"""Raw rows of one file, read once and in order, so that any of them is at hand at once: what a long list shows."""

import json
import os
import tempfile
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from thinktune.data.reading.raw_rows import is_of_file
from thinktune.data.reading.readers import read_rows
from thinktune.data.types import RawRow
from thinktune.errors import UserError
from thinktune.report.run_sections.data_words import fault_name

MAX_SPOOL_BYTES = 4 * 2**30  # of a copy on the disk; what is beyond is not listed
MAX_CELL_CHARACTERS = 400  # of a cell in a list
MAX_WHOLE_CELL_CHARACTERS = 200_000  # of a cell of one row
MAX_COLUMNS = 200
MAX_NOTES = 20  # about the file; an archive may have one of each of its parts
MAX_ROWS_A_PAGE = 200
WAIT_SECONDS = 2.0  # for rows that are not read yet
MAX_SEARCHES = 4  # whose hits are kept
FIRST_ROWS = 50  # are shown as soon as they are read; later ones by more and more
BEFORE_HIT_CHARACTERS = 60  # of a cell, shown before what was searched for
TEXT, NOTHING, VALUE = "t", "n", "v"  # what a cell is: a text, null, or any other value as JSON


@dataclass(frozen=True, slots=True)
class RowsPage:
    """Some rows of a file as plain values, how many there are so far, and whether that is all of them.

    Of a search, `found` counts its hits among the rows so far. `notes` are sentences about the whole file.
    """

    rows: tuple[dict[str, Any], ...]
    total: int
    is_whole: bool
    columns: tuple[str, ...]
    found: int | None
    mistakes: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Search:
    """Hits of a search in the first `searched` rows."""

    searched: int = 0
    hits: "array[int]" = field(default_factory=lambda: array("q"))


class RowSpool:
    """Rows of one file, copied by a thread of its own to a temporary file without a name, with the place of each.

    `close` ends the thread; the disk's space comes back with the last request that uses the copy.
    """

    def __init__(self, path: Path, name: str, rows_key: str | None = None) -> None:
        self._offsets = array("q", [0])  # where each row ends, after the first 0
        self._columns: dict[str, None] = {}
        self._mistakes: tuple[str, ...] = ()
        self._notes: list[str] = []
        self._finished = self._closed = False
        self._changed = threading.Condition()
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="thinktune-rows-", buffering=2**20)  # noqa: SIM115
        self._searches: OrderedDict[str, _Search] = OrderedDict()
        self._searching = threading.Lock()
        threading.Thread(target=self._copy, args=(path, name, rows_key), daemon=True).start()

    def close(self) -> None:
        """Stop reading."""
        self._closed = True

    def page(self, first: int, count: int, search: str = "", wait_seconds: float = WAIT_SECONDS) -> RowsPage:
        """Return rows from a number on; of a search, from a number of its hits on.

        Waits a little for rows that are not read yet; those still missing come with a later call.
        """
        count = min(count, MAX_ROWS_A_PAGE)
        total, is_whole = self._wait_for(first + count, wait_seconds)
        hits = self._find(search.lower(), total) if search else None
        numbers: Sequence[int] = range(total) if hits is None else hits
        rows = tuple(self.row(number, MAX_CELL_CHARACTERS, search) for number in numbers[first : first + count])
        found = None if hits is None else len(hits)
        return RowsPage(rows, total, is_whole, tuple(self._columns), found, self._mistakes, tuple(self._notes))

    def _wait_for(self, rows: int, seconds: float) -> tuple[int, bool]:
        """Wait a little until so many rows are read; return how many are, and whether that is all."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished or len(self._offsets) > rows, seconds)
            return len(self._offsets) - 1, self._finished

    def row(self, number: int, most_characters: int = MAX_WHOLE_CELL_CHARACTERS, search: str = "") -> dict[str, Any]:
        """Return a row: its number, place, cells and what was found in reading; raises IndexError where it is none."""
        if not 0 <= number < self._wait_for(number + 1, WAIT_SECONDS)[0]:
            raise IndexError(number)
        head, names, texts = self._line(number).split(b"\t")
        source, findings, kinds = json.loads(head)
        parts = zip(json.loads(names), kinds, json.loads(texts), strict=True)
        cells = {name: _cell(kind, text, most_characters, search) for name, kind, text in parts}
        named = [finding | {"name": _name(finding["fault"])} for finding in findings]
        return {"number": number, "source": source, "findings": named, "cells": cells}

    def find_source(self, source: str) -> int | None:
        """Return the number of the row at a place such as `rows.jsonl:12`; None where it is not read yet, or not here.

        A row's number is hardly ever far from its line, so that the search begins there.
        """
        wanted = b"[" + _encode(json.dumps(source, ensure_ascii=False)) + b","
        line = source.rpartition(":")[2]
        number = int(line) if line.isascii() and line.isdecimal() and len(line) < 12 else 1
        total = self._wait_for(number, WAIT_SECONDS)[0]
        guess = min(number, total) - 1
        near = (number for step in range(total) for number in {guess - step, guess + step} if 0 <= number < total)
        return next((number for number in near if self._line(number).startswith(wanted)), None)

    def _line(self, number: int) -> bytes:
        start, end = self._offsets[number], self._offsets[number + 1]
        return os.pread(self._file.fileno(), end - start, start)

    def _find(self, lowered: str, total: int) -> "array[int]":
        """Search the rows that were not searched yet for a text in lower case."""
        wanted = json.dumps(lowered, ensure_ascii=False)[1:-1]
        with self._searching:
            search = self._searches.setdefault(lowered, _Search())
            self._searches.move_to_end(lowered)
            while len(self._searches) > MAX_SEARCHES:
                self._searches.popitem(last=False)
            for number in range(search.searched, total):
                if wanted in self._line(number).rpartition(b"\t")[2].decode().lower():
                    search.hits.append(number)
            search.searched = max(total, search.searched)
            return search.hits[:]

    def _copy(self, path: Path, name: str, rows_key: str | None) -> None:
        """Read the file and copy its rows; what stops the reading is told in a sentence."""
        mistakes: tuple[str, ...] = ()
        ends: list[int] = []
        try:
            end = 0
            for row in read_rows(path, name, repair_encoding=True, rows_key=rows_key):
                if self._closed:
                    break
                if end > MAX_SPOOL_BYTES:
                    shown = len(self._offsets) - 1 + len(ends)
                    mistakes = (f"{name}: only its first {shown:,} rows are shown here; training reads all of them",)
                    break
                told = [found.sentence for found in row.findings if is_of_file(found.fault, found.sentence)]
                self._notes += told[: MAX_NOTES - len(self._notes)]
                line = _spell_row(row)
                self._file.write(line)
                end += len(line)
                ends.append(end)
                for column in (row.columns or {}) if len(self._columns) < MAX_COLUMNS else ():
                    self._columns.setdefault(_plain(str(column)))
                if len(ends) >= max(FIRST_ROWS, len(self._offsets) // 4):
                    self._publish(ends)
                    ends = []
        except UserError as error:
            mistakes = tuple(error.faults)
        except OSError as error:
            mistakes = (f"{name}: cannot be read ({error.strerror or error}); correct it",)
        except Exception as error:  # a library's, about bytes that it cannot read
            mistakes = (f"{name}: cannot be read ({type(error).__name__}); correct it",)
        self._publish(ends, mistakes, finished=True)

    def _publish(self, ends: Sequence[int], mistakes: tuple[str, ...] = (), *, finished: bool = False) -> None:
        """Show the rows that end at these places to those who wait for them."""
        try:
            self._file.flush()
        except OSError as error:  # the disk is full: those rows are not in the copy
            ends, mistakes = (), (f"the copy of these rows cannot be written ({error.strerror}); free some space",)
            finished = self._closed = True
        with self._changed:
            self._offsets.extend(ends)
            self._mistakes, self._finished = mistakes, finished
            self._changed.notify_all()


def _spell_row(row: RawRow) -> bytes:
    """Return a row as one line: place, findings and kinds of its cells; names; texts: apart from each other by tabs.

    What was found about the whole file is left out.
    """
    columns = row.columns or {}
    kinds, texts = "", list[str]()
    for value in columns.values():
        kinds += TEXT if isinstance(value, str) else NOTHING if value is None else VALUE
        texts.append(value if isinstance(value, str) else "" if value is None else _spell_value(value))
    findings = [
        {"fault": finding.fault, "sentence": finding.sentence, "action": finding.action}
        for finding in row.findings
        if not is_of_file(finding.fault, finding.sentence)
    ]
    parts = ((row.source, findings, kinds), list(map(str, columns)), texts)
    return _encode("\t".join(json.dumps(part, ensure_ascii=False) for part in parts) + "\n")


def _name(fault: str) -> dict[str, str]:
    name = fault_name(fault)
    return {"en": name.en, "zh": name.zh}


def _spell_value(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # a number of too many digits
        return f"({type(value).__name__})"


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _plain(text).encode()


def _plain(text: str) -> str:
    """Return a text whose halves of surrogate pairs, which JSON can hold, are replaced: they have no UTF-8 form."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _cell(kind: str, text: str, most: int, search: str) -> dict[str, Any]:
    """Return a cell: its text, cut around what was searched for, and how long it is in characters."""
    if len(text) <= most:
        return {"kind": kind, "text": text, "characters": len(text)}
    hit = text.lower().find(search.lower()) if search else 0
    start = max(0, hit - BEFORE_HIT_CHARACTERS)
    ends = ("…" if start else "", "…" if start + most < len(text) else "")
    return {"kind": kind, "text": f"{ends[0]}{text[start : start + most]}{ends[1]}", "characters": len(text)}


class SpoolShelf:
    """Spools of the files that were looked at last; a file that has changed is read again."""

    def __init__(self, most: int = 3) -> None:
        self._most = most
        self._spools: OrderedDict[tuple[Any, ...], RowSpool] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path, name: str, rows_key: str | None = None) -> RowSpool:
        """Return a file's spool, made where there is none yet; raises OSError where there is no such file."""
        held = path.stat()
        key = (path, name, rows_key, held.st_mtime_ns, held.st_size)
        with self._lock:
            spool = self._spools.get(key) or RowSpool(path, name, rows_key)
            for other in [one for one in self._spools if one[:3] == key[:3] and one != key]:
                self._spools.pop(other).close()
            self._spools[key] = spool
            self._spools.move_to_end(key)
            while len(self._spools) > self._most:
                self._spools.popitem(last=False)[1].close()
            return spool
