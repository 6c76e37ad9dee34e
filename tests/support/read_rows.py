"""Rows read as examples, with the mapping that their file's columns get, written in one line each."""

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.detection import detect_columns
from thinktune.data.columns.mapping import ColumnMapping, UncheckedExample, to_example, unused_values
from thinktune.data.types import Finding, RawRow


def raw_rows(rows):
    """Return rows as they come from a file."""
    return [RawRow(f"rows.jsonl:{number}", row) for number, row in enumerate(rows, start=1)]


def mapping_of(rows, columns=None, ignore=()) -> ColumnMapping:
    """Return the mapping that is detected from rows."""
    return detect_columns(raw_rows(rows), ColumnsConfig(**(columns or {})), ignore, "rows.jsonl")


def first_example(rows, columns=None, ignore=()) -> UncheckedExample | Finding:
    """Read the first row by the mapping of all."""
    return to_example(raw_rows(rows)[0], mapping_of(rows, columns, ignore))


def spoken(rows, columns=None, ignore=()):
    """Return the first row's turns in one line, as in `s:system u:question a:reasoning>answer`; `h` is history."""
    found = first_example(rows, columns, ignore)
    if isinstance(found, Finding):
        return f"{found.fault}: {found.sentence}"
    return " ".join(
        f"{turn.role[0] if turn.trained or turn.role != 'assistant' else 'h'}:"
        f"{turn.reasoning + '>' if turn.has_reasoning else ''}{turn.content}"
        for turn in found.example.turns
    )


def field_names(rows, columns=None):
    """Return the names of the fields of the first row's turns."""
    found = first_example(rows, columns)
    assert isinstance(found, UncheckedExample), found
    return list(found.field_names)


def unused(rows, columns=None, ignore=()):
    """Return the first row's values that are not read, by name."""
    return dict(unused_values(rows[0], mapping_of(rows, columns, ignore)))
