"""Find the rows inside one JSON object: in a list under a key, as columns, or by their names."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from thinktune.data.columns.mapping import COLUMN_ALIASES
from thinktune.data.columns.messages import normalize_key
from thinktune.data.reading.places import element_place
from thinktune.data.reading.raw_rows import Findings, form_finding, is_conversation, object_row, too_long_row
from thinktune.data.types import RawRow
from thinktune.errors import UserError

MAX_DEPTH = 4  # of a key such as result.data.rows


MAX_SHOWN_KEYS = 8


# Keys above rows. A list of objects under another key, with texts beside it, is a part of one row, such as its options.
_ROWS_NAMES = frozenset(
    (
        *("data", "rows", "train", "training", "validation", "valid", "dev", "test", "examples", "samples", "items"),
        *("records", "instances", "entries", "results", "dataset", "questions", "conversations", "list", "documents"),
        *("数据", "样本"),
    )
)


_KNOWN_NAMES = {name for names in COLUMN_ALIASES.values() for name in names}


@dataclass(frozen=True, slots=True)
class WrappedRows:
    """Rows found in an object, and where, as the end of a sentence."""

    rows: list[Any]
    where: str

    def as_rows(self, name: str, findings: Findings, max_row_bytes: int) -> Iterator[RawRow]:
        """Return the rows one by one; the first one tells where they were."""
        findings = (*findings, form_finding(f"{name}:1", self.where))
        for index, value in enumerate(self.rows):
            place, size = element_place(name, index), _size(value)
            if size > max_row_bytes:
                yield too_long_row(place, size, max_row_bytes, findings)
            else:
                yield object_row(place, value, findings, size)
            findings = ()


def unwrap(value: dict[str, Any], key: str | None, file: str) -> WrappedRows | None:
    """Find the rows of an object by `data.rows` or, without it, where only one place can hold them.

    None: the object is a row itself. Raises UserError, naming the file, where the key holds no rows, or several do.
    """
    lists = dict(_row_lists(value))
    if key is not None:
        if key not in lists:
            there = f"rows are under {', '.join(lists)}" if lists else f"its keys are {_join_keys(value)}"
            raise UserError(f"{file}: has no list of rows under {key!r}, as data.rows says; {there}")
        return WrappedRows(lists[key], f"its rows are under {key}, and were read from there")
    if _is_row_itself(value):
        return None
    if columns := _by_column(value):
        return columns
    lists = {name: rows for name, rows in lists.items() if _may_hold_rows(name, value)}
    if len(lists) == 1:
        [(found, rows)] = lists.items()
        return WrappedRows(rows, f"is one object, whose rows are under {found}, and were read from there")
    if lists:
        raise UserError(
            f"{file}: is one object with rows under {', '.join(list(lists)[:MAX_SHOWN_KEYS])}; choose with "
            f"data.rows: {next(iter(lists))}"
        )
    return _by_name(value)


def _may_hold_rows(name: str, value: dict[str, Any]) -> bool:
    """Return True for a list of objects that are rows by their key, or by being all the text that there is."""
    return normalize_key(name.rpartition(".")[2]) in _ROWS_NAMES or not any(
        isinstance(inner, str) and inner.strip() for inner in value.values()
    )


def _row_lists(value: dict[str, Any], prefix: str = "", depth: int = MAX_DEPTH) -> Iterator[tuple[str, list[Any]]]:
    """Yield each list of objects inside an object, with its path; lists inside of rows are not searched."""
    for name, inner in value.items():
        if isinstance(inner, list) and inner and not is_conversation(inner):
            conversations = all(map(is_conversation, inner))
            if conversations or all(isinstance(one, dict) for one in inner):
                yield f"{prefix}{name}", inner
        elif isinstance(inner, dict) and depth > 1:
            yield from _row_lists(inner, f"{prefix}{name}.", depth - 1)


def _is_row_itself(value: dict[str, Any]) -> bool:
    """Return True if an object has a question and an answer, or a conversation, under their usual names."""

    def has(part: str) -> bool:
        named = (inner for name, inner in value.items() if normalize_key(name) in COLUMN_ALIASES[part])
        return any(is_conversation(inner) if part == "messages" else isinstance(inner, str) for inner in named)

    return has("messages") or (has("question") and has("answer"))


def _by_column(value: dict[str, Any]) -> WrappedRows | None:
    """Read an object of columns, as tables are saved; None if it is none."""
    inner = list(value.values())
    if _is_split_table(value):
        rows = [dict(zip(value["columns"], cells, strict=True)) for cells in value["data"]]
        return WrappedRows(rows, "is one table with its columns and data apart, and was read row by row")
    told = "is one object of columns, and was read row by row"
    if len(inner) < 2:
        return None
    if all(isinstance(one, list) and len(one) == len(inner[0]) > 0 and not is_conversation(one) for one in inner):
        return WrappedRows([dict(zip(value, cells, strict=True)) for cells in zip(*inner, strict=True)], told)
    if all(isinstance(one, dict) and one.keys() == inner[0].keys() and one for one in inner):
        keys = list(inner[0])
        if all(map(str.isdecimal, keys)):
            return WrappedRows([{name: column[key] for name, column in value.items()} for key in keys], told)
    return None


def _by_name(value: dict[str, Any]) -> WrappedRows | None:
    """Read an object of rows by their names; None if it is none."""
    inner = list(value.values())
    if (
        len(inner) < 2
        or not all(isinstance(one, dict) and one for one in inner)
        or _KNOWN_NAMES & set(map(normalize_key, value))
    ):
        return None
    keys = set(inner[0])
    if all(keys & set(one) for one in inner) and any(isinstance(cell, str | list) for cell in inner[0].values()):
        return WrappedRows(inner, "is one object of rows by their names, and was read row by row")
    return None


def _is_split_table(value: dict[str, Any]) -> bool:
    columns, data = value.get("columns"), value.get("data")
    return (
        isinstance(columns, list)
        and all(isinstance(name, str) for name in columns)
        and isinstance(data, list)
        and bool(data)
        and all(isinstance(cells, list) and len(cells) == len(columns) for cells in data)
    )


def _size(value: Any) -> int:
    """Count the characters of all texts in a value, roughly."""
    size, level = 0, [value]
    while level:
        inside = level.pop()
        if isinstance(inside, dict):
            level += inside.values()
            size += sum(map(len, inside))
        elif isinstance(inside, list):
            level += inside
        else:
            size += len(inside) if isinstance(inside, str) else 8
    return size


def _join_keys(value: dict[str, Any]) -> str:
    return ", ".join(list(value)[:MAX_SHOWN_KEYS]) + (", …" if len(value) > MAX_SHOWN_KEYS else "")
