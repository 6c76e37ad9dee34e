"""Provenance of `think`: known to the data part, so that its rows are taken as they are; a user's own is not."""

from thinktune.data.columns.mapping import ColumnMapping
from thinktune.data.columns.provenance import is_provenance
from thinktune.data.columns.unused import UnusedColumns
from thinktune.data.types import RawRow

MADE = {"thinktune": "0.1.0", "row": "rows.jsonl:2", "replies": [{"teacher": "a teacher with a long name " * 9}]}


def counted(value):
    found = UnusedColumns()
    columns = {"question": "Why?", "answer": "So.", "provenance": value}
    found.add_row(RawRow("rows.jsonl:1", columns), ColumnMapping(question="question", answer="answer"))
    return found.contents


def test_the_provenance_that_think_writes_is_no_unused_column():
    assert is_provenance("provenance", MADE)
    assert "provenance" not in counted(MADE)


def test_a_users_own_column_of_that_name_is_accounted_for():
    assert not is_provenance("provenance", {"source": "a book"})
    assert not is_provenance("origin", MADE)
    assert "provenance" in counted("This row was taken from a long book that somebody wrote.")
