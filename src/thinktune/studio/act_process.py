"""The process of one act: runs a verb of the command line, passes signals on, and writes how it ended.

It has a session of its own, so it survives the studio, a closed terminal and a closed tab. It is started by its file's
path and imports next to nothing, so that it is there at once. Should it be killed, its verb goes on and holds the act's
lock.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from thinktune.files import read_json, write_json

if os.name == "posix":  # the studio refuses to start elsewhere
    import fcntl

STOPPED_CODE = 130  # of an act that was stopped before its verb began, as shells have it
LOCK_SECONDS = 1.0  # for which a lock is tried: others take it for a moment, to ask whether it is held
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
        """Held while the act's process or its verb lives."""
        return self.path / "lock"

    @property
    def watcher(self) -> Path:
        """Held by the act's process alone."""
        return self.path / "watcher"

    @property
    def process(self) -> Path:
        """The numbers of its processes, each true while its lock is held."""
        return self.path / "process.json"

    @property
    def stop(self) -> Path:
        """How often somebody has asked it to stop; absent before the first time."""
        return self.path / "stop.json"

    @property
    def exit(self) -> Path:
        """Its exit code and when it ended; whole or absent."""
        return self.path / "exit.json"

    @property
    def verb_exit(self) -> Path:
        """The same as the verb itself says, for where its process was killed and nobody else knows."""
        return self.path / "verb-exit.json"


def run_act(folder: Path) -> int:
    """Run the act of a folder and return its exit code; 1 where it runs already or has ended."""
    act = ActFolder(folder)
    lock, watcher = _take(act.lock), _take(act.watcher)
    if lock is None or watcher is None or act.exit.exists():
        return 1
    try:
        code = _run_verb(act, lock)
        write_json(act.exit, {"code": code, "ended_at": time.time()})
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # also where the verb left a process behind, which inherited it
    return code


def _take(file: Path) -> int | None:
    """Return a descriptor that holds a file's lock until the process ends; None where another one keeps it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    ends_at = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= ends_at:
                os.close(descriptor)
                return None
            time.sleep(LOCK_SECONDS / 50)


def _run_verb(act: ActFolder, lock: int) -> int:
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
            pass_fds=[lock],  # so that the act's lock is held as long as either lives
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
