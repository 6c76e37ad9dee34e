"""Progress of long work: lines and a bar on terminals, which may fail without harm to the work."""

import json
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from thinktune.errors import redact
from thinktune.terminal import describe_failure, guard_console, make_console, output_failure, say
from thinktune.translation import translate

Say = Callable[[str], None]


Bar = Callable[[int, int, float | None], None]  # steps done, steps in all, seconds left where known


SECONDS_BETWEEN_LINES = 5
PROGRESS_FILE_VARIABLE = "THINKTUNE_PROGRESS_FILE"
SECONDS_BETWEEN_FILES = 1.0


def no_bar(_done: int, _total: int, _seconds_left: float | None) -> None:
    """Do nothing: the bar where there is no terminal."""


def say_nothing(_line: str) -> None:
    """Do nothing: the printer of a rank that stays silent."""


class ProgressFile:
    """File that another program reads to show how far long work is; THINKTUNE_PROGRESS_FILE names it.

    It is one JSON object {what, done, total, seconds_left, waits, at}, whole or absent, replaced at most once a second.
    That it cannot be written harms nothing.
    """

    def __init__(self) -> None:
        self._written_at, self._what = -SECONDS_BETWEEN_FILES, ""

    def write(
        self,
        what: str,
        done: int = 0,
        total: int | None = None,
        seconds_left: float | None = None,
        *,
        waits: bool = False,
    ) -> None:
        """Replace the file, if one is asked for and it is time; another kind of work is written at once."""
        now = time.monotonic()
        if not (name := os.environ.get(PROGRESS_FILE_VARIABLE)):
            return
        if what == self._what and now - self._written_at < SECONDS_BETWEEN_FILES and done != total:
            return
        self._written_at, self._what = now, what
        record = {"what": what, "done": done, "total": total, "seconds_left": seconds_left, "waits": waits}
        path = Path(name)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with suppress(OSError):
            partial.write_text(json.dumps(record | {"at": time.time()}), encoding="utf-8")
            partial.replace(path)


progress_file = ProgressFile()


def _write_steps(done: int, total: int, seconds_left: float | None) -> None:
    progress_file.write("steps", done, total, seconds_left)


@contextmanager
def progress_bar(console: Console | None = None) -> Generator[tuple[Say, Bar]]:
    """Yield a printer of lines and a bar that stays below them; where nothing can move, lines alone.

    That is without a terminal, and on one that only scrolls: `TERM=dumb`, or `TTY_INTERACTIVE=0` as in a notebook.
    """
    console = guard_console(console) if console else make_console()
    if not console.is_interactive:
        yield say, _write_steps if os.environ.get(PROGRESS_FILE_VARIABLE) else no_bar
        return
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[place]}"),
    )
    with Progress(*columns, console=console, transient=True) as live:
        task = live.add_task("", total=None, place="")

        def move(done: int, total: int, seconds_left: float | None) -> None:
            _write_steps(done, total, seconds_left)
            left = "" if seconds_left is None else f" left {format_duration(seconds_left)}"
            live.update(task, completed=done, total=total, place=translate(f"step {done}/{total}{left}"))

        yield lambda line: console.print(redact(translate(line)), markup=False, highlight=False, soft_wrap=True), move


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
            f"lines could not be printed ({describe_failure(failure)}) and are missing from the output; the run "
            "continues"
        )

    def _guard(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, ValueError) as error:
            self._failure = self._failure or error


class ProgressReporter:
    """Reporter of progress every few seconds; work that ends sooner is not reported.

    Lines count `unit`, each of `size` of what is counted; the progress file names `what` and counts that itself.
    """

    def __init__(self, say: Say, unit: str, total: int | None, *, what: str | None = None, size: int = 1) -> None:
        self._say, self._unit, self._total = say, unit, total
        self._what, self._size = what or unit, size
        self._started_at = self._reported_at = time.monotonic()

    def update(self, done: int) -> None:
        """Report that `done` units are finished, if it is time."""
        now = time.monotonic()
        speed = done / max(now - self._started_at, 1e-9)
        left = (self._total - done) / speed if self._total and 0 < done <= self._total else None
        progress_file.write(self._what, done, self._total, left)
        if now - self._reported_at < SECONDS_BETWEEN_LINES or done < self._size:
            return
        self._reported_at = now
        units = speed / self._size
        pace = f"{units:,.0f}/s" if units >= 1 else f"{1 / units:,.1f} s each"
        line = f"{done // self._size:,} {self._unit}, {pace}"
        if self._total and left is not None:
            line = f"{line}, {done / self._total:.0%}, left {format_duration(left)}"
        self._say(line)


def format_duration(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
