"""Run trackers alongside a run, each in its own process, which may hang or die without harming the run."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinktune.config import TrackConfig
from thinktune.errors import Stopped
from thinktune.progress import Say
from thinktune.run import RunFolder
from thinktune.tracking.identity import read_run_id

DISPLAY_NAMES = {"swanlab": "SwanLab", "tensorboard": "TensorBoard", "wandb": "W&B", "mlflow": "MLflow"}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that a tracker may take to start, and to upload what is left after the run's end."""

    start_seconds: float = 40.0
    finish_seconds: float = 40.0


@contextmanager
def run_trackers(run: Path, settings: TrackConfig, say: Say, timeouts: Timeouts | None = None) -> Generator[None]:
    """Feed a run's records to its trackers while the block runs; at its end, give them time to upload the rest.

    A tracker's failure is reported once, with the command to upload later what is missing; nothing is raised.
    """
    supervisors = [
        _TrackerSupervisor(RunFolder(run), tracker, settings, say, timeouts or Timeouts())
        for tracker in _trackers_and_modes(settings)
    ]
    outcome = "crashed"
    try:
        yield
        outcome = "success"
    except (KeyboardInterrupt, Stopped):
        outcome = "aborted"
        raise
    finally:
        for supervisor in supervisors:
            supervisor.report_end(outcome)
        for supervisor in supervisors:
            supervisor.wait()


def update_trackers(run: Path, settings: TrackConfig, say: Say) -> None:
    """Bring the trackers up to date with a run's folder once, as after an evaluation."""
    with run_trackers(run, settings, say):
        pass


def _trackers_and_modes(settings: TrackConfig) -> list[tuple[str, tuple[str, ...]]]:
    """Return the trackers that the settings ask for, each with its mode and the one to fall back to."""
    wanted: list[tuple[str, tuple[str, ...]]] = []
    if settings.swanlab != "off":
        modes = (settings.swanlab, "offline") if settings.swanlab in ("auto", "cloud") else (settings.swanlab,)
        wanted.append(("swanlab", modes))
    if settings.wandb != "off":
        wanted.append(("wandb", (settings.wandb, "offline") if settings.wandb != "offline" else ("offline",)))
    if settings.mlflow:
        wanted.append(("mlflow", ("server",)))
    if settings.tensorboard:
        wanted.append(("tensorboard", ("files",)))
    return wanted


class _TrackerSupervisor:
    """Supervisor of one tracker: a thread that starts its process, reads its messages, and falls back if it fails."""

    def __init__(
        self, run: RunFolder, tracker: tuple[str, Sequence[str]], settings: TrackConfig, say: Say, timeouts: Timeouts
    ) -> None:
        self._run, self._settings, self._say, self._timeouts = run, settings, say, timeouts
        self._name, modes = tracker
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._outcome: str | None = None
        self._ready: dict[str, Any] = {}
        self._abandoned = False
        self._thread = threading.Thread(target=self._supervise, args=(modes,), daemon=True)
        self._thread.start()

    def report_end(self, outcome: str) -> None:
        """Send the process the outcome of the run; it uploads what is left and exits."""
        with self._lock:
            self._outcome = outcome
            self._send_end()

    def wait(self) -> None:
        """Wait for the process as long as its timeouts allow, then kill it."""
        self._thread.join(self._timeouts.finish_seconds + (0 if self._ready else self._timeouts.start_seconds))
        if not self._thread.is_alive():
            return
        with self._lock:
            self._abandoned = True
            if self._child:
                self._child.kill()
        self._thread.join(5)
        self._report(
            f"had not uploaded everything {self._timeouts.finish_seconds:.0f} s after the run's end{self._sync_hint()}"
        )

    def _supervise(self, modes: Sequence[str]) -> None:
        for mode in modes:
            try:
                reason = self._run_process(mode)
            except (OSError, ValueError) as error:  # the process did not start, or did not write JSON
                reason = f"failed ({error})"
            if reason is None or self._abandoned:
                return
            falls_back = mode != modes[-1] and self._ready.get("mode") != modes[-1]
            self._report(f"{reason}; training continues{', and everything is kept offline' if falls_back else ''}")
            if not falls_back:
                return

    def _run_process(self, mode: str) -> str | None:
        """Run one process to its end and return what went wrong, or None."""
        self._ready = {}
        command = [sys.executable, "-m", "thinktune.tracking.worker", str(self._run.path.resolve()), self._name, mode]
        folder = self._run.tracker(self._name)
        folder.mkdir(exist_ok=True)  # to run where no .env and no swanlab.yaml of a project is found
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C is for the run, which then ends the tracker
        )
        assert child.stdout
        with self._lock:
            self._child = child
            self._send(self._settings.model_dump_json())  # not in the command, which others can read and SwanLab keeps
            self._send_end()
        start_timer = threading.Timer(self._timeouts.start_seconds, child.kill)
        start_timer.start()
        failed = ""
        for line in child.stdout:
            start_timer.cancel()
            message = json.loads(line)
            failed = message.get("failed", failed)
            if message.get("ready"):
                self._ready = message
                self._report(_describe_location(self._name, message, self._run, self._settings))
        start_timer.cancel()
        child.wait()
        if child.returncode == 0:
            return None
        if failed:
            return f"failed ({failed})"
        return (
            f"stopped unexpectedly{self._sync_hint()}"
            if self._ready
            else f"did not answer within {self._timeouts.start_seconds:.0f} s"
        )

    def _send_end(self) -> None:
        if self._outcome is None or self._child is None or self._child.stdin is None or self._child.stdin.closed:
            return
        self._send(self._outcome)
        with suppress(OSError):
            self._child.stdin.close()

    def _send(self, line: str) -> None:
        """Write a line to the process; one that has exited is reported by its thread."""
        assert self._child is not None
        assert self._child.stdin is not None
        with suppress(OSError):
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()

    def _sync_hint(self) -> str:
        if self._ready.get("mode") == "server":
            return "; the next start of the run sends the rest"
        if self._ready.get("mode") != "cloud":
            return ""
        return f"; upload the rest with: {_sync_command(self._name, self._ready['folder'], self._run, self._settings)}"

    def _report(self, sentence: str) -> None:
        self._say(f"{DISPLAY_NAMES[self._name]}: {sentence}")


def _describe_location(name: str, message: dict[str, Any], run: RunFolder, settings: TrackConfig) -> str:
    match name, message["mode"]:
        case _, "cloud" | "server":
            return message["place"]
        case "swanlab", "local":
            return f"view it with: swanlab watch {Path(message['folder']).parent}"
        case "swanlab" | "wandb", _:
            return f"kept offline; upload it later with: {_sync_command(name, message['folder'], run, settings)}"
        case _:
            return f"view it with: tensorboard --logdir {message['place']}"


def _sync_command(name: str, folder: str, run: RunFolder, settings: TrackConfig) -> str:
    if name == "wandb":
        return f"wandb sync {folder}"
    kept = read_run_id(run.path, name)
    run_id = f" --id {kept}" if kept else ""
    return f"swanlab sync{run_id}{f' --host {settings.host}' if settings.host else ''} {folder}"
