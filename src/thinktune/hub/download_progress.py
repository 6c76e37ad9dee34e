"""How far a download is, by what lies on the disk: the hubs' clients tell nobody, or each in another way."""

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from thinktune.progress import PROGRESS_FILE_VARIABLE, SECONDS_BETWEEN_FILES, progress_file

DOWNLOADED = "bytes downloaded"  # as the progress file names it


@contextmanager
def follow_download(total_bytes: int | None, measure: Callable[[], int]) -> Generator[None]:
    """Keep the progress file up to date while the block downloads, if somebody asked for that file.

    `measure` returns the bytes that are there; it runs in a thread and may raise OSError, as files come and go. The
    total is None where a hub gives no sizes; where it turns out to leave some out, the total is not known any more.
    """
    if not os.environ.get(PROGRESS_FILE_VARIABLE) or total_bytes == 0:
        yield
        return
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(total_bytes, measure, ended), daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
        progress_file.write("")  # what comes next is no download


def _follow(total: int | None, measure: Callable[[], int], ended: threading.Event) -> None:
    began, first = time.monotonic(), None
    while not ended.is_set():
        with suppress(OSError):
            done = measure()
            total = None if total is None or done > total else total
            first = done if first is None else min(first, done)  # what a client throws away shrinks it
            speed = (done - first) / max(time.monotonic() - began, 1e-9)  # bytes a second, of this start alone
            progress_file.write(DOWNLOADED, done, total, (total - done) / speed if total and speed else None)
        ended.wait(SECONDS_BETWEEN_FILES)
