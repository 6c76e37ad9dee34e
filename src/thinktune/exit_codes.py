"""Exit codes of the command line: what an error says, what a stop leaves, and output that could not be written."""

import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from thinktune.errors import Stopped, UserError
from thinktune.files import describe_system_error, system_error, write_json
from thinktune.terminal import describe_failure, output_failure, say_to_stderr
from thinktune.termination import Terminated, catch_termination

EXIT_FILE_VARIABLE = "THINKTUNE_EXIT_FILE"


def error_messages(error: BaseException) -> list[str]:
    """Return the sentences of an error of the user or the system, none of any other."""
    if isinstance(error, UserError):
        return error.faults
    if isinstance(error, MemoryError):
        return ["memory: is full; close other programs, or use a machine with more memory"]
    found = system_error(error)
    if found is None:
        return []
    return [": ".join([*getattr(error, "__notes__", ()), describe_system_error(found)])]


def lost_output() -> str | None:
    """Return why lines are missing from standard output, unless its reader left on purpose, as `head` does."""
    sys.stdout.flush()
    failure = output_failure(sys.stdout)
    return None if failure is None or isinstance(failure, BrokenPipeError) else describe_failure(failure)


def require_output() -> None:
    """Exit with 2 where standard output, which is what a verb is for, could not be written."""
    if lost_output():
        raise typer.Exit(2)


@contextmanager
def exit_when_stopped(
    message: str = "stopped; run the same command to resume from the last checkpoint", *, announce: bool = True
) -> Generator[None]:
    """Turn a requested stop into exit code 75, or 130 if nothing was saved, and print how to continue.

    SIGTERM and SIGHUP count as such from the first import on; training then takes them over. Typer alone would exit
    without a word.
    """
    try:
        with catch_termination():
            yield
    except Terminated as terminated:
        if announce:
            say_to_stderr(f"{terminated}: {message}")
        raise typer.Exit(Stopped.EXIT_CODE) from None
    except Stopped as stopped:
        if announce:
            say_to_stderr(str(stopped))
        raise typer.Exit(stopped.exit_code) from None
    except KeyboardInterrupt:
        if announce:
            say_to_stderr(message)
        raise typer.Exit(130) from None


@contextmanager
def exit_written() -> Generator[None]:
    """Write {code, ended_at} to the file that THINKTUNE_EXIT_FILE names, for who cannot wait for this process's end.

    Processes that are started meanwhile do not inherit the variable. A kill leaves no such file.
    """
    name, code = os.environ.pop(EXIT_FILE_VARIABLE, None), 1
    try:
        yield
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        if name:
            with suppress(OSError):
                write_json(Path(name), {"code": code, "ended_at": time.time()})
