"""Hold a file's lock for this process; the system releases it however the process ends."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from thinktune.errors import UserError

if os.name == "posix":
    import fcntl


@contextmanager
def hold_lock(file: Path, taken: str, wait_seconds: float = 1.0) -> Generator[None]:
    """Hold the lock of a file while the block runs; raises UserError(`taken`) where another process keeps it.

    It is waited for a moment, because others take it only to ask whether it is held.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise UserError(taken) from None
    try:
        yield
    finally:
        lock.release()


def lock_fault(file: IO[bytes]) -> str | None:
    """Return why a file system does not lock an open file, as the system says it; None if it does."""
    if os.name == "posix":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.strerror
    return None


def is_held(file: Path) -> bool:
    """Return True if a process holds the lock of a file, as far as this machine can see."""
    if not file.is_file():
        return False
    if os.name == "posix":
        try:
            with file.open("rb") as opened:
                # Shared, so that several who ask at once do not take each other for a holder, who has it alone.
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except OSError:
            pass  # closed to this user, or a file system without such locks, where filelock has another way
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:  # a folder that nobody may write in, so nobody holds its lock
        return False
    lock.release()
    return False
