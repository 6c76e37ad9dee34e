"""Account for columns that are neither used nor ignored."""

from dataclasses import dataclass, field
from typing import Any

from thinktune.data.columns.mapping import PART_OF_COLUMN, ColumnMapping, to_flow_yaml
from thinktune.data.columns.messages import (
    MESSAGE_KEYS,
    is_blank,
    normalize_key,
)
from thinktune.data.columns.provenance import is_provenance
from thinktune.data.types import RawRow
from thinktune.errors import UserError

TEXT_HEAVY_CHARACTERS = 20  # a column longer than this on average is prose that someone may have meant to train


@dataclass(slots=True)
class UnusedColumns:
    """Text in columns, and in keys of messages, that are neither used nor ignored.

    `counts` holds, for each column or `column.key`, the rows with text in it and the characters of these texts.
    """

    counts: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    def add_row(self, row: RawRow, mapping: ColumnMapping) -> None:
        """Count a row's texts."""
        used, conversations = mapping.used_columns, mapping.message_columns
        for name, value in (row.columns or {}).items():
            if name in conversations:
                for message in value if isinstance(value, list) else ():
                    for key in message if isinstance(message, dict) else ():
                        if normalize_key(key) not in MESSAGE_KEYS and f"{name}.{key}" not in mapping.ignored:
                            self._add_value(f"{name}.{key}", message[key])
            elif name not in used and name not in mapping.ignored and not is_provenance(name, value):
                self._add_value(name, value)

    def merge(self, other: "UnusedColumns") -> None:
        """Add the counts of other rows of the same file."""
        for name, (rows, characters) in other.counts.items():
            self._add(name, rows, characters)

    def refuse(self, mapping: ColumnMapping, file: str) -> None:
        """Raise UserError, with the mapping to write, if prose or a column with a usual name would be left out."""
        refused = sorted(name for name in self.counts if self._is_prose(name) or normalize_key(name) in PART_OF_COLUMN)
        if not refused:
            return
        faults = [f"data.ignore: column {name!r} of {file} {self._remedy(name, mapping)}" for name in refused]
        remedy = f"if that is right, write it and data.ignore: {to_flow_yaml([*mapping.ignored, *refused])}"
        raise UserError([*faults, f"data.columns: {file} is read as data.columns: {mapping.as_recipe_value}; {remedy}"])

    def _add_value(self, name: str, value: Any) -> None:
        if _may_be_text(name, value) and not is_blank(value):
            self._add(name, 1, len(value))

    def _add(self, name: str, rows: int, characters: int) -> None:
        old_rows, old_characters = self.counts.get(name, (0, 0))
        self.counts[name] = old_rows + rows, old_characters + characters

    def _is_prose(self, name: str) -> bool:
        rows, characters = self.counts[name]
        return characters > TEXT_HEAVY_CHARACTERS * rows

    def _remedy(self, name: str, mapping: ColumnMapping) -> str:
        ignore, part = f"data.ignore: {to_flow_yaml([name])}", PART_OF_COLUMN.get(normalize_key(name))
        if mapping.message_columns or part in ("input", "history", "tools"):
            remedy = f"write {ignore} to leave it out"
        elif part is None:
            remedy = f"name it under data.columns to train it or write {ignore}"
        else:
            remedy = f"write data.columns: {to_flow_yaml({part: name})} to train it or {ignore}"
        return f"{'is full of text' if self._is_prose(name) else 'contains text'} and is not used; {remedy}"


def _may_be_text(name: str, value: Any) -> bool:
    """Return True for text, and under a usual column name for lists and objects as well.

    Elsewhere a list or object is data about the row, and a single ASCII word an identifier.
    """
    if normalize_key(name) in PART_OF_COLUMN:
        return isinstance(value, str | list | dict)
    return isinstance(value, str) and (not value.isascii() or len(value.split(None, 1)) > 1)
