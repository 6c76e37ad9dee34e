"""Ask a short process of our own for a value: what loads torch or a tokenizer's code stays out of the server."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from thinktune.errors import UserError
from thinktune.exit_codes import error_messages
from thinktune.http import ApiError

MOST_AT_A_TIME = 2
_TURNS = threading.BoundedSemaphore(MOST_AT_A_TIME)


def ask_process(module: str, arguments: Sequence[str], folder: Path, seconds: float) -> dict[str, Any]:
    """Run a module of the studio with arguments in a folder, and return the value that it prints in its last line.

    Raises ApiError: 409 with the mistakes that it names, 504 where it takes too long, 500 where it fails.
    """
    # No module is taken from the user's folder (-P): a yaml.py or numpy.py there would run.
    command = [sys.executable, "-P", "-m", f"thinktune.studio.{module}", *arguments]
    with _TURNS:
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


def print_value(make: Callable[[], dict[str, Any]]) -> None:
    """Print a value, or what is wrong, as one line of JSON in ASCII, which holds any text."""
    try:
        value = make()
    except (UserError, OSError) as error:
        value = {"mistakes": error_messages(error)}
    sys.__stdout__.write(json.dumps(value) + "\n")  # pyright: ignore[reportOptionalMemberAccess]
