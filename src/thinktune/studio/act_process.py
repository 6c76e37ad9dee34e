"""The process of one act: runs a verb of the command line, passes signals on, and writes how it ended.

It has a session of its own, so it survives the studio, a closed terminal and a closed tab. It is started by its file's
path and imports next to nothing, so that it is there at once.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from thinktune.files import read_json, write_json

STOPPED_CODE = 130  # of an act that was stopped before its verb began, as shells have it
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


@dataclass(frozen=True, slots=True)
class ActFolder:
    """The folder of one act; its name is the act's id."""

    path: Path

    @property
    def record(self) -> Path:
        """What the act is: verb, arguments, what it is about, and when it was started."""
        return self.path / "act.json"

    @property
    def stdout(self) -> Path:
        """What the verb printed."""
        return self.path / "stdout"

    @property
    def stderr(self) -> Path:
        """What it printed for people beside that: notices and errors."""
        return self.path / "stderr"

    @property
    def progress(self) -> Path:
        """How far it is; whole or absent."""
        return self.path / "progress.json"

    @property
    def lock(self) -> Path:
        """Held by the act's process while it lives."""
        return self.path / "lock"

    @property
    def process(self) -> Path:
        """The numbers of its processes, true while the lock is held."""
        return self.path / "process.json"

    @property
    def stop(self) -> Path:
        """How often somebody has asked it to stop; absent before the first time."""
        return self.path / "stop.json"

    @property
    def exit(self) -> Path:
        """Its exit code and when it ended; whole or absent."""
        return self.path / "exit.json"


def run_act(folder: Path) -> int:
    """Run the act of a folder and return its exit code; 1 where it runs already or has ended."""
    act = ActFolder(folder)
    lock = FileLock(act.lock)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        return 1
    try:
        if act.exit.exists():
            return 1
        code = _run_verb(act)
        write_json(act.exit, {"code": code, "ended_at": time.time()})
    finally:
        lock.release()
    return code


def _run_verb(act: ActFolder) -> int:
    record = read_json(act.record)
    environment = os.environ | record["environment"]
    heard, passed_on = 0, 0  # signals
    verb: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _frame: FrameType | None) -> None:
        nonlocal heard, passed_on
        heard += 1
        # A first stop may be read from its file below and come as a signal as well; a second one means "at once".
        if verb is not None and not (number == signal.SIGINT and 0 < times_asked(act) <= passed_on):
            passed_on += 1
            verb.send_signal(number)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    if act.stop.exists():
        return STOPPED_CODE
    with act.stdout.open("ab") as stdout, act.stderr.open("ab") as stderr:
        verb = subprocess.Popen(
            [*record["program"], *record["argv"]],
            cwd=record["folder"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # so that a signal comes once, from here
        )
        write_json(act.process, {"process": os.getpid(), "verb": verb.pid})
        if not passed_on and (heard or act.stop.exists()):  # asked before there was a process to pass it on to
            passed_on += 1
            verb.send_signal(signal.SIGINT)
        return verb.wait()


def times_asked(act: ActFolder) -> int:
    """Return how often an act was asked to stop, as its file says."""
    try:
        return int(read_json(act.stop)["times"])
    except (OSError, ValueError, KeyError, TypeError):
        return int(act.stop.exists())


if __name__ == "__main__":
    raise SystemExit(run_act(Path(sys.argv[1])))
