"""Locks of cards, so that runs may wait for each other: the queue is made of processes, and lives while they do."""

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from thinktune.cache import cache_folder
from thinktune.errors import UserError
from thinktune.progress import Say, progress_file

if os.name == "posix":
    import fcntl

POLL_SECONDS = 1.0
SHARE_SECONDS = 1.0
WAITS_FOR_CARD = "card is in use"  # as the progress file names it


@contextmanager
def hold_cards(cards: Sequence[str], say: Say, *, wait: bool) -> Generator[None]:
    """Hold the locks of cards, by name, while the block runs; with `wait`, once nobody else uses them.

    Every verb that computes on a card shares its lock of use, so one that waits sees all others; those that wait take
    turns by a second lock. One that holds a card may start others on it, which do not wait. Without `wait` a lock that
    cannot be had stops nothing. Raises UserError where waiting is not possible.
    """
    if os.name != "posix":
        if wait:
            raise UserError("--wait: works only on POSIX systems; leave it out, and start runs one after the other")
        yield
        return
    folder = cache_folder().parent / "cards"
    with ExitStack() as held:
        for card in sorted(set(cards)):
            if wait:
                _wait_for(held, folder / f"{card}.turn", say)
                _wait_until_free(folder / f"{card}.use", say)
                _share(held, folder / f"{card}.use")
            else:
                with suppress(OSError):  # a cache that nobody may write in
                    _share(held, folder / f"{card}.use")
        yield


def cards_in_use() -> set[str]:
    """Name the cards of this machine that somebody holds; what cannot be asked counts as free."""
    names: set[str] = set()
    for file in (cache_folder().parent / "cards").glob("*.use") if os.name == "posix" else ():
        with suppress(OSError), ExitStack() as probe:
            if not _take(probe, file, fcntl.LOCK_EX):
                names.add(file.stem)
    return names


def _wait_for(held: ExitStack, file: Path, say: Say) -> None:
    _poll(lambda: _take(held, file, fcntl.LOCK_EX), say)


def _wait_until_free(file: Path, say: Say) -> None:
    def is_free() -> bool:
        with ExitStack() as probe:
            return _take(probe, file, fcntl.LOCK_EX)

    _poll(is_free, say)


def _poll(succeeds: Callable[[], bool], say: Say) -> None:
    told = False
    while not succeeds():
        progress_file.write(WAITS_FOR_CARD, waits=True)
        if not told:
            say("the card is in use by another run; this one waits for it (--wait)")
            told = True
        time.sleep(POLL_SECONDS)
    if told:
        progress_file.write("")
        say("the card is free")


def _share(held: ExitStack, file: Path) -> bool:
    """Share a file's lock, tried for a moment: a run that waits takes it whole each time it looks if it is free."""
    ends_at = time.monotonic() + SHARE_SECONDS
    while not _take(held, file, fcntl.LOCK_SH):
        if time.monotonic() >= ends_at:
            return False
        time.sleep(SHARE_SECONDS / 100)
    return True


def _take(held: ExitStack, file: Path, kind: int) -> bool:
    """Take a file's lock at once, until `held` is closed; False where another process has it."""
    opened = _open(file)
    try:
        fcntl.flock(opened, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        opened.close()
        return False
    except BaseException:
        opened.close()
        raise
    held.callback(opened.close)
    return True


def _open(file: Path) -> IO[bytes]:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("ab")
