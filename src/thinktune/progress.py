"""Progress of long work: lines and a bar on terminals, which may fail without harm to the work."""

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

Say = Callable[[str], None]


Bar = Callable[[int, int, float | None], None]  # steps done, steps in all, seconds left where known


SECONDS_BETWEEN_LINES = 5


def no_bar(_done: int, _total: int, _seconds_left: float | None) -> None:
    """Do nothing: the bar where there is no terminal."""


def say_nothing(_line: str) -> None:
    """Do nothing: the printer of a rank that stays silent."""


@contextmanager
def progress_bar(console: Console | None = None) -> Generator[tuple[Say, Bar]]:
    """Yield a printer of lines and a bar that stays below them; without a terminal, lines alone."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        yield _print, no_bar
        return
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("step {task.completed}/{task.total}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as live:
        task = live.add_task("", total=None, left="")

        def move(done: int, total: int, seconds_left: float | None) -> None:
            left = "" if seconds_left is None else f"left {format_duration(seconds_left)}"
            live.update(task, completed=done, total=total, left=left)

        yield lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True), move


def _print(line: str) -> None:
    print(line, flush=True)


class GuardedStream:
    """Text stream that keeps its first failure in `output_failure` and raises none.

    Lines are lost where the disk of a log is full, the reader of a pipe is gone, or a terminal has hung up; no work is
    worth less than they are.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.output_failure: Exception | None = None

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: a closed stream, or a text that its encoding lacks
            self.output_failure = self.output_failure or error
            return len(text)

    def flush(self) -> None:
        """Flush what was written, or lose it."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.output_failure = self.output_failure or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_output() -> Generator[None]:
    """Guard standard output and error in a block."""
    before = sys.stdout, sys.stderr
    guarded: list[Any] = [stream and GuardedStream(stream) for stream in before]  # None where there is none
    sys.stdout, sys.stderr = guarded
    try:
        yield
    finally:
        for stream in filter(None, guarded):
            stream.flush()
        sys.stdout, sys.stderr = before


def output_failure(stream: TextIO) -> Exception | None:
    """Return what first kept a guarded stream from being written, or None."""
    return getattr(stream, "output_failure", None)


def describe_failure(failure: Exception) -> str:
    """Describe why a stream could not be written, in a few words."""
    return getattr(failure, "strerror", None) or str(failure)


def open_closed_streams() -> None:
    """Open what the shell closed (`>&-`), or the next file of a run would get the number of standard output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (for the whole process)


def drop_unwritten_output() -> None:
    """Drop what standard output and error cannot take, or the interpreter would fail to flush it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


class Printer:
    """Printer of a run's lines and its bar: what cannot be shown is left out, and the run goes on."""

    def __init__(self, say: Say, bar: Bar = no_bar) -> None:
        self._say, self._bar = say, bar
        self._failure: Exception | None = None
        self._told = False

    def say(self, line: str) -> None:
        """Print a line, or lose it."""
        self._guard(lambda: self._say(line))

    def bar(self, done: int, total: int, seconds_left: float | None) -> None:
        """Move the bar, or leave it."""
        self._guard(lambda: self._bar(done, total, seconds_left))

    def take_failure(self) -> str | None:
        """Return, once, why lines are missing; None while none are."""
        failure = self._failure or output_failure(sys.stdout) or output_failure(sys.stderr)
        if failure is None or self._told:
            return None
        self._told = True
        return (
            f"lines could not be printed ({describe_failure(failure)}) and are missing from the output; the run goes on"
        )

    def _guard(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, ValueError) as error:
            self._failure = self._failure or error


class ProgressReporter:
    """Reporter of progress every few seconds; work that ends sooner is not reported."""

    def __init__(self, say: Say, unit: str, total: int | None) -> None:
        self._say, self._unit, self._total = say, unit, total
        self._started_at = self._reported_at = time.monotonic()

    def update(self, done: int) -> None:
        """Report that `done` units are finished, if it is time."""
        now = time.monotonic()
        if now - self._reported_at < SECONDS_BETWEEN_LINES or not done:
            return
        self._reported_at = now
        speed = done / (now - self._started_at)
        line = f"{done:,} {self._unit}, {speed:,.0f}/s"
        if self._total and done <= self._total:
            line = f"{line}, {done / self._total:.0%}, left {format_duration((self._total - done) / speed)}"
        self._say(line)


def format_duration(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
