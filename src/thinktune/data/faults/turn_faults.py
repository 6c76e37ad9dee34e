"""Faults of a conversation's turns: what a check of a row returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thinktune.tokenization import Turn

Turns = tuple[Turn, ...]


FieldNames = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class TurnFault:
    """A fault of the turn at `index`: `sentence` is `field: what is wrong`."""

    index: int
    sentence: str


# Faults, the one to show first; and the repaired turns, or None where no repair is safe.
CheckResult = tuple[list[TurnFault], Turns | None]


RowCheck = Callable[[Turns, FieldNames], CheckResult]


def trained_replies(turns: Turns, field_names: FieldNames) -> list[tuple[int, Turn, tuple[str, str]]]:
    """List the trained replies, each with its index and the names of its fields."""
    pairs = enumerate(zip(turns, field_names, strict=False))
    return [(index, turn, fields) for index, (turn, fields) in pairs if turn.is_trained_reply]
