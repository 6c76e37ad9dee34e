"""A reply as it comes, from whatever thread it is written in to the one that reads it."""

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Self

from thinktune.reply import Piece
from thinktune.request import Completion

Event = list[Piece] | Completion | Exception  # what a writer puts out: some pieces, then the whole, or what went wrong
Events = SimpleQueue[tuple[int, Event | None]]  # beside the number of the request; none wakes a reader who has closed


class Stream:
    """An iterator over the pieces of one reply, and last its Completion. An error of the writer is raised in it.

    `close` cancels the reply; it may be called from any thread, also while another one waits for the next piece.
    """

    def __init__(self, events: Events, cancel: Callable[[], object]) -> None:
        self._events, self._cancel = events, cancel
        self._ready: deque[Piece | Completion] = deque()
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece | Completion:
        while not self._ready:
            if self._over:
                raise StopIteration
            _, event = self._events.get()
            match event:
                case None:
                    self._over = True
                case Completion():
                    self._over = True
                    self._ready.append(event)
                case Exception():
                    self._over = True
                    raise event
                case _:
                    self._ready.extend(event)
        return self._ready.popleft()

    def close(self) -> None:
        """Cancel the reply; whoever waits for its next piece comes to an end."""
        self._cancel()
        self._over = True
        self._ready.clear()
        self._events.put((0, None))

    def __del__(self) -> None:
        self._cancel()
