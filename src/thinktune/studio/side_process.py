"""Ask a short process of our own for a value: what loads torch or a tokenizer's code stays out of the server."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thinktune.errors import UserError
from thinktune.exit_codes import error_messages
from thinktune.http import ApiError

MOST_AT_A_TIME = 2
TURN_SECONDS = 30.0  # at most, for which a request waits for its turn
TOO_MANY = "the studio is busy with other requests of this kind; try again in a minute"
_TURNS = threading.BoundedSemaphore(MOST_AT_A_TIME)
_WAITING = threading.BoundedSemaphore(8)  # of the server's 40 threads


def ask_process(module: str, arguments: Sequence[str], folder: Path, seconds: float) -> dict[str, Any]:
    """Run a module of the studio with arguments in a folder, and return the value that it prints in its last line.

    Raises ApiError: 409 with the mistakes that it names, 504 where it takes too long, 500 where it fails.
    """
    # No module is taken from the user's folder (-P): a yaml.py or numpy.py there would run.
    command = [sys.executable, "-P", "-m", f"thinktune.studio.{module}", *arguments]
    with take_turn(_TURNS):
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False
            )
            value = json.loads(done.stdout.splitlines()[-1])
        except subprocess.TimeoutExpired:
            raise ApiError(504, f"this takes longer than {seconds:g} s; try again, or use the command line") from None
        except (ValueError, IndexError, OSError):
            raise ApiError(500, "a process of the studio failed; check the recipe to see what is wrong") from None
    if "mistakes" in value:
        raise ApiError(409, "\n".join(value["mistakes"]))
    return value


@contextmanager
def take_turn(turns: threading.BoundedSemaphore) -> Generator[None]:
    """Hold a turn while the block runs; raises ApiError (429) where others keep all of them.

    Those who wait keep a thread of the server each, so their number and time have an end: every other request needs a
    thread as well.
    """
    if not _WAITING.acquire(blocking=False):
        raise ApiError(429, TOO_MANY)
    try:
        has_turn = turns.acquire(timeout=TURN_SECONDS)
    finally:
        _WAITING.release()
    if not has_turn:
        raise ApiError(429, TOO_MANY)
    try:
        yield
    finally:
        turns.release()


def print_value(make: Callable[[], dict[str, Any]]) -> None:
    """Print a value, or what is wrong, as one line of JSON in ASCII, which holds any text."""
    try:
        value = make()
    except (UserError, OSError) as error:
        value = {"mistakes": error_messages(error)}
    sys.__stdout__.write(json.dumps(value) + "\n")  # pyright: ignore[reportOptionalMemberAccess]
