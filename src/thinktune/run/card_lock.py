"""Locks of cards, so that runs may wait for each other: the queue is made of processes, and lives while they do."""

import os
import platform
import re
import threading
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
ASKED_SECONDS = 0.05
_PROBES = threading.Lock()  # whoever asks takes a lock for an instant, which another who asks would see
WAITS_FOR_CARD = "card is in use"  # as the progress file names it


@contextmanager
def hold_cards(cards: Sequence[str], say: Say, *, wait: bool) -> Generator[None]:
    """Hold the locks of cards, by name, while the block runs; with `wait`, once nobody else uses them.

    Training, evaluations, pilots and teachers share the lock of use of their cards, so one that waits sees all others;
    those that wait take turns by a second lock. One that holds a card may start others on it, which do not wait. What
    cannot be locked is not waited for, which is said. Raises UserError where waiting is not possible.
    """
    if os.name != "posix":
        if wait:
            raise UserError("--wait: works only on POSIX systems; leave it out, and start runs one after the other")
        yield
        return
    folder = locks_folder()
    with ExitStack() as held:
        try:
            for card in sorted(set(cards)):
                if wait:
                    _wait_for(held, folder / f"{card}.turn", say)
                    _wait_until_free(folder / f"{card}.use", say)
                _share(held, folder / f"{card}.use")
        except OSError as error:  # a cache that nobody may write in, or on a file system without locks
            if wait:
                say(f"{folder}: cannot be locked ({error.strerror}), so this does not wait for the card")
        yield


def locks_folder() -> Path:
    """Return the folder of this machine's locks: several machines, each with cards of its own, may share a cache."""
    machine = platform.node()
    with suppress(OSError):  # Linux; containers of one machine, which share its cards, have names of their own
        machine = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return cache_folder().parent / "cards" / (re.sub(r"[^\w.-]", "-", machine) or "machine")


def cards_in_use() -> set[str]:
    """Name the cards of this machine that somebody holds; what cannot be asked counts as free."""
    names: set[str] = set()
    with _PROBES:
        for file in locks_folder().glob("*.use") if os.name == "posix" else ():
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
        if not told:  # who only asks whether a card is in use has its lock for an instant
            time.sleep(ASKED_SECONDS)
            if succeeds():
                return
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
