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

from thinktune.config.schema import Track
from thinktune.errors import Stopped
from thinktune.progress import Say

NAMES = {"swanlab": "SwanLab", "tensorboard": "TensorBoard"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a tracker may take to start, and to send what is left when the run has ended."""

    start: float = 40.0
    finish: float = 40.0


@contextmanager
def following(run: Path, settings: Track, say: Say, limits: Limits | None = None) -> Generator[None]:
    """While the block runs, the trackers of a run get its records; at its end they get time to send the rest.

    Whatever happens to a tracker is said once, with how to send later what it did not get; nothing is raised.
    """
    followers = [_Follower(run, name, modes, settings, say, limits or Limits()) for name, modes in _wanted(settings)]
    how = "crashed"
    try:
        yield
        how = "success"
    except (KeyboardInterrupt, Stopped):
        how = "aborted"
        raise
    finally:
        for follower in followers:
            follower.end(how)
        for follower in followers:
            follower.wait()


def send(run: Path, settings: Track, say: Say) -> None:
    """Bring the trackers up to date with a run's folder, once: after an evaluation."""
    with following(run, settings, say):
        pass


def _wanted(settings: Track) -> list[tuple[str, tuple[str, ...]]]:
    """The trackers asked for, each with its mode and the one to fall back to."""
    wanted: list[tuple[str, tuple[str, ...]]] = []
    if settings.swanlab != "off":
        modes = (settings.swanlab, "offline") if settings.swanlab in ("auto", "cloud") else (settings.swanlab,)
        wanted.append(("swanlab", modes))
    if settings.tensorboard:
        wanted.append(("tensorboard", ("files",)))
    return wanted


class _Follower:
    """One tracker: a thread that starts its process, hears it, and starts a second one where the first one fails."""

    def __init__(self, run: Path, name: str, modes: Sequence[str], settings: Track, say: Say, limits: Limits) -> None:
        self._run, self._name, self._settings, self._say, self._limits = run, name, settings, say, limits
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._how: str | None = None
        self._ready: dict[str, Any] = {}
        self._abandoned = False
        self._thread = threading.Thread(target=self._live, args=(modes,), daemon=True)
        self._thread.start()

    def end(self, how: str) -> None:
        """Tell the process that the run has ended, and how; it sends what is left and goes."""
        with self._lock:
            self._how = how
            self._tell_end()

    def wait(self) -> None:
        """Give it the time that it has, and no more."""
        self._thread.join(self._limits.finish + (0 if self._ready else self._limits.start))
        if not self._thread.is_alive():
            return
        with self._lock:
            self._abandoned = True
            if self._child:
                self._child.kill()
        self._thread.join(5)
        self._speak(f"had not taken everything {self._limits.finish:.0f} s after the run's end{self._later()}")

    def _live(self, modes: Sequence[str]) -> None:
        for mode in modes:
            try:
                reason = self._follow(mode)
            except (OSError, ValueError) as error:  # no process to be had, or one that tells what is no JSON
                reason = f"failed ({error})"
            if reason is None or self._abandoned:
                return
            falls_back = mode != modes[-1] and self._ready.get("mode") != modes[-1]
            self._speak(f"{reason}; training goes on{', and everything is kept offline' if falls_back else ''}")
            if not falls_back:
                return

    def _follow(self, mode: str) -> str | None:
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
            self._tell_end()
        late = threading.Timer(self._limits.start, child.kill)
        late.start()
        failed = ""
        for line in child.stdout:
            late.cancel()
            told = json.loads(line)
            failed = told.get("failed", failed)
            if told.get("ready"):
                self._ready = told
                self._speak(_whereabouts(self._name, told, self._settings))
        late.cancel()
        child.wait()
        if child.returncode == 0:
            return None
        if failed:
            return f"failed ({failed})"
        return f"ended by itself{self._later()}" if self._ready else f"did not answer within {self._limits.start:.0f} s"

    def _tell_end(self) -> None:
        if self._how is None or self._child is None or self._child.stdin is None or self._child.stdin.closed:
            return
        try:
            self._child.stdin.write(self._how + "\n")
            self._child.stdin.close()
        except OSError:
            pass  # it is gone already, and its thread says so

    def _later(self) -> str:
        if self._name != "swanlab" or self._ready.get("mode") != "cloud":
            return ""
        return f"; send the rest by: {_sync(self._ready['folder'], self._run, self._settings)}"

    def _speak(self, sentence: str) -> None:
        self._say(f"{NAMES[self._name]}: {sentence}")


def _whereabouts(name: str, told: dict[str, Any], settings: Track) -> str:
    match name, told["mode"]:
        case "swanlab", "cloud":
            return told["place"]
        case "swanlab", "local":
            return f"look at it with: swanlab watch {Path(told['folder']).parent}"
        case "swanlab", _:
            run = Path(told["folder"]).parent.parent
            return f"kept offline; send it later by: {_sync(told['folder'], run, settings)}"
        case _:
            return f"look at it with: tensorboard --logdir {told['place']}"


def _sync(folder: str, run: Path, settings: Track) -> str:
    kept = run / "swanlab" / "id"
    number = f" --id {kept.read_text(encoding='utf-8').strip()}" if kept.is_file() else ""
    return f"swanlab sync{number}{f' --host {settings.host}' if settings.host else ''} {folder}"
