"""The process of one tracker: follows a run's journal as it grows and logs it to the tracker.

A tracker may hang, crash or lose its server; in a process of its own it cannot harm the run. Started as
`python -m thinktune.tracking.worker RUN TRACKER MODE`, it reads its settings from the first line of its standard input,
reports on standard output, one JSON object a line, and ends when its standard input ends: after a line with the outcome
of the run, or without one after a crash.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from thinktune.config import TrackConfig
from thinktune.errors import redact, redact_all, shorten_error
from thinktune.run import Record, RunFolder
from thinktune.tracking.mlflow import MLflow
from thinktune.tracking.records import RecordConverter, evaluation_entries, run_config, sample_entries
from thinktune.tracking.swanlab import SwanLab
from thinktune.tracking.tensorboard import TensorBoard
from thinktune.tracking.wandb import WeightsAndBiases

POLL_SECONDS = 0.5


FINISH_TIMEOUT_SECONDS = 300


TRACKERS = {"swanlab": SwanLab, "tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}


class JournalTail:
    """Reader of the whole lines that a journal has gained since the last read."""

    def __init__(self, path: Path) -> None:
        self._path, self._read_bytes = path, 0

    def read_new(self) -> list[Record]:
        """Return the new records; an unfinished line is left for the next read."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        return [json.loads(line) for line in whole.split(b"\n") if line]


def poll(ended: threading.Event) -> Iterator[bool]:
    """Yield False every `POLL_SECONDS` until the run has ended, then True once."""
    while not ended.wait(POLL_SECONDS):
        yield False
    yield True


def follow_journal(run: Path, tracker: Any, ended: threading.Event) -> None:
    """Log every record of a run's journal to a tracker, from its first line until the run has ended."""
    folder, converter = RunFolder(run), RecordConverter()
    metrics, samples = JournalTail(folder.metrics), JournalTail(folder.samples)
    pending: list[Record] = []
    step = 0
    for last in poll(ended):
        for entry in converter.convert_metrics(metrics.read_new()):
            tracker.log(entry)
            step = max(step, entry.step)
        found = samples.read_new()
        pending += found
        if last or not found:  # a step's samples are logged together, once no more of them arrive
            for entry in sample_entries(pending):
                tracker.log(entry)
            pending.clear()
    for entry in evaluation_entries(run, step):
        tracker.log(entry)


def main(arguments: list[str]) -> None:
    """Follow a run, as described at the top of this file."""
    run, name, mode = Path(arguments[0]), arguments[1], arguments[2]
    settings = TrackConfig.model_validate_json(sys.stdin.buffer.readline())
    output = _redirect_stdout(RunFolder(run).tracker_log(name))
    ended, outcome = threading.Event(), ["crashed"]
    try:
        tracker = TRACKERS[name](run, mode, settings, run_config(run, settings.machine))
        _report_to_parent(output, ready=True, mode=tracker.mode, place=tracker.location, folder=tracker.folder)
        threading.Thread(target=_wait_for_run_end, args=(outcome, ended), daemon=True).start()
        follow_journal(run, tracker, ended)
        tracker.close(outcome[0])
    except BaseException as error:
        sys.stderr.write(redact(traceback.format_exc()))
        _report_to_parent(output, failed=f"{type(error).__name__}: {shorten_error(error)}")
        sys.stderr.flush()
        os._exit(1)  # threads of the tracker must not keep the process alive
    os._exit(0)


def _wait_for_run_end(outcome: list[str], ended: threading.Event) -> None:
    for line in sys.stdin:
        outcome[0] = line.strip()
    ended.set()
    time.sleep(FINISH_TIMEOUT_SECONDS)  # the run's process kills this one earlier, unless it was killed itself
    os._exit(1)


def _redirect_stdout(log: Path) -> TextIO:
    """Return the standard output for our messages, and redirect what libraries print to a file."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return output


def _report_to_parent(output: TextIO, **message: Any) -> None:
    output.write(json.dumps(redact_all(message), ensure_ascii=False) + "\n")
    output.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
