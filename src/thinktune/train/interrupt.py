"""When a run has to stop: a signal or its time limit, heard at once and obeyed where nothing is lost by it."""

import _thread
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from thinktune.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


LEFT_AT_ONCE = 130  # the exit code of a second Ctrl-C, as shells have it


def seconds(duration: str | None) -> float | None:
    """How long a knob's `3.5h`, `90m` or `600s` is."""
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]] if duration else None


class Stop:
    """Whether a run was asked to stop, and why; `reserve` is how many seconds before its limit it must begin to."""

    def __init__(self, limit_seconds: float | None) -> None:
        self.reason: str | None = None
        self.reserve = 0.0
        self._ends = None if limit_seconds is None else time.monotonic() + limit_seconds
        self._may_raise = self._hears = False
        self._aloud = True

    @property
    def due(self) -> bool:
        """Whether to stop now."""
        if self._ends is not None and time.monotonic() >= self._ends - self.reserve:
            self.reason = self.reason or Stopped.BY_LIMIT
        return self.reason is not None

    @contextmanager
    def listening(self, *, aloud: bool = True) -> Generator[None]:
        """Hear SIGTERM and SIGINT instead of dying of them, `aloud` or not; only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        self._hears, self._aloud = True, aloud
        try:
            yield
        finally:
            self._hears = False
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Generator[None]:
        """Work that changes nothing and can be done again: a stop leaves it at once, by Stopped."""
        if self.due:
            raise Stopped(self.reason)
        timer = None
        if self._ends is not None and self._hears:
            timer = threading.Timer(max(0.0, self._ends - self.reserve - time.monotonic()), self._end)
            timer.daemon = True
            timer.start()
        self._may_raise = True
        try:
            yield
        finally:
            self._may_raise = False
            if timer:
                timer.cancel()

    def _end(self) -> None:
        """The time limit came during interruptible work: have the main thread hear it as it hears a signal."""
        if self._may_raise:
            self.reason = self.reason or Stopped.BY_LIMIT
            _thread.interrupt_main(signal.SIGTERM)

    def _hear(self, number: int, frame: FrameType | Any) -> None:
        if self.reason is not None and number == signal.SIGINT:
            os._exit(LEFT_AT_ONCE)  # as a power cut would: the last checkpoint is whole
        if self.reason is None:
            self.reason = signal.Signals(number).name
            # Not by print, which must not be entered twice; a signal can come while it is at work.
            if self._aloud:
                os.write(2, f"{self.reason}: saves after this step, then ends; Ctrl-C now leaves at once\n".encode())
        if self._may_raise:
            self._may_raise = False
            raise Stopped(self.reason)
