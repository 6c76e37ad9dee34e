"""Progress of long work, in lines: how far it is, how fast, and the time left."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Live

Say = Callable[[str], None]


Bar = Callable[[int, int, float | None], None]  # steps done, steps in all, seconds left where known


SECONDS_BETWEEN_LINES = 5


def no_bar(_done: int, _total: int, _seconds_left: float | None) -> None:
    """Nothing moves where nobody watches."""


def say_nothing(_line: str) -> None:
    """Nothing is said where another process speaks for all."""


@contextmanager
def progress_bar(console: Console | None = None) -> Generator[tuple[Say, Bar]]:
    """A way to say lines and a bar that moves below them; where no terminal watches, lines alone."""
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
    with Live(*columns, console=console, transient=True) as live:
        task = live.add_task("", total=None, left="")

        def move(done: int, total: int, seconds_left: float | None) -> None:
            left = "" if seconds_left is None else f"left {format_duration(seconds_left)}"
            live.update(task, completed=done, total=total, left=left)

        yield lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True), move


def _print(line: str) -> None:
    print(line, flush=True)


class ProgressReporter:
    """Says where the work stands, every few seconds; of work that is done at once it says nothing."""

    def __init__(self, say: Say, unit: str, total: int | None) -> None:
        self._say, self._unit, self._total = say, unit, total
        self._started_at = self._reported_at = time.monotonic()

    def update(self, done: int) -> None:
        """So many things are done."""
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
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
