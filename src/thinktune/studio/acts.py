"""Acts: verbs of the command line that the studio starts, each in a process and a folder of its own."""

import codecs
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from thinktune.errors import Stopped, redact
from thinktune.exit_codes import EXIT_FILE_VARIABLE
from thinktune.files import read_json, write_json
from thinktune.http import ApiError
from thinktune.progress import PROGRESS_FILE_VARIABLE
from thinktune.run.environment import shell_command
from thinktune.run.lock import is_held
from thinktune.studio import act_process
from thinktune.studio.act_process import ActFolder, times_asked
from thinktune.studio.folder import StudioFolder
from thinktune.studio.verbs import Verb
from thinktune.translation import LANGUAGE_VARIABLE

ActState = Literal["waiting", "running", "finished", "failed", "stopped", "died"]
STOPPED_CODES = (Stopped.EXIT_CODE, 130, -signal.SIGINT, -signal.SIGTERM)
TRAINING_VERBS = ("train", "pilot")
START_SECONDS = 20  # within which an act's process takes its lock, on a busy machine as well
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError)  # of an act whose files are not as we write them
MAX_LOG_BYTES = 2**18  # of one answer
MAX_ERROR_BYTES = 2**16  # of standard error, from its end
KEPT_ACTS = 1000  # the newest; a list for people shows 200
SLACK = 1.1  # times as many are there before old ones are looked for, since all are read for that


@dataclass(frozen=True, slots=True)
class Act:
    """An act as its folder shows it now."""

    id: str
    verb: str
    about: dict[str, str]
    command: str
    """The line to paste in the studio's folder."""
    started_at: float
    """Seconds since 1970."""
    state: ActState
    code: int | None = None
    ended_at: float | None = None
    progress: dict[str, Any] | None = None
    errors: list[str] = field(default_factory=list[str])
    """Sentences of a failed act, as its standard error has them; only where one act is looked at (`Acts.find`)."""
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Acts:
    """The acts of a studio's folder, below `.thinktune/acts`."""

    folder: StudioFolder
    program: tuple[str, ...] = (sys.executable, "-P", "-m", "thinktune")
    """What is started, before the verb and its arguments; no module is taken from the user's folder (-P)."""

    @property
    def path(self) -> Path:
        """The folder of all acts."""
        return self.folder.path / ".thinktune" / "acts"

    def start(self, verb: Verb) -> Act:
        """Start a verb in a process of its own, which lives on without the studio."""
        now = time.time()
        id = f"{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{verb.verb}-{secrets.token_hex(3)}"
        argv = verb.argv(self.folder, id)
        act = ActFolder(self.path / id)
        record = {
            "verb": verb.verb,
            "program": self.program,
            "argv": argv,
            "about": verb.about(),
            "command": self.command_of(verb),
            "started_at": now,
            "folder": str(self.folder.path),
            "environment": {
                PROGRESS_FILE_VARIABLE: str(act.progress),
                EXIT_FILE_VARIABLE: str(act.verb_exit),
                LANGUAGE_VARIABLE: "en",  # what it prints is read here; the page translates it
                "PYTHONUNBUFFERED": "1",
                "TERM": "dumb",
            },
        }
        act.path.mkdir(parents=True)
        write_json(act.record, record)
        subprocess.Popen(
            [sys.executable, "-P", act_process.__file__, str(act.path)],
            cwd=self.folder.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._remove_old()
        return self.find(id)

    def command_of(self, verb: Verb) -> str:
        """Return the line of a verb, to paste in the studio's folder; raises ApiError as starting it would."""
        return redact(shell_command(*_readable(verb.typed(self.folder))))

    def list(self, count: int = 200) -> "list[Act]":
        """List acts, the newest first."""
        return [act for _, act in zip(range(count), self._newest_first(), strict=False)]

    def of_verb(self, verb: str) -> Iterator[Act]:
        """Yield all acts of a verb, the newest first; the others' files are not read."""
        return self._newest_first(verb=verb)

    def alive(self) -> "list[Act]":
        """List the acts that wait or run, the newest first."""
        return [act for act in self._newest_first(alive=True) if act.state in ("waiting", "running")]

    def find(self, id: str) -> Act:
        """Return an act; raises ApiError (404) where there is none of this id."""
        try:
            folder = ActFolder(self._folder_of(id))
            act = _read_act(folder)
            return replace(act, errors=_read_errors(folder)) if act.state in ("failed", "died") else act
        except DAMAGE:
            raise ApiError(404, f"there is no act {id!r}; its folder may have been deleted") from None

    def read_log(self, id: str, from_byte: int, name: Literal["stdout", "stderr"] = "stderr") -> dict[str, Any]:
        """Read what an act printed from a byte on: {text, next, more}; negative bytes count from the end."""
        act = ActFolder(self._folder_of(id))
        file = act.stdout if name == "stdout" else act.stderr
        if not act.record.is_file():
            raise ApiError(404, f"there is no act {id!r}; its folder may have been deleted")
        if not file.is_file():
            return {"text": "", "next": 0, "more": False}
        size = file.stat().st_size
        start = max(0, size + from_byte) if from_byte < 0 else min(from_byte, size)
        with file.open("rb") as opened:
            opened.seek(start)
            found = opened.read(MAX_LOG_BYTES)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(found)
        cut = len(decoder.getstate()[0])  # bytes of a character that is not whole yet
        more = start + len(found) < size
        return {"text": redact(text), "next": start + len(found) - cut, "more": more}

    def read_output(self, id: str) -> bytes:
        """Return what an act has printed to standard output, whole."""
        act = ActFolder(self._folder_of(id))
        return act.stdout.read_bytes() if act.stdout.is_file() else b""

    def stop(self, id: str) -> Act:
        """Ask an act to stop as Ctrl-C does; asked again, it is told to end. One that has ended stays so.

        Training ends at once by a second Ctrl-C, without saving; other verbs by SIGTERM.
        """
        act = self.find(id)
        folder = ActFolder(self._folder_of(id))
        if act.state not in ("waiting", "running"):
            return act
        times = times_asked(folder)
        by_ctrl_c = times == 0 or (times == 1 and act.verb in TRAINING_VERBS)
        write_json(folder.stop, {"at": time.time(), "times": times + 1})
        with suppress(*DAMAGE):
            if is_held(folder.lock):  # so the number of who holds it is still its own
                numbers, asked = read_json(folder.process), signal.SIGINT if by_ctrl_c else signal.SIGTERM
                if is_held(folder.watcher):
                    os.kill(numbers["process"], asked)
                else:  # killed; the verb leads a group of its own, whose number nobody else gets while one of it lives
                    os.killpg(numbers["verb"], asked)
        return self.find(id)

    def _remove_old(self) -> None:
        """Remove acts that have ended beyond the newest KEPT_ACTS: a folder that only grows makes every list slow.

        What a screen may still show stays: of each verb and what it is about the last that ended by itself, and the
        last of those that printed something, as the facts of a recipe's check. Runs, exports, evaluations and rows are
        elsewhere and never touched.
        """
        names = self._names()
        if len(names) <= KEPT_ACTS * SLACK:
            return
        shown: set[str] = set()
        for place, name in enumerate(names):
            folder, kind, act = ActFolder(self.path / name), "", None
            with suppress(*DAMAGE):
                act = _read_act(folder)
                if act.state in ("finished", "failed"):
                    printed = folder.stdout.exists() and folder.stdout.stat().st_size > 0
                    kind = json.dumps([act.verb, act.about, printed], sort_keys=True)
            lives = act.state in ("waiting", "running") if act else is_held(folder.lock)
            if place >= KEPT_ACTS and not lives and (not kind or kind in shown):
                shutil.rmtree(folder.path, ignore_errors=True)
            shown.add(kind)

    def _folder_of(self, id: str) -> Path:
        if not id or id.startswith(".") or not id.replace("-", "").isalnum() or not id.isascii():
            raise ApiError(404, f"there is no act {id!r}")
        return self.path / id

    def _newest_first(self, *, alive: bool = False, verb: str = "") -> Iterator[Act]:
        for name in self._names():
            folder = ActFolder(self.path / name)
            if (alive and folder.exit.exists()) or (verb and f"-{verb}-" not in name):
                continue
            with suppress(*DAMAGE):
                yield _read_act(folder)

    def _names(self) -> "list[str]":
        """List the ids of all acts, the newest first."""
        try:
            return sorted((entry.name for entry in os.scandir(self.path)), reverse=True)
        except OSError:  # none has been started yet
            return []


def _read_act(folder: ActFolder) -> Act:
    record = read_json(folder.record)
    if not isinstance(record["about"], dict) or not isinstance(record["verb"], str):
        raise ValueError(folder.record)
    state, ending = _state_of(folder, record["started_at"])
    return Act(
        id=folder.path.name,
        verb=record["verb"],
        about=record["about"],
        command=record["command"],
        started_at=record["started_at"],
        state=state,
        code=ending.get("code"),
        ended_at=ending.get("ended_at"),
        progress=_read_progress(folder) if state in ("waiting", "running") else None,
        stopping=state in ("waiting", "running") and folder.stop.exists(),
    )


def _state_of(folder: ActFolder, started_at: float) -> tuple[ActState, dict[str, Any]]:
    if folder.exit.exists():
        return _read_ending(folder.exit)
    # The act's own process was killed, and what its verb left behind may hold the act's lock.
    if folder.verb_exit.exists() and not is_held(folder.watcher) and not folder.exit.exists():
        return _read_ending(folder.verb_exit)
    if is_held(folder.lock):
        waits = (_read_progress(folder) or {}).get("waits", False)
        return ("waiting" if waits else "running"), {}
    if folder.exit.exists():  # written while we looked
        return _read_ending(folder.exit)
    if folder.verb_exit.exists():
        return _read_ending(folder.verb_exit)
    if not folder.process.exists() and time.time() - started_at < START_SECONDS:
        return "waiting", {}
    return ("stopped" if folder.stop.exists() else "died"), {}


def _read_ending(file: Path) -> tuple[ActState, dict[str, Any]]:
    ending = read_json(file)
    code = ending["code"]
    if code == 0:
        return "finished", ending
    return ("stopped" if code in STOPPED_CODES else "failed"), ending


def _read_progress(folder: ActFolder) -> dict[str, Any] | None:
    try:
        progress = read_json(folder.progress)
    except (OSError, ValueError):
        return None
    return progress if isinstance(progress, dict) else None


def _read_errors(folder: ActFolder) -> list[str]:
    """Return the sentences of errors, as the command line marks them; else the last line that was printed."""
    with suppress(OSError):
        size = folder.stderr.stat().st_size
        with folder.stderr.open("rb") as file:
            file.seek(max(0, size - MAX_ERROR_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        said = said or _json_stops(folder) or [line for line in lines if line.strip()][-1:]
        return [redact(line) for line in said]
    return []


def _json_stops(folder: ActFolder) -> list[str]:
    """Return what `check --json` says about a recipe that is not ready."""
    with suppress(OSError, ValueError):
        facts = json.loads(folder.stdout.read_bytes())
        if isinstance(facts, dict):
            return [str(one) for one in facts.get("stops", [])]
    return []


def _readable(argv: list[str]) -> list[str]:
    """Return arguments as a person types them: without `--` where no argument after it begins with a dash."""
    at = argv.index("--") if "--" in argv else -1
    return argv if at < 0 or any(one.startswith("-") for one in argv[at + 1 :]) else argv[:at] + argv[at + 1 :]
