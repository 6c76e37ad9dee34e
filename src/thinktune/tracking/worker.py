"""The process beside a run that reads its journal as it grows and gives it to one tracker.

A tracker may hang, crash or lose its server; here it can only hurt itself. Started as
`python -m thinktune.tracking.worker RUN TRACKER MODE SETTINGS`, it reports on its standard output, one JSON object
a line, and ends when its standard input ends: after a line that says how the run ended, or without one after a crash.
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
from thinktune.run import Record
from thinktune.run.journal import METRICS_FILE, SAMPLES_FILE
from thinktune.tracking.records import RecordConverter, evaluation_entries, run_config, sample_entries
from thinktune.tracking.swanlab import SwanLab
from thinktune.tracking.tensorboard import TensorBoard

POLL_SECONDS = 0.5


FINISH_TIMEOUT_SECONDS = 300


TRACKERS = {"swanlab": SwanLab, "tensorboard": TensorBoard}


class JournalTail:
    """The whole lines that a journal gained since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._read_bytes = path, 0

    def read_new(self) -> list[Record]:
        """The new records; a line without its end is left for the next look."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        return [json.loads(line) for line in whole.split(b"\n") if line]


def poll(ended: threading.Event) -> Iterator[bool]:
    """Until the run has ended: a look every so often; True for the last one."""
    while not ended.wait(POLL_SECONDS):
        yield False
    yield True


def follow_journal(run: Path, tracker: Any, ended: threading.Event) -> None:
    """Give a sink every record of a run's journal, from its first line, until the run has ended."""
    metrics, kept, translator = JournalTail(run / METRICS_FILE), JournalTail(run / SAMPLES_FILE), RecordConverter()
    waiting: list[Record] = []
    step = 0
    for last in poll(ended):
        for entry in translator.convert_metrics(metrics.read_new()):
            tracker.log(entry)
            step = max(step, entry.step)
        found = kept.read_new()
        waiting += found
        if last or not found:  # the samples of a step stand together, and may still be growing
            for entry in sample_entries(waiting):
                tracker.log(entry)
            waiting.clear()
    for entry in evaluation_entries(run, step):
        tracker.log(entry)


def main(arguments: list[str]) -> None:
    """Follow a run; see the top of this file."""
    run, name, mode, settings = (
        Path(arguments[0]),
        arguments[1],
        arguments[2],
        TrackConfig.model_validate_json(arguments[3]),
    )
    told = _redirect_stdout(run / f"{name}.log")
    ended, how = threading.Event(), ["crashed"]
    try:
        sink = TRACKERS[name](run, mode, settings, run_config(run, settings.machine))
        _report_to_parent(told, ready=True, mode=sink.mode, place=sink.location, folder=sink.folder)
        threading.Thread(target=_wait_for_run_end, args=(how, ended), daemon=True).start()
        follow_journal(run, sink, ended)
        sink.close(how[0])
    except BaseException as error:
        traceback.print_exc()
        _report_to_parent(told, failed=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        sys.stderr.flush()
        os._exit(1)  # what a tracker left running must not keep the process
    os._exit(0)


def _wait_for_run_end(how: list[str], ended: threading.Event) -> None:
    for line in sys.stdin:
        how[0] = line.strip()
    ended.set()
    time.sleep(FINISH_TIMEOUT_SECONDS)  # the run's process limits it, unless that was killed
    os._exit(1)


def _redirect_stdout(log: Path) -> TextIO:
    """Keep the standard output for what is told, and let everything that libraries print go to a file."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return told


def _report_to_parent(output: TextIO, **what: Any) -> None:
    secret = os.environ.get("SWANLAB_API_KEY") or "\0"
    output.write(json.dumps(what, ensure_ascii=False).replace(secret, "***") + "\n")
    output.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
