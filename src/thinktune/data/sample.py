"""Sample rows of a file: those that its columns are detected from, and remedies are tried on."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from thinktune.config import DataConfig
from thinktune.data.columns.detection import column_values, detect_columns
from thinktune.data.columns.literals import read_literal
from thinktune.data.columns.mapping import SAMPLE_ROWS, ColumnMapping, UncheckedExample, to_example
from thinktune.data.columns.messages import is_blank
from thinktune.data.columns.values import spell_values
from thinktune.data.faults.habits import NO_HABITS, Habits, measure_habits
from thinktune.data.types import RawRow
from thinktune.errors import UserError

WHOLE_BYTES = 2**20  # of the first rows, which are kept as they are


LONG_ROW_BYTES = 2**16  # a longer row after them is shortened


MAX_LATE_ROWS = 100


MAX_UNREADABLE_ROWS = 10


TRIAL_ROWS = 24


@dataclass(slots=True)
class FileSample:
    """The first rows of a file, up to SAMPLE_ROWS, and later ones that bring a column that was empty before."""

    file: str
    rows: list[RawRow] = field(default_factory=list[RawRow])
    late_rows: list[RawRow] = field(default_factory=list[RawRow])
    unreadable: list[RawRow] = field(default_factory=list[RawRow])
    telling: list[int] = field(default_factory=list[int])  # places in `rows` of rows that fill a column first

    @property
    def is_empty(self) -> bool:
        """True for a file without any row."""
        return not self.rows and not self.unreadable

    @property
    def values(self) -> dict[str, list[Any]]:
        """Values of each column."""
        return column_values([*self.rows, *self.late_rows])

    @property
    def trial_rows(self) -> list[RawRow]:
        """Rows to try a change of the recipe on: the first ones, and those that bring a column."""
        later = [self.rows[place] for place in self.telling if place >= TRIAL_ROWS]
        return [*self.rows[:TRIAL_ROWS], *later[:TRIAL_ROWS], *self.late_rows[:TRIAL_ROWS]]

    @property
    def for_trials(self) -> "FileSample":
        """A smaller sample that holds what trials need, for as long as the file is processed."""
        return FileSample(self.file, self.trial_rows, [], self.unreadable)


def read_sample(file: str, rows: Iterable[RawRow]) -> FileSample:
    """Read a file's sample rows; all of its rows are looked at, because columns may begin anywhere."""
    sample = FileSample(file)
    filled: set[str] = set()
    size = 0
    for row in rows:
        if row.columns is None:
            if len(sample.unreadable) < MAX_UNREADABLE_ROWS:
                sample.unreadable.append(row)
            continue
        size += row.size
        if len(sample.rows) < SAMPLE_ROWS:
            shortened = size > WHOLE_BYTES and row.size > LONG_ROW_BYTES
            sample.rows.append(replace(row, columns=shorten(row.columns)) if shortened else row)
            if any(name not in filled and not is_blank(value) for name, value in row.columns.items()):
                sample.telling.append(len(sample.rows) - 1)
        elif row.columns.keys() <= filled or all(is_blank(row.columns[name]) for name in row.columns.keys() - filled):
            continue
        elif len(sample.late_rows) < MAX_LATE_ROWS:
            sample.late_rows.append(row if row.size <= LONG_ROW_BYTES else replace(row, columns=shorten(row.columns)))
        else:
            break
        filled |= {name for name, value in row.columns.items() if not is_blank(value)}
    return sample


def shorten(value: Any, depth: int = 0) -> Any:
    """Shorten a value of a row so that it still shows what its column holds; so many long rows are held in memory."""
    match value:
        case str():
            # A text that spells a list would not spell one any more.
            literal = read_literal(value) if depth == 0 and len(value) > 100 else None
            return value.strip()[:100] or value[:100] if literal is None else shorten(literal)
        case list() if depth < 4:
            # The last one tells who has the last word in a conversation.
            return [shorten(element, depth + 1) for element in (value if len(value) < 10 else [*value[:9], value[-1]])]
        case dict():
            return {name: shorten(inner, depth + 1) for name, inner in value.items()} if depth < 4 else {}
        case _:
            return value


@dataclass(frozen=True, slots=True)
class FileForm:
    """What a file's columns mean, and what its rows mostly do."""

    mapping: ColumnMapping = field(default_factory=ColumnMapping)
    habits: Habits = NO_HABITS


def detect_form(sample: FileSample, settings: DataConfig) -> FileForm:
    """Detect a file's columns and habits from its sample; raises UserError as `detect_columns` does."""
    mapping = detect_sample(sample, settings)
    # Of a shortened text, the end is not known.
    whole = (to_example(spell_values(row, mapping)[0], mapping) for row in sample.rows if row.size <= LONG_ROW_BYTES)
    return FileForm(mapping, measure_habits(read.example for read in whole if isinstance(read, UncheckedExample)))


def detect_sample(sample: FileSample, settings: DataConfig) -> ColumnMapping:
    """Detect a file's columns from its sample; an empty file has an empty mapping.

    Columns that begin late fill parts that no earlier column has, and change no other. Raises UserError as
    `detect_columns` does.
    """
    if sample.is_empty:
        return ColumnMapping()
    rows = sample.rows or sample.unreadable
    detect = (settings.columns, settings.ignore, sample.file)
    if not sample.late_rows:
        return detect_columns(rows, *detect)
    whole = [*rows, *sample.late_rows]
    try:
        early = detect_columns(rows, *detect)
    except UserError:
        return detect_columns(whole, *detect)
    late = detect_columns(whole, *detect)
    parts = ("question", "input", "history", "reasoning", "answer", "messages", "system", "keypoint", "mode", "label")
    kept = all(getattr(early, part) in (None, getattr(late, part)) for part in parts)
    return late if kept and late.conversational == early.conversational else early
