"""What a run is called at a tracker: its project, and an id that stays the same when the run is resumed."""

import uuid
from pathlib import Path

from thinktune.files import atomic_write_text
from thinktune.run import RunFolder

DEFAULT_PROJECT = "thinktune"


def make_run_id(run: Path, tracker: str) -> str:
    """Return the run's id at a tracker that lets clients choose one: made once, and kept in the run's folder."""
    kept = read_run_id(run, tracker)
    return kept if kept is not None else keep_run_id(run, tracker, uuid.uuid4().hex)


def read_run_id(run: Path, tracker: str) -> str | None:
    """Return the run's id at a tracker; None before it has one."""
    kept = RunFolder(run).tracker_id(tracker)
    return kept.read_text(encoding="utf-8").strip() if kept.is_file() else None


def keep_run_id(run: Path, tracker: str, run_id: str) -> str:
    """Keep the id that a run has at a tracker, and return it."""
    atomic_write_text(RunFolder(run).tracker_id(tracker), run_id + "\n")
    return run_id
