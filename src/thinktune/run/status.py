"""State of a run, as its lock and the last line of its journal show it: running, stopped, died or finished."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thinktune.errors import redact
from thinktune.run.folder import RunFolder
from thinktune.run.journal import Record, append, read_metrics
from thinktune.run.resume import is_locked

RunState = Literal["running", "stopped", "died", "finished"]


ENDING_KEY = "ending"  # of the event that a run writes last when it ends before its last step: its state


@dataclass(frozen=True, slots=True)
class RunStatus:
    """State of a run, the last step in its journal, and why it ended early, where it could still say so."""

    state: RunState
    step: int
    reason: str = ""


def read_status(run: Path, *, running: bool | None = None) -> RunStatus:
    """Read the state of a run.

    It is finished once it has its final model, and running while a process holds its lock. Else it was stopped (by a
    signal or a time limit) or died, by an error that it recorded or without a word.

    Args:
        run: the run's folder.
        running: whether a process trains in it, where the caller knows, as that process does; None asks the lock.
    """
    metrics = read_metrics(run)
    step = max((record["step"] for record in metrics if isinstance(record.get("step"), int)), default=0)
    if RunFolder(run).final.is_dir():
        return RunStatus("finished", step)
    if is_locked(run) if running is None else running:
        return RunStatus("running", step)
    last = metrics[-1] if metrics else {}
    state: RunState = "stopped" if last.get(ENDING_KEY) == "stopped" else "died"
    return RunStatus(state, step, str(last.get("reason", "")) if ENDING_KEY in last else "")


def record_ending(run: Path, status: RunStatus) -> None:
    """Write the event of a run that ends early; resuming rewinds the journal to before it."""
    reason = redact(status.reason)
    event: Record = {"kind": "event", "step": status.step, "text": f"{status.state}: {reason}"}
    append(RunFolder(run).metrics, [event | {ENDING_KEY: status.state, "reason": reason}])
