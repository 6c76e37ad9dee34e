"""Columns of a file that are neither trained nor ignored: counted row by row, and refused where they hold prose."""

from typing import Any

from thinktune.data import RawRow
from thinktune.errors import UserError
from thinktune.layout import KNOWN, Layout, flow
from thinktune.turns import KEYS, blank, plain

TEXT_HEAVY_CHARACTERS = 20  # a column longer than this on average is prose that someone may have meant to train

# Of each column that is not used: the rows in which it holds text, and the characters of these.
Counts = dict[str, list[int]]


def count_columns(row: RawRow, layout: Layout, counts: Counts) -> None:
    """Add a row's texts in columns, and in keys of its messages, that are neither used nor ignored."""
    used, conversations = layout.used, layout.conversations
    for name, value in (row.columns or {}).items():
        if name in conversations:
            for message in value if isinstance(value, list) else ():
                for key in message if isinstance(message, dict) else ():
                    if plain(key) not in KEYS and f"{name}.{key}" not in layout.ignored:
                        _count(f"{name}.{key}", message[key], counts)
        elif name not in used and name not in layout.ignored:
            _count(name, value, counts)


def refuse_unused(counts: Counts, layout: Layout, file: str) -> None:
    """Raise UserError where a column of prose or of a known name would be left out, with the mapping to write."""
    refused = sorted(
        name
        for name, (rows, characters) in counts.items()
        if characters > TEXT_HEAVY_CHARACTERS * rows or plain(name) in KNOWN
    )
    if not refused:
        return
    faults = [f"data.ignore: column {name!r} of {file} {_remedy(name, counts[name], layout)}" for name in refused]
    remedy = f"where that is right, write it and data.ignore: {flow([*layout.ignored, *refused])}"
    raise UserError([*faults, f"data.columns: {file} is read as data.columns: {layout.mapping}; {remedy}"])


def _count(name: str, value: Any, counts: Counts) -> None:
    if _is_text(name, value) and not blank(value):
        rows, characters = counts.get(name, (0, 0))
        counts[name] = [rows + 1, characters + len(value)]


def _is_text(name: str, value: Any) -> bool:
    """A list or object is data about the row, and one word of ASCII an identifier, unless its name says more."""
    if plain(name) in KNOWN:
        return isinstance(value, str | list | dict)
    return isinstance(value, str) and (not value.isascii() or len(value.split(None, 1)) > 1)


def _remedy(name: str, count: list[int], layout: Layout) -> str:
    full = "is full of text" if count[1] > TEXT_HEAVY_CHARACTERS * count[0] else "holds text"
    ignore, part = f"data.ignore: {flow([name])}", KNOWN.get(plain(name))
    if layout.conversations or part in ("input", "history", "tools"):
        remedy = f"write {ignore} to leave it out"
    elif part is None:
        remedy = f"name it under data.columns to train it or write {ignore}"
    else:
        remedy = f"write data.columns: {flow({part: name})} to train it or {ignore}"
    return f"{full} and is not used; {remedy}"
