"""Runs as their folders show them now; what was read is kept until a file changes."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from thinktune.report.run_page import RunReport, read_run
from thinktune.run import RunFolder
from thinktune.run.resume import is_locked

KEPT_RUNS = 16  # of the last ones that were looked at


Signature = tuple[object, ...]


def run_signature(run: Path) -> Signature:
    """Return what differs whenever a run's folder shows something else: its files' sizes and times, and its lock."""
    folder = RunFolder(run)
    files = (
        *folder.journals,
        folder.recipe,
        folder.environment,
        folder.data_summary,
        folder.evaluation().report,
        folder.evaluation(thinking=False).report,
        folder.votes,
        folder.curve,
        folder.final,
    )
    return (*map(_stamp, files), is_locked(run))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


@dataclass(slots=True)
class LiveRuns:
    """The reports of the runs that were looked at last, each with the signature that it was read at."""

    _kept: OrderedDict[Path, tuple[Signature, RunReport]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, run: Path) -> tuple[Signature, RunReport]:
        """Read a run, or return what was read of it if nothing has changed; raises UserError where it is damaged."""
        signature = run_signature(run)
        with self._lock:
            kept = self._kept.get(run)
        if kept is not None and kept[0] == signature:
            return kept
        found = signature, read_run(run)
        with self._lock:
            self._kept[run] = found
            self._kept.move_to_end(run)
            while len(self._kept) > KEPT_RUNS:
                self._kept.popitem(last=False)
        return found
