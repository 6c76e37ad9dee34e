"""Read JSON in any of its forms: lines, a list, objects over lines, or one object with the rows under a key."""

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, BinaryIO

from thinktune.data.reading.encoding import BLOCK_BYTES, find_bad_byte, is_gbk
from thinktune.data.reading.loose_json import decode_loosely, find_end
from thinktune.data.reading.places import element_place, line_place
from thinktune.data.reading.raw_rows import (
    DECODER,
    LENIENT_DECODER,
    Findings,
    OpenFile,
    describe_json_error,
    form_finding,
    is_conversation,
    loose_finding,
    object_row,
    too_long_row,
    unreadable_row,
    whole_text,
    window_text,
)
from thinktune.data.reading.wrapped_rows import unwrap
from thinktune.data.types import Finding, RawRow
from thinktune.errors import UserError

JSON_WHITESPACE = b" \t\r\n"  # all that JSON allows as white space


JSON_WHITESPACE_PATTERN = re.compile(r"[ \t\r\n]*")


def read_json(source: OpenFile, named: str) -> Iterator[RawRow]:
    """Read a file of JSON by what it is; a form that the name does not say (`jsonl`, `json`) is told."""
    start = source.stream.tell()
    first, is_last = _first_line(source.stream, source.max_row_bytes)
    source.stream.seek(start)
    if first.startswith(b"["):
        if _is_list_a_line(first, is_last, source.stream, named):
            source.stream.seek(start)
            yield from _json_lines(source)
            return
        source.stream.seek(start)
        yield from _json_list(source if named == "json" else _told(source, "is a JSON list, not JSON lines"))
    elif not first.startswith(b"{"):
        yield from _json_lines(source)
    elif is_last or len(first) > source.max_row_bytes or not _is_row(first):
        yield from _objects_or_lines(source, first, is_last, named)
    else:
        _refuse_unused_key(source)
        yield from _json_lines(source)


def is_json_start(window: bytes) -> bool:
    """Return True if a file that may be a table begins as JSON does: with an object, or a list of objects."""
    text = window_text(window).lstrip()
    if re.match(r"\[\s*[{\[]", text):
        return True
    return text.startswith("{") and (_is_row(text.partition("\n")[0].encode()) or bool(re.match(r"\{\s*[\"']", text)))


def _told(source: OpenFile, what: str) -> OpenFile:
    finding = form_finding(line_place(source.display_name, 1), f"{what}, not what its name says, and was read as that")
    return replace(source, findings=(*source.findings, finding))


def _first_line(stream: BinaryIO, limit: int) -> tuple[bytes, bool]:
    """Return the first line that is not blank, or its first bytes, and whether only blank lines follow it."""
    pieces = iter(lambda: stream.readline(limit + 1), b"")
    first = next((bare for piece in pieces if (bare := piece.strip(JSON_WHITESPACE))), b"")
    if len(first) > limit:
        _skip_line(stream)
    return first, not any(piece.strip(JSON_WHITESPACE) for piece in iter(lambda: stream.read(BLOCK_BYTES), b""))


def _is_list_a_line(first: bytes, is_last: bool, stream: BinaryIO, named: str) -> bool:
    """Return True if every line is a list of its own, as conversations without names are written."""
    if is_last or not _is_json(first):
        return False
    stream.readline()
    second = next((bare for line in iter(stream.readline, b"") if (bare := line.strip(JSON_WHITESPACE))), b"")
    if not second.startswith(b"["):
        return named != "json" and second.startswith(b"{")
    value = DECODER.decode(window_text(first))
    return is_conversation(value) or (named != "json" and not all(isinstance(one, dict) for one in value))


def _objects_or_lines(source: OpenFile, first: bytes, is_last: bool, named: str) -> Iterator[RawRow]:
    """Read objects over several lines, or lines of which the first is faulty, by whether the first object is whole."""
    start = source.stream.tell()
    window = source.stream.read(source.max_row_bytes + 1)
    is_whole = len(window) <= source.max_row_bytes
    text = window_text(window)
    source.stream.seek(start)
    is_line = first.endswith((b"}", b"},"))
    try:
        read = _read_value(text, _skip_whitespace(text, 0))
    except (ValueError, RecursionError) as error:
        if is_line or (is_last and named != "json") or _has_row_lines(text):
            yield from _json_lines(source)
        elif not is_whole:
            yield from _too_long_object(source)
        else:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise UserError(
                f"{source.file}:{line}: {describe_json_error(error)}; fix it, or save the rows as JSON lines"
            ) from None
        return
    follows = text[_skip_separator(text, read.end) :][:1]
    is_single = is_whole and not follows
    wrapped = (
        unwrap(read.value, source.rows_key, str(source.file)) if is_single and isinstance(read.value, dict) else None
    )
    if wrapped is not None:
        yield from wrapped.as_rows(source.display_name, whole_text(source)[1], source.max_row_bytes)
    elif is_line and follows != "{" and (is_last or follows):
        _refuse_unused_key(source)
        yield from _json_lines(source)
    else:
        _refuse_unused_key(source)
        yield from _objects(source, named, is_single=is_single)


def _has_row_lines(text: str) -> bool:
    """Return True if one of the first lines is a row by itself; inside a pretty object, lines are indented."""
    return any(line.startswith("{") and _is_row(line.encode("utf-8", "replace")) for line in text.split("\n", 50)[:50])


def _too_long_object(source: OpenFile) -> Iterator[RawRow]:
    """Read an object that is longer than a row may be: rows under a key, or one row that is only named."""
    text, found = whole_text(source)
    try:
        value = _read_value(text, _skip_whitespace(text, 0)).value
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and (wrapped := unwrap(value, source.rows_key, str(source.file))):
        yield from wrapped.as_rows(source.display_name, found, source.max_row_bytes)
    else:
        yield too_long_row(line_place(source.display_name, 1), len(text), source.max_row_bytes, found)


def _objects(source: OpenFile, named: str, *, is_single: bool) -> Iterator[RawRow]:
    """Read objects one after the other."""
    text, found = whole_text(source)
    if not is_single or named != "json":
        found = (*found, form_finding(line_place(source.display_name, 1), "holds objects over several lines"))
    yield from _elements(replace(source, findings=found), text, _skip_whitespace(text, 0), 0, is_list=False)


def _refuse_unused_key(source: OpenFile) -> None:
    if source.rows_key is not None:
        raise UserError(
            f"{source.file}: is not one object with rows under a key, as data.rows: {source.rows_key} says; leave "
            "data.rows out"
        )


def _json_list(source: OpenFile) -> Iterator[RawRow]:
    """Read the elements of a list, each with its own place."""
    _refuse_unused_key(source)
    text, found = whole_text(source)
    start, index = text.index("["), 0
    while text[start : start + 1] == "[":
        inside = replace(source, findings=found)
        start, index = yield from _elements(inside, text, _skip_whitespace(text, start + 1), index, is_list=True)
        start, found = _skip_separator(text, start), ()
    if start < len(text):
        where = f"{source.file}:{_line_number(text, start)}"
        raise UserError(f"{where}: there is more after the end of the list ({text[start : start + 20]!r}); remove it")


def _elements(
    source: OpenFile, text: str, start: int, first_index: int, *, is_list: bool
) -> Generator[RawRow, None, tuple[int, int]]:
    """Read values one after the other: the elements of a list up to its end, or objects up to the end of the text.

    Returns where it has ended, and the index that comes next.
    """
    found, line, counted, previous_line, index = source.findings, 1, 0, 0, first_index
    for index in count(first_index):
        closing = text[start : start + 1]
        if closing in (("]",) if is_list else ("",)):
            break
        line, counted = line + text.count("\n", counted, start), start
        try:
            read = _read_value(text, start)
        except (ValueError, RecursionError) as error:
            what = "the list " if is_list else ""
            line = error.lineno if isinstance(error, json.JSONDecodeError) else line
            raise UserError(
                f"{source.file}:{line}: {what}{describe_json_error(error)}; fix it, or save the rows as JSON lines"
            ) from None
        following = _next_element(source, text, read.end, is_list=is_list)
        # Rows that share a line are told apart by their index.
        is_last = text[following : following + 1] in ("]" if is_list else "")
        shares = line == previous_line or not (is_last or "\n" in text[start:following])
        place = element_place(source.display_name, index) if shares else line_place(source.display_name, line)
        yield read.as_row(place, read.end - start, source.max_row_bytes, found)
        del read
        found, previous_line, start = (), line, following
    return start + is_list, index


def _next_element(source: OpenFile, text: str, end: int, *, is_list: bool) -> int:
    """Return where the next element begins, or where the list is closed."""
    start = _skip_whitespace(text, end)
    if not is_list:
        return _skip_separator(text, end)
    if text[start : start + 1] == "]":
        return start
    if text[start : start + 1] != ",":
        where = f"{source.file}:{_line_number(text, start)}"
        raise UserError(f"{where}: the list breaks off or lacks a comma after an element; fix it")
    return _skip_whitespace(text, start + 1)


@dataclass(frozen=True, slots=True)
class _ReadValue:
    """A value and where it ends; `why` is set where only its end is known, and `loose` where it is no strict JSON."""

    value: Any
    end: int
    why: str = ""
    loose: str = ""

    def as_row(self, place: str, size: int, limit: int, findings: Findings) -> RawRow:
        """Return the value as a row."""
        if size > limit:
            return too_long_row(place, size, limit, findings)
        if self.why:
            return unreadable_row(place, self.why, findings)
        if self.loose:
            findings = (*findings, loose_finding(place, self.loose))
        return object_row(place, self.value, findings, size)


def _read_value(text: str, start: int) -> _ReadValue:
    """Read the value at a position of a text; raises ValueError where not even its end is known."""
    try:
        value, end = DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        try:
            end = find_end(text, start)
            value, loose = decode_loosely(text[start:end])
        except ValueError:
            raise error from None
        return _ReadValue(value, end, loose=loose)
    except ValueError as error:  # a duplicate key or a number too long: the lenient decoder finds the end
        return _ReadValue(None, LENIENT_DECODER.raw_decode(text, start)[1], why=describe_json_error(error))
    return _ReadValue(value, end)


def _json_lines(source: OpenFile) -> Iterator[RawRow]:
    found = source.findings
    for number in count(1):
        line = source.stream.readline(source.max_row_bytes + 1)
        place = line_place(source.display_name, number)
        if not line:
            return
        if len(line) > source.max_row_bytes and not line.endswith(b"\n"):
            yield too_long_row(place, len(line) + _skip_line(source.stream), source.max_row_bytes, found)
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
        return object_row(place, DECODER.decode(text), findings, len(line))
    except (ValueError, RecursionError) as error:
        why = describe_json_error(error)
        if isinstance(error, json.JSONDecodeError):
            try:
                value, loose = decode_loosely(text)
            except ValueError:
                return unreadable_row(place, why, findings)
            return object_row(place, value, (*findings, loose_finding(place, loose)), len(line))
    return unreadable_row(place, why, findings)


def _is_row(line: bytes) -> bool:
    """Return True if a line by itself is JSON or nearly so."""
    if _is_json(line):
        return True
    try:
        decode_loosely(window_text(line))
    except ValueError:
        return False
    return True


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


def _skip_separator(text: str, position: int) -> int:
    """Skip white space, and one comma in it."""
    position = _skip_whitespace(text, position)
    return _skip_whitespace(text, position + 1) if text[position : position + 1] == "," else position


def _line_number(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
