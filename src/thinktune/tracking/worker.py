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

from thinktune.config.schema import Track
from thinktune.run.journal import METRICS, SAMPLES, Record
from thinktune.tracking.records import Translator, evaluation, facts, samples
from thinktune.tracking.swanlab import SwanLab
from thinktune.tracking.tensorboard import TensorBoard

SECONDS_BETWEEN_LOOKS = 0.5


SECONDS_AFTER_THE_END = 300


SINKS = {"swanlab": SwanLab, "tensorboard": TensorBoard}


class Tail:
    """The whole lines that a journal gained since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def records(self) -> list[Record]:
        """The new records; a line without its end is left for the next look."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        return [json.loads(line) for line in whole.split(b"\n") if line]


def looks(ended: threading.Event) -> Iterator[bool]:
    """Until the run has ended: a look every so often; True for the last one."""
    while not ended.wait(SECONDS_BETWEEN_LOOKS):
        yield False
    yield True


def follow(run: Path, sink: Any, ended: threading.Event) -> None:
    """Give a sink every record of a run's journal, from its first line, until the run has ended."""
    metrics, kept, translator = Tail(run / METRICS), Tail(run / SAMPLES), Translator()
    waiting: list[Record] = []
    step = 0
    for last in looks(ended):
        for entry in translator.metrics(metrics.records()):
            sink.take(entry)
            step = max(step, entry.step)
        found = kept.records()
        waiting += found
        if last or not found:  # the samples of a step stand together, and may still be growing
            for entry in samples(waiting):
                sink.take(entry)
            waiting.clear()
    for entry in evaluation(run, step):
        sink.take(entry)


def main(arguments: list[str]) -> None:
    """Follow a run; see the top of this file."""
    run, name, mode, settings = Path(arguments[0]), arguments[1], arguments[2], Track.model_validate_json(arguments[3])
    told = _take_standard_output(run / f"{name}.log")
    ended, how = threading.Event(), ["crashed"]
    try:
        sink = SINKS[name](run, mode, settings, facts(run, settings.machine))
        _tell(told, ready=True, mode=sink.mode, place=sink.place, folder=sink.folder)
        threading.Thread(target=_wait_for_the_end, args=(how, ended), daemon=True).start()
        follow(run, sink, ended)
        sink.close(how[0])
    except BaseException as error:
        traceback.print_exc()
        _tell(told, failed=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        sys.stderr.flush()
        os._exit(1)  # what a tracker left running must not keep the process
    os._exit(0)


def _wait_for_the_end(how: list[str], ended: threading.Event) -> None:
    for line in sys.stdin:
        how[0] = line.strip()
    ended.set()
    time.sleep(SECONDS_AFTER_THE_END)  # the run's process limits it, unless that was killed
    os._exit(1)


def _take_standard_output(log: Path) -> TextIO:
    """Keep the standard output for what is told, and let everything that libraries print go to a file."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return told


def _tell(told: TextIO, **what: Any) -> None:
    secret = os.environ.get("SWANLAB_API_KEY") or "\0"
    told.write(json.dumps(what, ensure_ascii=False).replace(secret, "***") + "\n")
    told.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
