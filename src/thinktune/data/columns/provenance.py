"""The column that `thinktune think` writes into its rows: who reasoned, when, and how it was graded; never trained."""

from typing import Any

PROVENANCE_COLUMN = "provenance"
MAKER_KEY = "thinktune"  # holds the version of thinktune that made the row


def is_provenance(name: str, value: Any) -> bool:
    """Return True for the provenance that `think` writes; a column of that name with anything else is the user's."""
    return name == PROVENANCE_COLUMN and isinstance(value, dict) and MAKER_KEY in value
