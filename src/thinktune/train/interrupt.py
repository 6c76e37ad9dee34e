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


FORCED_EXIT_CODE = 130  # the exit code of a second Ctrl-C, as shells have it


def parse_duration_seconds(duration: str | None) -> float | None:
    """How long a knob's `3.5h`, `90m` or `600s` is."""
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]] if duration else None


class StopRequest:
    """Whether a run was asked to stop, and why; `reserve_seconds` is how many seconds before its limit it must begin to."""

    def __init__(self, limit_seconds: float | None) -> None:
        self.reason: str | None = None
        self.reserve_seconds = 0.0
        self._deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
        self._may_raise = self._catches_signals = False
        self._announce = True

    @property
    def due(self) -> bool:
        """Whether to stop now."""
        if self._deadline is not None and time.monotonic() >= self._deadline - self.reserve_seconds:
            self.reason = self.reason or Stopped.TIME_LIMIT
        return self.reason is not None

    @contextmanager
    def catch_signals(self, *, announce: bool = True) -> Generator[None]:
        """Hear SIGTERM and SIGINT instead of dying of them, `announce` or not; only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle_signal) for number in SIGNALS}
        self._catches_signals, self._announce = True, announce
        try:
            yield
        finally:
            self._catches_signals = False
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Generator[None]:
        """Work that changes nothing and can be done again: a stop leaves it at once, by Stopped."""
        if self.due:
            raise Stopped(self.reason)
        timer = None
        if self._deadline is not None and self._catches_signals:
            timer = threading.Timer(
                max(0.0, self._deadline - self.reserve_seconds - time.monotonic()), self._interrupt_at_deadline
            )
            timer.daemon = True
            timer.start()
        self._may_raise = True
        try:
            yield
        finally:
            self._may_raise = False
            if timer:
                timer.cancel()

    def _interrupt_at_deadline(self) -> None:
        """The time limit came during interruptible work: have the main thread hear it as it hears a signal."""
        if self._may_raise:
            self.reason = self.reason or Stopped.TIME_LIMIT
            _thread.interrupt_main(signal.SIGTERM)

    def _handle_signal(self, number: int, frame: FrameType | Any) -> None:
        if self.reason is not None and number == signal.SIGINT:
            os._exit(FORCED_EXIT_CODE)  # as a power cut would: the last checkpoint is whole
        if self.reason is None:
            self.reason = signal.Signals(number).name
            # Not by print, which must not be entered twice; a signal can come while it is at work.
            if self._announce:
                os.write(2, f"{self.reason}: saves after this step, then ends; Ctrl-C now leaves at once\n".encode())
        if self._may_raise:
            self._may_raise = False
            raise Stopped(self.reason)
