"""The run's journal: one JSON object a line in metrics.jsonl, samples.jsonl and losses.jsonl, whole lines only."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thinktune.files import write_json_lines

Record = dict[str, Any]

METRICS, SAMPLES, LOSSES = "metrics.jsonl", "samples.jsonl", "losses.jsonl"


def append(run: Path, file: str, records: Iterable[dict[str, Any]]) -> None:
    """Add records; a number that is not finite is left out, as everything unknown is."""
    with (run / file).open("a", encoding="utf-8", newline="\n") as journal:
        for record in records:
            known = {
                key: value
                for key, value in record.items()
                if not (isinstance(value, float) and not math.isfinite(value))
            }
            journal.write(json.dumps(known, ensure_ascii=False) + "\n")
        journal.flush()


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


def rewind(run: Path, step: int) -> None:
    """Forget what was recorded after a step, so that a run that starts again there has no gap and no double."""
    for file in (METRICS, SAMPLES, LOSSES):
        if (run / file).exists():
            write_json_lines(run / file, [record for record in _read(run / file) if record["step"] <= step])


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line]  # what follows the last line break is torn or empty
