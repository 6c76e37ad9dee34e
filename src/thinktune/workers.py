"""Work on all cores: a function over a stream of chunks, in order, with no more chunks in memory than are at work."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from thinktune.errors import UserError

Given = TypeVar("Given")
Made = TypeVar("Made")
MOST_PROCESSES = 16  # one process reads the rows for all of them, and keeps about so many busy
CHUNKS_PER_PROCESS = 3  # waiting or at work


def spread(
    function: Callable[[Given], Made], chunks: Iterable[Given], begin: Callable[..., None], context: tuple[Any, ...]
) -> Iterator[Made]:
    """`function` of every chunk, in order, by processes that have each called `begin` with the context.

    An error of a chunk is raised where its turn is. Raises UserError where a process dies.
    """
    # Processes are forked from a clean server: a fork of this one would take over the locks of torch's threads.
    method = "forkserver" if sys.platform == "linux" else "spawn"
    processes = get_context(method)
    if method == "forkserver":
        processes.set_forkserver_preload(["transformers.tokenization_utils_tokenizers", begin.__module__])
    count = min(cores(), MOST_PROCESSES)
    with ProcessPoolExecutor(count, processes, begin, context) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(function, chunk))
                if len(waiting) > count * CHUNKS_PER_PROCESS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely for want of memory; free some and start again"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
