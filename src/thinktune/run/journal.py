"""The run's journal: one JSON object a line in metrics.jsonl, samples.jsonl and losses.jsonl, whole lines only."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thinktune.errors import UserError
from thinktune.files import is_disk_full

Record = dict[str, Any]


METRICS_FILE, SAMPLES_FILE, ROW_LOSSES_FILE = "metrics.jsonl", "samples.jsonl", "losses.jsonl"


JOURNAL_FILES = (METRICS_FILE, SAMPLES_FILE, ROW_LOSSES_FILE)  # which a checkpoint remembers the length of


_unwritten: dict[Path, bytes] = {}  # lines that found no room on the disk, written before the next ones


def append(run: Path, file: str, records: Iterable[dict[str, Any]]) -> None:
    """Add records, all or none; a number that is not finite is left out, as everything unknown is.

    Where the disk is full the lines wait in memory, and come with the next ones; `flush_journals` tells if they never could.
    """
    lines = b"".join(json.dumps(_without_non_finite(record), ensure_ascii=False).encode() + b"\n" for record in records)
    try:
        _append_bytes(run / file, _unwritten.pop(run / file, b"") + lines)
    except OSError as error:
        if not is_disk_full(error):
            raise


def flush_journals(run: Path) -> dict[str, int]:
    """Bytes of each journal, all of them on the disk to stay; raises OSError where lines still find no room."""
    found: dict[str, int] = {}
    for file in JOURNAL_FILES:
        if run / file in _unwritten:
            _append_bytes(run / file, _unwritten.pop(run / file))
        if (run / file).exists():
            with (run / file).open("rb+") as journal:
                os.fsync(journal.fileno())
            found[file] = (run / file).stat().st_size
    return found


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl in order; a torn last line, as a crash leaves it, is no record."""
    return _read_records(run / METRICS_FILE)


def read_samples(run: Path) -> list[dict[str, Any]]:
    """The records of samples.jsonl in order, likewise."""
    return _read_records(run / SAMPLES_FILE)


def read_row_losses(run: Path) -> dict[int, dict[str, tuple[float, int]]]:
    """By step of evaluation, each held-out row's mean loss and its learned tokens."""
    found: dict[int, dict[str, tuple[float, int]]] = {}
    for record in _read_records(run / ROW_LOSSES_FILE):
        found[record["step"]] = {row: (float(loss), int(tokens)) for row, (loss, tokens) in record["rows"].items()}
    return found


def rewind(run: Path, kept_bytes: dict[str, int]) -> None:
    """Cut each journal to the length it had, so that a run that starts again there has no gap and no double.

    Raises UserError where a journal is shorter than that: lines are missing that no one can write again.
    """
    for file in JOURNAL_FILES:
        _unwritten.pop(run / file, None)
        length = (run / file).stat().st_size if (run / file).exists() else 0
        if length < kept_bytes.get(file, 0):
            raise UserError(
                f"{run / file}: has {length:,} bytes, and had {kept_bytes[file]:,} at the last checkpoint; put it back, "
                "or start anew with name=..."
            )
        if length > kept_bytes.get(file, 0):
            os.truncate(run / file, kept_bytes.get(file, 0))


def _append_bytes(path: Path, lines: bytes) -> None:
    """Add bytes to a file; where that fails they wait, and the file is as it was."""
    before = path.stat().st_size if path.exists() else None
    try:
        with path.open("ab", buffering=0) as journal:
            rest = memoryview(lines)
            while rest:
                rest = rest[journal.write(rest) :]
    except OSError:
        _unwritten[path] = lines
        if path.exists():
            os.truncate(path, before or 0)
        raise


def _without_non_finite(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not (isinstance(value, float) and not math.isfinite(value))}


def _read_records(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]  # what follows the last line break is torn or empty
