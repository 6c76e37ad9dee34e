"""Make raw rows of values that were read: objects, what is no row, and what is too long to be one."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from thinktune.data.reading.encoding import find_bad_byte, is_gbk, read_stream
from thinktune.data.types import Finding, RawRow
from thinktune.errors import UserError

Findings = tuple[Finding, ...]


MAX_NESTING = 100


WHOLE_FILE = "the whole file is GBK, not UTF-8, and was read as GBK"  # which is no fault of its first row
FILE_FAULTS = ("byte_order_mark", "file_form")


ROLE_KEYS = {"role", "from"}  # a list of objects that all have one of these is a conversation, not rows


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open text file: its path, its name in messages, its bytes, and findings for its first row.

    `rows_key` is the recipe's `data.rows`, the key of an object under which the rows are.
    """

    file: Path
    display_name: str
    stream: BinaryIO
    repair_encoding: bool
    max_row_bytes: int
    findings: Findings
    rows_key: str | None = None


def is_of_file(fault: str, sentence: str) -> bool:
    """Return True for a finding about a whole file, which its first row only carries."""
    return fault in FILE_FAULTS or (fault == "encoding" and sentence.endswith(WHOLE_FILE))


def form_finding(place: str, what: str) -> Finding:
    """Return a finding that tells in which form a file was read, where its name does not say so."""
    return Finding("file_form", f"{place}: {what}", "repaired")


def loose_finding(place: str, what: str) -> Finding:
    """Return a finding that tells that a row is no strict JSON, and was read all the same."""
    return Finding("loose_json", f"{place}: {what}", "repaired")


def object_row(place: str, value: Any, findings: Findings, size: int) -> RawRow:
    """Return the row of a JSON value: of an object, of its JSON as a text, or of a list of messages (as `messages`)."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            value = DECODER.decode(value)
            findings = (*findings, loose_finding(place, "is JSON written as a text, and was read as an object"))
    if isinstance(value, list) and is_conversation(value):
        findings = (*findings, loose_finding(place, "is a bare list of messages, and was read as the column messages"))
        value = {"messages": value}
    if not isinstance(value, dict):
        return unreadable_row(place, f"is of type {type(value).__name__}, not an object with columns", findings)
    if _is_too_deep(value):
        return unreadable_row(place, "is nested too deeply", findings)
    return RawRow(place, value, findings, size)


def is_conversation(value: Any) -> bool:
    """Return True for a list of objects with roles."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and not ROLE_KEYS.isdisjoint(map(str.lower, one)) for one in value)
    )


def _is_too_deep(value: dict[str, Any]) -> bool:
    """Return True where a value of JSON is nested so deeply that it could not be passed to another process."""
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        inside = (inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer))
        level = [inner for inner in inside if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def unreadable_row(place: str, why: str, findings: Findings) -> RawRow:
    """Return a row that could not be read."""
    return RawRow(place, None, (*findings, Finding("unreadable", f"{place}: {why}")))


def too_long_row(place: str, size: int, limit: int, findings: Findings) -> RawRow:
    """Return a row that was not read: so long a one takes several times its size in memory."""
    sentence = f"{place}: is {size / 1e6:,.1f} MB long; a row of more than {limit / 1e6:,.1f} MB is not read"
    return RawRow(place, None, (*findings, Finding("too_long", sentence)))


def describe_json_error(error: ValueError | RecursionError) -> str:
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


def whole_text(source: OpenFile) -> tuple[str, Findings]:
    """Read a file to its end as one text; returns it with the findings of its first row."""
    encoding, found = whole_encoding(source)
    return source.stream.read().decode(encoding), found


def whole_encoding(source: OpenFile) -> tuple[str, Findings]:
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
        remedy = "save it as UTF-8, or write data.faults: {encoding: repair}"
        raise UserError(f"{source.file}: is GBK, not UTF-8 (line {bad.line}, {bad}); {remedy}")
    sentence = f"{source.display_name}:1: {WHOLE_FILE}"
    return "gb18030", (*source.findings, Finding("encoding", sentence, "repaired"))


def window_text(window: bytes) -> str:
    """Decode the beginning of a file, to look at its form; a character that is cut off or wrong is replaced."""
    try:
        return window.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and error.end == len(window):
            return window[: error.start].decode()
        return window.decode("gb18030", "replace")
