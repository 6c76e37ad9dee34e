"""A run's folder with a journal, and what trackers must get of it."""

import json
from pathlib import Path

import pytest

from thinktune.run import RunFolder, journal
from thinktune.tracking import trackers
from thinktune.tracking.records import RecordConverter, Scalars, evaluation_entries, sample_entries

GOLDEN = Path(__file__).parent.parent / "tracking" / "golden_records.json"
SAMPLE = {
    "step": 4, "row": "val.jsonl:1", "question": "心脏？", "reasoning": "想一想", "answer": "血液", "tokens": 9,
    "finish": "end", "reasoning_closed": True, "sampling": "greedy",
}  # fmt: skip
TIMEOUTS = trackers.Timeouts(start_seconds=30, finish_seconds=20)


def write_run(folder):
    """Write a run's folder with two steps, an evaluation and rows that no tracker may see."""
    folder = folder / "run-1"
    (folder / "eval").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: run-1\ntrain: {epochs: 2}\n", encoding="utf-8")
    (folder / "data.json").write_text('{"rows_read": 9, "faults": [], "shown": ["a private row"]}', encoding="utf-8")
    (folder / "environment.json").write_text('{"model": "m", "steps": 4, "command": "thinktune train x"}')
    (folder / "eval" / "report.json").write_text('{"rows": 2, "tuned": {"right": 0.5}, "base": {"right": null}}')
    write(folder, 2, 4)
    return folder


def write(folder, *steps):
    for step in steps:
        train = {"kind": "train", "step": step, "epoch": step / 4, "loss": 3 - step / 4, "answer_loss": 1.5, "mfu": 0.4}
        journal.append(
            RunFolder(folder).metrics, [train, {"kind": "eval", "step": step, "loss": 3 - step / 8, "rows": 2}]
        )
        journal.append(RunFolder(folder).samples, [SAMPLE | {"step": step}, SAMPLE | {"step": step, "sampling": "own"}])
    journal.append(RunFolder(folder).metrics, [{"kind": "event", "step": steps[-1], "text": "gradient not finite"}])


def follow(run, settings, during=lambda: None, timeouts=TIMEOUTS):
    said = []
    with trackers.run_trackers(run, settings, said.append, timeouts):
        during()
    return said


def entries(run):
    converted = [
        *RecordConverter().convert_metrics(journal.read_metrics(run)),
        *sample_entries(journal.read_samples(run)),
        *evaluation_entries(run, 4),
    ]
    return [[type(entry).__name__, *[getattr(entry, name) for name in entry.__slots__]] for entry in converted]


def golden(kind):
    return [entry for entry in json.loads(GOLDEN.read_text(encoding="utf-8")) if entry[0] == kind.__name__]


def golden_scalars():
    """All scalars of the golden file as {chart: {step: value}}."""
    found = {}
    for _, step, values in golden(Scalars):
        for name, value in values.items():
            found.setdefault(name, {})[step] = pytest.approx(value)
    return found
