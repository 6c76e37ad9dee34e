"""What a stage says to the process that leads it: which turn on the card it wants, and what it found."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any, Literal, TextIO

OUT_OF_MEMORY_CODE = 3  # the exit code of a stage whose batch does not fit
# `card`: load, compile, warm up, beside others if memory allows; `timed`: nobody else touches the card.
Phase = Literal["card", "timed"]
Gate = Callable[[Phase], None]


def no_gate(phase: Phase) -> None:
    """Wait for nothing: a benchmark that runs by itself."""
    del phase


class Turns:
    """A stage's line to its leader: JSON lines on what was standard output, one JSON line of facts a turn on stdin.

    Everything else that the process prints goes to standard error, so that no library can spoil a line.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self._out = _take_stdout()

    def wait(self, phase: Phase) -> None:
        """Ask for a turn and wait until the leader gives it; what others found so far comes with it."""
        self._say({"wants": phase})
        answer = sys.stdin.readline()
        if not answer:
            sys.exit("the leader is gone")
        self.facts |= json.loads(answer)

    def find(self, item: str, **found: Any) -> None:
        """Hand over a finding."""
        self._say({"item": item, **found})

    def _say(self, line: dict[str, Any]) -> None:
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


class Alone(Turns):
    """A stage that nobody leads: it waits for nothing, and prints what it finds."""

    def __init__(self) -> None:
        self.facts, self._out = {}, sys.stdout

    def wait(self, phase: Phase) -> None:
        """Go on at once."""
        del phase


def turns(staged: bool) -> Turns:
    """Return the line to the leader, or what stands for it."""
    return Turns() if staged else Alone()


def _take_stdout() -> TextIO:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)
    return out
