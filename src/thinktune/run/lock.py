"""Hold a file's lock for this process; the system releases it however the process ends."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from thinktune.errors import UserError


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


def is_held(file: Path) -> bool:
    """Return True if a process holds the lock of a file, as far as this machine can see."""
    if not file.is_file():
        return False
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:  # a folder that nobody may write in, so nobody holds its lock
        return False
    lock.release()
    return False
