"""The run's journal: one JSON object a line in metrics.jsonl, samples.jsonl and losses.jsonl, whole lines only."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thinktune.errors import UserError
from thinktune.files import is_full

Record = dict[str, Any]


METRICS, SAMPLES, LOSSES = "metrics.jsonl", "samples.jsonl", "losses.jsonl"


JOURNALS = (METRICS, SAMPLES, LOSSES)  # which a checkpoint remembers the length of


_waiting: dict[Path, bytes] = {}  # lines that found no room on the disk, written before the next ones


def append(run: Path, file: str, records: Iterable[dict[str, Any]]) -> None:
    """Add records, all or none; a number that is not finite is left out, as everything unknown is.

    Where the disk is full the lines wait in memory, and come with the next ones; `lengths` tells if they never could.
    """
    lines = b"".join(json.dumps(_known(record), ensure_ascii=False).encode() + b"\n" for record in records)
    try:
        _write(run / file, _waiting.pop(run / file, b"") + lines)
    except OSError as error:
        if not is_full(error):
            raise


def lengths(run: Path) -> dict[str, int]:
    """Bytes of each journal, all of them on the disk to stay; raises OSError where lines still find no room."""
    found: dict[str, int] = {}
    for file in JOURNALS:
        if run / file in _waiting:
            _write(run / file, _waiting.pop(run / file))
        if (run / file).exists():
            with (run / file).open("rb+") as journal:
                os.fsync(journal.fileno())
            found[file] = (run / file).stat().st_size
    return found


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl in order; a torn last line, as a crash leaves it, is no record."""
    return _read(run / METRICS)


def read_samples(run: Path) -> list[dict[str, Any]]:
    """The records of samples.jsonl in order, likewise."""
    return _read(run / SAMPLES)


def read_row_losses(run: Path) -> dict[int, dict[str, tuple[float, int]]]:
    """By step of evaluation, each held-out row's mean loss and its learned tokens."""
    found: dict[int, dict[str, tuple[float, int]]] = {}
    for record in _read(run / LOSSES):
        found[record["step"]] = {row: (float(loss), int(tokens)) for row, (loss, tokens) in record["rows"].items()}
    return found


def rewind(run: Path, kept: dict[str, int]) -> None:
    """Cut each journal to the length it had, so that a run that starts again there has no gap and no double.

    Raises UserError where a journal is shorter than that: lines are missing that no one can write again.
    """
    for file in JOURNALS:
        _waiting.pop(run / file, None)
        length = (run / file).stat().st_size if (run / file).exists() else 0
        if length < kept.get(file, 0):
            raise UserError(
                f"{run / file}: has {length:,} bytes, and had {kept[file]:,} at the last checkpoint; put it back, "
                "or start anew with name=..."
            )
        if length > kept.get(file, 0):
            os.truncate(run / file, kept.get(file, 0))


def _write(path: Path, lines: bytes) -> None:
    """Add bytes to a file; where that fails they wait, and the file is as it was."""
    before = path.stat().st_size if path.exists() else None
    try:
        with path.open("ab", buffering=0) as journal:
            rest = memoryview(lines)
            while rest:
                rest = rest[journal.write(rest) :]
    except OSError:
        _waiting[path] = lines
        if path.exists():
            os.truncate(path, before or 0)
        raise


def _known(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not (isinstance(value, float) and not math.isfinite(value))}


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]  # what follows the last line break is torn or empty
