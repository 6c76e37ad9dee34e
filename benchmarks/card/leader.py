"""The leader of the stages: a process without CUDA that starts them, gives them turns on the card, and ends them.

Each stage is a child process that first imports and reads what it needs, and then asks for the card. Stages load and
compile side by side as far as the card's memory goes; a timed window has the card for itself. A stage over its limit is
ended with everything that it started. What is found is written line by line, so that no cut loses it.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from card.turns import OUT_OF_MEMORY_CODE

ERROR_CHARACTERS = 300
State = Literal["host", "wants card", "card", "wants timed", "timed"]


@dataclass(frozen=True)
class Stage:
    """A child process: its command, its seconds on the card (waiting apart), and the GiB that it may take there.

    `needs` are stages that must have ended well before it comes to the card. One that is `patient` waits until the
    stages before it are done with their timed windows. `smaller` runs in its place if its batch does not fit.
    """

    name: str
    group: str
    command: tuple[str, ...]
    limit_seconds: float
    gib: float = 0.0
    needs: tuple[str, ...] = ()
    patient: bool = False
    smaller: "Stage | None" = None


@dataclass(frozen=True)
class Limits:
    """Seconds for all, GiB of the card, processes that prepare ahead, and processes side by side on the card.

    `host_seconds` are those of one stage before it asks for the card: imports, where several start at once.
    """

    seconds: float
    card_gib: float = 1e9
    ahead: int = 4
    beside: int = 6
    host_seconds: float = 120.0


@dataclass(eq=False)
class _Child:
    stage: Stage
    order: tuple[int, ...]
    process: subprocess.Popen[str]
    errors: Path
    state: State = "host"
    since: float = field(default_factory=time.monotonic)
    used: dict[str, float] = field(default_factory=dict[str, float])
    overdue: str = ""

    def enter(self, state: State) -> None:
        """Change the state, and count the seconds of the one before."""
        now = time.monotonic()
        self.used[self.state] = self.used.get(self.state, 0.0) + now - self.since
        self.state, self.since = state, now

    @property
    def holds_card(self) -> bool:
        """Whether it may have memory on the card."""
        return any(state in self.used for state in ("card", "timed")) or self.state in ("card", "timed")

    @property
    def card_seconds(self) -> float:
        """Seconds of its turns on the card so far."""
        running = time.monotonic() - self.since if self.state in ("card", "timed") else 0.0
        return sum(self.used.get(state, 0.0) for state in ("card", "timed")) + running


class Leader:
    """Runs stages in their order; `record` gets each finding as a JSON-able line at once."""

    def __init__(
        self,
        stages: Sequence[Stage],
        limits: Limits,
        record: Callable[[dict[str, Any]], None],
        *,
        folder: Path,
        environment: dict[str, str],
    ) -> None:
        self._waiting: list[tuple[tuple[int, ...], Stage]] = [((n,), stage) for n, stage in enumerate(stages)]
        self._limits, self._record, self._folder, self._environment = limits, record, folder, environment
        self._children: list[_Child] = []
        self._lines: queue.Queue[tuple[_Child, str | None]] = queue.Queue()
        self._done: dict[str, bool] = {}
        self._names = {stage.name for stage in stages}
        self.facts: dict[str, Any] = {}
        self._started = time.monotonic()

    def run(self) -> bool:
        """Run all stages; return True if each ended well. No process of theirs is left, however this ends."""
        try:
            while self._waiting or self._children:
                if self.elapsed > self._limits.seconds:
                    self._end_all("out of time")
                    break
                self._start_ahead()
                self._give_turns()
                self._read(0.2)
                self._end_overdue()
        except BaseException:
            self._end_all("interrupted")
            raise
        return all(self._done.values())

    @property
    def elapsed(self) -> float:
        """Seconds since the leader began."""
        return time.monotonic() - self._started

    def _start_ahead(self) -> None:
        ready = sum(not child.holds_card for child in self._children)
        while self._waiting and ready < self._limits.ahead:
            order, stage = self._waiting.pop(0)
            if failed := [name for name in stage.needs if self._done.get(name) is False]:
                self._finish(stage, f"not run: it needs {failed[0]}, which failed", {})
                continue
            self._start(order, stage)
            ready += 1

    def _start(self, order: tuple[int, ...], stage: Stage) -> None:
        errors = self._folder / f"{stage.name.replace(' ', '-')}.stderr"
        with errors.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                stage.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=self._environment,
                start_new_session=True,  # so that it can be ended with all that it starts
            )
        child = _Child(stage, order, process, errors)
        self._children.append(child)
        threading.Thread(target=self._follow, args=(child, process.stdout), daemon=True).start()

    def _follow(self, child: _Child, out: IO[str]) -> None:
        """Queue the lines of a child, then its end; what it started and left behind is ended with it."""

        def read() -> None:
            for line in out:
                self._lines.put((child, line))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)  # its group keeps its number until `wait`
        self._kill(child)
        child.process.wait()
        reader.join()
        self._lines.put((child, None))

    def _give_turns(self) -> None:
        """Grant wishes in the stages' order: a timed window waits for the card to be idle, and none begins beside it.

        A stage that finds no memory lets timed windows pass, or it might wait for one that waits for it.
        """
        wishes = sorted((child for child in self._children if child.state.startswith("wants")), key=lambda c: c.order)
        full = False
        for child in wishes:
            on_card = [other for other in self._children if other.state in ("card", "timed")]
            if any(other.state == "timed" for other in on_card) or self._lacks(child):
                continue
            if child.state == "wants timed":
                if not child.holds_card and (full or not self._fits(child)):
                    full = True
                    continue
                if on_card:
                    return
                self._grant(child, "timed")
                return
            if self._must_be_patient(child):
                continue
            if not child.holds_card and (full or not self._fits(child)):
                full = True
                continue
            if len(on_card) < self._limits.beside:
                self._grant(child, "card")

    def _lacks(self, child: _Child) -> bool:
        """Return True if a stage that it needs has not ended; end it if that one failed."""
        missing = [name for name in child.stage.needs if name in self._names and not self._done.get(name)]
        for name in missing:
            if name in self._done and not child.overdue:
                child.overdue = f"not run: it needs {name}, which failed"
                self._kill(child)
        return bool(missing)

    def _fits(self, child: _Child) -> bool:
        held = sum(other.stage.gib for other in self._children if other is not child and other.holds_card)
        return not held or held + child.stage.gib <= self._limits.card_gib

    def _must_be_patient(self, child: _Child) -> bool:
        return child.stage.patient and any(
            other.order < child.order and not other.stage.patient for other in self._children
        )

    def _grant(self, child: _Child, state: Literal["card", "timed"]) -> None:
        child.enter(state)
        assert child.process.stdin is not None
        with suppress(BrokenPipeError):  # it died meanwhile, and its end is read next
            child.process.stdin.write(json.dumps(self.facts) + "\n")
            child.process.stdin.flush()

    def _read(self, timeout: float) -> None:
        """Take what children said, at least once in `timeout` seconds."""
        with suppress(queue.Empty):
            while True:
                child, line = self._lines.get(timeout=timeout)
                timeout = 0.0
                if line is None:
                    self._take_end(child)
                elif line.strip():
                    self._take_line(child, line)

    def _take_line(self, child: _Child, text: str) -> None:
        line = _parse(text)
        if "wants" in line:
            child.enter("wants timed" if line["wants"] == "timed" else "wants card")
            return
        self.facts.update(line.get("facts", {}))
        self._say(child.stage, line)

    def _take_end(self, child: _Child) -> None:
        if child not in self._children:
            return
        child.enter("host")
        self._children.remove(child)
        code, ended = child.process.returncode, child.overdue
        errors = _tail(child.errors)
        if not ended and code == OUT_OF_MEMORY_CODE:
            ended = f"does not fit: {errors[-1] if errors else 'out of memory'}"
            if child.stage.smaller:
                self._waiting.insert(0, ((*child.order, 0), child.stage.smaller))
                self._names.add(child.stage.smaller.name)
        elif not ended and code:
            ended = f"failed: {errors[-1] if errors else f'exit code {code}'}"
        self._finish(child.stage, ended or "ok", child.used)

    def _finish(self, stage: Stage, ended: str, used: dict[str, float]) -> None:
        self._done[stage.name] = ended == "ok"
        seconds = {f"{name.replace('wants ', 'waited_')}_s": round(value, 1) for name, value in used.items()}
        self._say(stage, {"ended": ended, **seconds})

    def _say(self, stage: Stage, line: dict[str, Any]) -> None:
        self._record({"stage": stage.name, "group": stage.group, "at_s": round(self.elapsed, 1), **line})

    def _end_overdue(self) -> None:
        for child in self._children:
            late = child.card_seconds > child.stage.limit_seconds
            stuck = child.state == "host" and time.monotonic() - child.since > self._limits.host_seconds
            if (late or stuck) and not child.overdue:
                limit = child.stage.limit_seconds if late else self._limits.host_seconds
                child.overdue = f"over its limit of {limit:.0f} s {'on the card' if late else 'before the card'}"
                self._kill(child)

    def _end_all(self, why: str) -> None:
        for child in self._children:
            child.overdue = child.overdue or f"{why}, after {child.card_seconds:.0f} s on the card"
            self._kill(child)
        until = time.monotonic() + 3
        while self._children and time.monotonic() < until:
            self._read(0.1)
        for child in self._children:
            self._finish(child.stage, child.overdue, child.used)
        self._children.clear()
        for _, stage in self._waiting:
            self._finish(stage, f"not run: {why}", {})
        self._waiting.clear()

    @staticmethod
    def _kill(child: _Child) -> None:
        if child.process.returncode is None:  # not waited for yet, so that the number is still its own
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)  # its own group, by `start_new_session`


def _parse(text: str) -> dict[str, Any]:
    """Read a line of a child; what a library printed before the child took its output away is kept as text."""
    with suppress(json.JSONDecodeError):
        line = json.loads(text)
        if isinstance(line, dict):
            return line  # pyright: ignore[reportUnknownVariableType]
    return {"item": "line", "text": text.strip()[:ERROR_CHARACTERS]}


def _tail(errors: Path) -> list[str]:
    """Return the last lines that a process wrote to standard error, without empty ones."""
    text = errors.read_text(encoding="utf-8", errors="replace")[-20_000:]
    return [line.strip()[:ERROR_CHARACTERS] for line in text.splitlines() if line.strip()]


def python(*arguments: object) -> tuple[str, ...]:
    """Return the command of a Python child."""
    return (sys.executable, *map(str, arguments))
