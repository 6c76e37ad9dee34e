"""Interrupts of a run: signals and the time limit, followed where nothing is lost."""

import _thread
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from thinktune.errors import Stopped
from thinktune.run.status import RunStatus, record_ending
from thinktune.translation import translate

if TYPE_CHECKING:
    from thinktune.train.state import Run

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
KEYBOARD = "Ctrl-C"  # what people call SIGINT
FORCED_EXIT_CODE = 130  # of a second Ctrl-C, as shells have it


def parse_duration_seconds(duration: str | None) -> float | None:
    """Return the seconds of a setting like `3.5h`, `90m` or `600s`."""
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]] if duration else None


class _Interrupt(BaseException):
    """Leaves interruptible work at once; no Exception, which libraries catch and take for their own."""


class StopRequest:
    """A request to stop, by a signal or by the time limit, and its reason; or to finish with the steps there are."""

    def __init__(self, limit_seconds: float | None, *, finishes: bool = False) -> None:
        self.reason: str | None = None
        self.finishes = finishes
        self._reserve_seconds = 0.0  # before the limit, in which the run saves
        self._deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
        self._may_raise = self._catches_signals = False
        self._announce = True
        self._run: Run | None = None

    @property
    def due(self) -> bool:
        """Return True if the run is to stop now."""
        if self._deadline is not None and time.monotonic() >= self._deadline - self._reserve_seconds:
            self.reason = self.reason or Stopped.TIME_LIMIT
        return self.reason is not None

    def reserve(self, seconds: float) -> None:
        """Stop at least so many seconds before the time limit."""
        self._reserve_seconds = max(self._reserve_seconds, seconds)

    def follow_run(self, run: "Run | None") -> None:
        """Take the run whose journal is to say so where a second Ctrl-C ends it; None where none trains."""
        self._run = run

    def set_reason(self, reason: str) -> None:
        """Take the reason that all ranks agreed on."""
        self.reason = reason

    @contextmanager
    def catch_signals(self, *, announce: bool = True) -> Generator[None]:
        """Take SIGTERM, SIGINT and SIGHUP as requests to stop; only a main thread can. Print so if `announce`.

        SIGHUP stays ignored under nohup, and SIGINT where a script started the run in the background.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [n for n in SIGNALS if n == signal.SIGTERM or signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle_signal) for number in heard}
        self._catches_signals, self._announce = True, announce
        try:
            yield
        finally:
            self._catches_signals = False
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self, *, by_time_limit: bool = True) -> Generator[None]:
        """Run a block that changes nothing and can be repeated: a stop leaves it at once, by Stopped."""
        if self.reason is not None or (by_time_limit and self.due):
            raise Stopped(self.reason)
        timer = None
        if self._deadline is not None and self._catches_signals and by_time_limit:
            seconds = max(0.0, self._deadline - self._reserve_seconds - time.monotonic())
            timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._interrupt_at_deadline)
            timer.daemon = True
            timer.start()
        self._may_raise = True
        try:
            yield
        except _Interrupt:
            raise Stopped(self.reason) from None
        finally:
            self._may_raise = False
            if timer:
                timer.cancel()

    def _interrupt_at_deadline(self) -> None:
        """Have the main thread leave interruptible work, as after a signal."""
        if self._may_raise:
            self.reason = self.reason or Stopped.TIME_LIMIT
            _thread.interrupt_main(signal.SIGTERM)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            if self._announce:
                _write_to_stderr("stopped; run the same command to resume from the last checkpoint")
            if self._run is not None:
                with suppress(Exception):  # whatever is wrong with the journal, the run ends
                    record_ending(self._run.context.folder, RunStatus("stopped", self._run.state.step, KEYBOARD))
            os._exit(FORCED_EXIT_CODE)  # as a power cut would: the last checkpoint is whole
        if self.reason is None:
            self.reason = KEYBOARD if number == signal.SIGINT else signal.Signals(number).name
            if self._announce and not self._may_raise:
                if number == signal.SIGINT:
                    _write_to_stderr("Ctrl-C: saving after this step; press it again to exit at once without saving")
                else:
                    _write_to_stderr(f"{self.reason}: saving after this step; Ctrl-C exits at once without saving")
        if self._may_raise:
            self._may_raise = False
            raise _Interrupt


def _write_to_stderr(line: str) -> None:
    """Write a line, not by print, which must not be entered twice: a signal can come while it is at work.

    On a terminal a bar and the `^C` of the keyboard stand before it, so it begins on a line of its own.
    """
    with suppress(OSError):  # the terminal may be what has just gone
        os.write(2, f"{chr(10) * os.isatty(2)}{translate(line)}\n".encode())
