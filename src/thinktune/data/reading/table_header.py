"""Find a table's column names: below a title, beside nameless columns, or nowhere."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from thinktune.data.columns.mapping import COLUMN_ALIASES
from thinktune.data.columns.messages import normalize_key
from thinktune.errors import UserError

MAX_TITLE_LINES = 5


SHOWN_CHARACTERS = 30


# A cell of so many characters, or one that ends as a sentence does, is rather a text than the name of a column.
MAX_NAME_CHARACTERS, SENTENCE_END = 40, re.compile(r"[。？！?!；;.…][\"'”’」)]*$")


RULE = re.compile(r":?-{2,}:?")


KNOWN_NAMES = {name for names in COLUMN_ALIASES.values() for name in names} | {
    *("text", "content", "think", "title", "context", "id", "label", "category", "source", "options", "score", "index"),
    *("标题", "内容", "序号", "类别", "编号"),
}


@dataclass(frozen=True, slots=True)
class TableHeader:
    """The names of a table's columns, how many records stand above its first row, and what of that is to be told.

    `nameless` are the columns without a name, by their index; of these, `indices` hold row numbers.
    """

    names: tuple[str, ...]
    first_row: int
    nameless: frozenset[int] = frozenset()
    indices: frozenset[int] = frozenset()
    told: tuple[str, ...] = field(default=())

    def is_rule(self, cells: Sequence[Any]) -> bool:
        """Return True for the line of dashes below the names, as Markdown writes it."""
        filled = [cell for cell in cells if not _is_empty(cell)]
        return bool(filled) and all(isinstance(cell, str) and RULE.fullmatch(cell.strip()) for cell in filled)

    def to_columns(self, cells: Sequence[Any]) -> dict[str, Any]:
        """Return a record as columns; a nameless one that is empty or a row number is left out."""
        if not self.nameless:
            return dict(zip(self.names, cells, strict=True))
        return {
            name: cell
            for index, (name, cell) in enumerate(zip(self.names, cells, strict=True))
            if index not in self.nameless or not (_is_empty(cell) or (index in self.indices and _is_number(cell)))
        }


def find_header(records: Sequence[Sequence[Any]], place: str) -> TableHeader:
    """Find the header of a table from its first records, none of them empty.

    Raises UserError, with the place, where two columns have one name.
    """
    told: list[str] = []
    title = _count_titles(records)
    if title:
        shown = str(next(cell for cell in records[0] if not _is_empty(cell)))[:SHOWN_CHARACTERS]
        told.append(f"has a title ({shown!r}) above the names of its columns, which was skipped")
    names, body = records[title], records[title + 1 :]
    if _is_a_row(names, body):
        names = [f"column_{number}" for number in range(1, len(names) + 1)]
        told.append(f"has no line of column names; its columns are called {names[0]} to {names[-1]}")
        return TableHeader(tuple(names), title, told=tuple(told))
    written = [str("" if name is None else name) for name in names]
    refuse_double_names(place, written)
    nameless = frozenset(index for index, name in enumerate(written) if not name.strip())
    empty = {index for index in nameless if all(index >= len(cells) or _is_empty(cells[index]) for cells in body)}
    indices = frozenset(
        index for index in nameless - empty if _are_row_numbers([c[index] for c in body if index < len(c)])
    )
    given = [_free_name(index, written) if index in nameless else name for index, name in enumerate(written)]
    for index in sorted(nameless - empty):
        what = "row numbers, and was skipped" if index in indices else f"text, and is called {given[index]}"
        told.append(f"column {index + 1} has no name: it holds {what}")
    if empty:
        columns = "1 column was" if len(empty) == 1 else f"{len(empty)} columns were"
        told.append(f"{columns} skipped, with no name and no text")
    return TableHeader(tuple(given), title + 1, nameless, indices, tuple(told))


def refuse_double_names(place: str, names: Sequence[str]) -> None:
    """Raise UserError where two columns have one name."""
    double = sorted(name for name, count in Counter(names).items() if count > 1 and name.strip())
    if double:
        raise UserError(f"{place}: names the column {', '.join(double)} more than once; rename all but one")


def _count_titles(records: Sequence[Sequence[Any]]) -> int:
    """Count the records above the names: one filled cell, where the table has several columns."""
    if len(records) < 2:
        return 0
    usual = Counter(len(cells) for cells in records).most_common(1)[0][0]
    widest = max(usual, len(records[-1]))
    for number, cells in enumerate(records[: MAX_TITLE_LINES + 1]):
        filled = [cell for cell in cells if not _is_empty(cell)]
        if len(filled) > 1 or widest < 2:
            return number if number and _may_be_names(records[number], is_padded=len(records[0]) > 1) else 0
    return 0


def _may_be_names(cells: Sequence[Any], *, is_padded: bool) -> bool:
    return is_padded or any(_is_known(cell) for cell in cells)


def _is_a_row(names: Sequence[Any], body: Sequence[Sequence[Any]]) -> bool:
    """Return True if what should be names is a text as long as those below it."""
    if not body or any(_is_known(name) for name in names):
        return False
    texts = 0
    for index, name in enumerate(names):
        lengths = sorted(len(str(cells[index])) for cells in body if index < len(cells) and not _is_empty(cells[index]))
        if lengths and _is_prose(name) and len(str(name)) * 3 >= lengths[len(lengths) // 2]:
            texts += 1
    return texts > 0


def _is_prose(cell: Any) -> bool:
    text = str("" if cell is None else cell).strip()
    return len(text) > MAX_NAME_CHARACTERS or (len(text) > 3 and bool(SENTENCE_END.search(text)))


def _is_known(name: Any) -> bool:
    return isinstance(name, str) and normalize_key(name) in KNOWN_NAMES


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int) or (isinstance(cell, str) and cell.strip().removesuffix(".0").isdecimal())


def _are_row_numbers(cells: Sequence[Any]) -> bool:
    """Return True for numbers that rise by one, as tables are saved with them, or that at least never repeat."""
    return bool(cells) and all(map(_is_number, cells)) and len(set(map(str, cells))) == len(cells)


def _free_name(index: int, names: Sequence[str]) -> str:
    name = f"column_{index + 1}"
    while name in names:
        name += "_"
    return name
