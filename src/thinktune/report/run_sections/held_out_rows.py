"""Held-out rows of a run's page with their texts: the hardest ones, and those known almost by heart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinktune.run import Record
from thinktune.run.diagnosis import HeldOutRow, hardest_rows, memorized_rows
from thinktune.run.held_out_texts import RowText, read_held_out_texts, texts_of_samples


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A held-out row with its losses, and its text where that is known."""

    row: HeldOutRow
    text: RowText | None


@dataclass(frozen=True, slots=True)
class HeldOutRows:
    """The rows of that section."""

    hardest: Sequence[ShownRow] = ()
    memorized: Sequence[ShownRow] = ()


def read_shown_rows(run: Path, rows: Sequence[HeldOutRow], samples: Sequence[Record]) -> HeldOutRows:
    """Choose the rows of that section and read their texts; raises UserError where the file of texts is damaged."""
    hardest, memorized = hardest_rows(rows), memorized_rows(rows)
    names = {row.source for row in (*hardest, *memorized)}
    return _shown(hardest, memorized, {**texts_of_samples(samples), **read_held_out_texts(run, names)})


def without_texts(rows: Sequence[HeldOutRow]) -> HeldOutRows:
    """Return the rows of that section without any text."""
    return _shown(hardest_rows(rows), memorized_rows(rows), {})


def _shown(hardest: Sequence[HeldOutRow], memorized: Sequence[HeldOutRow], texts: Mapping[str, RowText]) -> HeldOutRows:
    return HeldOutRows(
        [ShownRow(row, texts.get(row.source)) for row in hardest],
        [ShownRow(row, texts.get(row.source)) for row in memorized],
    )
