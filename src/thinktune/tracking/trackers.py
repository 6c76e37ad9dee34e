"""Trackers beside a run: each in a process of its own that may hang or die without the run noticing."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinktune.config import TrackConfig
from thinktune.errors import Stopped
from thinktune.progress import Say

DISPLAY_NAMES = {"swanlab": "SwanLab", "tensorboard": "TensorBoard"}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that a tracker may take to start, and to send what is left when the run has ended."""

    start_seconds: float = 40.0
    finish_seconds: float = 40.0


@contextmanager
def run_trackers(run: Path, settings: TrackConfig, say: Say, timeouts: Timeouts | None = None) -> Generator[None]:
    """While the block runs, the trackers of a run get its records; at its end they get time to send the rest.

    Whatever happens to a tracker is said once, with how to send later what it did not get; nothing is raised.
    """
    followers = [
        _TrackerSupervisor(run, name, modes, settings, say, timeouts or Timeouts())
        for name, modes in _trackers_and_modes(settings)
    ]
    how = "crashed"
    try:
        yield
        how = "success"
    except (KeyboardInterrupt, Stopped):
        how = "aborted"
        raise
    finally:
        for follower in followers:
            follower.report_end(how)
        for follower in followers:
            follower.wait()


def update_trackers(run: Path, settings: TrackConfig, say: Say) -> None:
    """Bring the trackers up to date with a run's folder, once: after an evaluation."""
    with run_trackers(run, settings, say):
        pass


def _trackers_and_modes(settings: TrackConfig) -> list[tuple[str, tuple[str, ...]]]:
    """The trackers asked for, each with its mode and the one to fall back to."""
    wanted: list[tuple[str, tuple[str, ...]]] = []
    if settings.swanlab != "off":
        modes = (settings.swanlab, "offline") if settings.swanlab in ("auto", "cloud") else (settings.swanlab,)
        wanted.append(("swanlab", modes))
    if settings.tensorboard:
        wanted.append(("tensorboard", ("files",)))
    return wanted


class _TrackerSupervisor:
    """One tracker: a thread that starts its process, hears it, and starts a second one where the first one fails."""

    def __init__(
        self, run: Path, name: str, modes: Sequence[str], settings: TrackConfig, say: Say, limits: Timeouts
    ) -> None:
        self._run, self._name, self._settings, self._say, self._timeouts = run, name, settings, say, limits
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._outcome: str | None = None
        self._ready: dict[str, Any] = {}
        self._abandoned = False
        self._thread = threading.Thread(target=self._supervise, args=(modes,), daemon=True)
        self._thread.start()

    def report_end(self, outcome: str) -> None:
        """Tell the process that the run has ended, and how; it sends what is left and goes."""
        with self._lock:
            self._outcome = outcome
            self._send_end()

    def wait(self) -> None:
        """Give it the time that it has, and no more."""
        self._thread.join(self._timeouts.finish_seconds + (0 if self._ready else self._timeouts.start_seconds))
        if not self._thread.is_alive():
            return
        with self._lock:
            self._abandoned = True
            if self._child:
                self._child.kill()
        self._thread.join(5)
        self._report(
            f"had not taken everything {self._timeouts.finish_seconds:.0f} s after the run's end{self._sync_hint()}"
        )

    def _supervise(self, modes: Sequence[str]) -> None:
        for mode in modes:
            try:
                reason = self._run_process(mode)
            except (OSError, ValueError) as error:  # no process to be had, or one that tells what is no JSON
                reason = f"failed ({error})"
            if reason is None or self._abandoned:
                return
            falls_back = mode != modes[-1] and self._ready.get("mode") != modes[-1]
            self._report(f"{reason}; training goes on{', and everything is kept offline' if falls_back else ''}")
            if not falls_back:
                return

    def _run_process(self, mode: str) -> str | None:
        """Run one process to its end. What went wrong, or None."""
        self._ready = {}
        command = [sys.executable, "-m", "thinktune.tracking.worker", str(self._run.resolve()), self._name, mode]
        folder = self._run / self._name
        folder.mkdir(exist_ok=True)  # where no .env and no swanlab.yaml of a project lies
        child = subprocess.Popen(
            [*command, self._settings.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C is for the run; the tracker hears of it from us
        )
        assert child.stdout
        with self._lock:
            self._child = child
            self._send_end()
        late = threading.Timer(self._timeouts.start_seconds, child.kill)
        late.start()
        failed = ""
        for line in child.stdout:
            late.cancel()
            told = json.loads(line)
            failed = told.get("failed", failed)
            if told.get("ready"):
                self._ready = told
                self._report(_describe_location(self._name, told, self._settings))
        late.cancel()
        child.wait()
        if child.returncode == 0:
            return None
        if failed:
            return f"failed ({failed})"
        return (
            f"ended by itself{self._sync_hint()}"
            if self._ready
            else f"did not answer within {self._timeouts.start_seconds:.0f} s"
        )

    def _send_end(self) -> None:
        if self._outcome is None or self._child is None or self._child.stdin is None or self._child.stdin.closed:
            return
        try:
            self._child.stdin.write(self._outcome + "\n")
            self._child.stdin.close()
        except OSError:
            pass  # it is gone already, and its thread says so

    def _sync_hint(self) -> str:
        if self._name != "swanlab" or self._ready.get("mode") != "cloud":
            return ""
        return f"; send the rest by: {_sync_command(self._ready['folder'], self._run, self._settings)}"

    def _report(self, sentence: str) -> None:
        self._say(f"{DISPLAY_NAMES[self._name]}: {sentence}")


def _describe_location(name: str, message: dict[str, Any], settings: TrackConfig) -> str:
    match name, message["mode"]:
        case "swanlab", "cloud":
            return message["place"]
        case "swanlab", "local":
            return f"look at it with: swanlab watch {Path(message['folder']).parent}"
        case "swanlab", _:
            run = Path(message["folder"]).parent.parent
            return f"kept offline; send it later by: {_sync_command(message['folder'], run, settings)}"
        case _:
            return f"look at it with: tensorboard --logdir {message['place']}"


def _sync_command(folder: str, run: Path, settings: TrackConfig) -> str:
    kept = run / "swanlab" / "id"
    number = f" --id {kept.read_text(encoding='utf-8').strip()}" if kept.is_file() else ""
    return f"swanlab sync{number}{f' --host {settings.host}' if settings.host else ''} {folder}"
