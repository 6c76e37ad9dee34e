"""Progress of long work, in lines: how far it is, how fast, and the time left."""

import time
from collections.abc import Callable

Say = Callable[[str], None]
SECONDS_BETWEEN_LINES = 5


class Progress:
    """Says where the work stands, every few seconds; of work that is done at once it says nothing."""

    def __init__(self, say: Say, what: str, total: int | None) -> None:
        self._say, self._what, self._total = say, what, total
        self._begun = self._told = time.monotonic()

    def reached(self, done: int) -> None:
        """So many things are done."""
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_LINES or not done:
            return
        self._told = now
        speed = done / (now - self._begun)
        line = f"{done:,} {self._what}, {speed:,.0f}/s"
        if self._total and done <= self._total:
            line = f"{line}, {done / self._total:.0%}, left {clock((self._total - done) / speed)}"
        self._say(line)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
