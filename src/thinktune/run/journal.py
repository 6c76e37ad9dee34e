"""The run's journal: one JSON object a line in metrics, samples and row losses, whole lines only."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

from thinktune.errors import UserError, redact_all
from thinktune.files import is_disk_full, name_path
from thinktune.run.folder import RunFolder
from thinktune.run.reading import MetricsRecord, Record, RowLossesRecord, SampleRecord, read_journal

_unwritten: dict[Path, bytes] = {}  # by journal, the lines for which the disk was full; written before the next ones


def append(journal: Path, records: Iterable[Record]) -> None:
    """Append records to a journal, all or none; numbers that are not finite are left out, like all that is unknown.

    While the disk is full the lines wait in memory and are written with the next ones; `flush_journals` raises if
    they never could be.
    """
    lines = b"".join(json.dumps(_to_write(record), ensure_ascii=False).encode() + b"\n" for record in records)
    try:
        _append_bytes(journal, _unwritten.pop(journal, b"") + lines)
    except OSError as error:
        if not is_disk_full(error):
            raise


def flush_journals(run: Path) -> dict[str, int]:
    """Flush each journal to the disk and return its length in bytes by name.

    Raises OSError where the disk is still too full for lines that wait.
    """
    lengths: dict[str, int] = {}
    for journal in RunFolder(run).journals:
        if journal in _unwritten:
            _append_bytes(journal, _unwritten.pop(journal))
        if journal.exists():
            with name_path(journal), journal.open("rb+") as file:
                os.fsync(file.fileno())
            lengths[journal.name] = journal.stat().st_size
    return lengths


def read_metrics(run: Path) -> list[Record]:
    """Read the records of the metrics in order; a torn last line, as a crash leaves it, is left out.

    Raises UserError where a line is damaged.
    """
    return read_journal(RunFolder(run).metrics, MetricsRecord)


def read_samples(run: Path) -> list[Record]:
    """Read the records of the samples in order, likewise."""
    return read_journal(RunFolder(run).samples, SampleRecord)


def read_row_losses(run: Path) -> dict[int, dict[str, tuple[float, int]]]:
    """Read each held-out row's mean loss and its number of labels, by step of evaluation and `file:line`."""
    by_step: dict[int, dict[str, tuple[float, int]]] = {}
    for record in read_journal(RunFolder(run).row_losses, RowLossesRecord):
        by_step[record["step"]] = {row: (float(loss), int(tokens)) for row, (loss, tokens) in record["rows"].items()}
    return by_step


def rewind(run: Path, lengths: dict[str, int]) -> None:
    """Truncate each journal to a former length in bytes, so that a run that resumes there repeats and skips nothing.

    Raises UserError where a journal is shorter than that: lines are missing that nothing can write again.
    """
    for journal in RunFolder(run).journals:
        _unwritten.pop(journal, None)
        length, kept = journal.stat().st_size if journal.exists() else 0, lengths.get(journal.name, 0)
        if length < kept:
            raise UserError(
                f"{journal}: has {length:,} bytes, but had {kept:,} at the last checkpoint; put that version back, "
                "or start a new run with name=..."
            )
        if length > kept:
            os.truncate(journal, kept)


def _append_bytes(journal: Path, lines: bytes) -> None:
    """Append bytes to a file; on failure they wait in memory, and the file is as it was."""
    length = journal.stat().st_size if journal.exists() else 0
    try:
        with name_path(journal), journal.open("ab", buffering=0) as file:
            rest = memoryview(lines)
            while rest:
                rest = rest[file.write(rest) :]
    except OSError:
        _unwritten[journal] = lines
        if journal.exists():
            os.truncate(journal, length)
        raise


def _to_write(record: Record) -> Record:
    """Leave out numbers that are not finite, and mask secrets in an event's text: it may quote a setting."""
    kept = {key: value for key, value in record.items() if not (isinstance(value, float) and not math.isfinite(value))}
    return redact_all(kept) if record.get("kind") == "event" else kept
