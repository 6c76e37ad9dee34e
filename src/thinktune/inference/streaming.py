"""Replies as they come, from whatever thread they are written in to the one that reads them."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from typing import Protocol, Self

from thinktune.inference.replies import Piece
from thinktune.inference.requests import Completion, Request

Event = list[Piece] | Completion | Exception  # what a writer puts out: some pieces, then the whole, or what went wrong


Events = SimpleQueue[tuple[int, Event | None]]  # beside the number of the request; none wakes a reader who has closed


class Asked(Protocol):
    """A request on its way."""

    def cancel(self) -> object:
        """Ask for its end."""


def as_they_end(
    requests: Sequence[Request], most_at_once: int, submit: Callable[[int, Events], Asked]
) -> Generator[tuple[int, Completion]]:
    """The completions of requests beside their indexes, as they end; `submit` sends the request of an index on its way.

    An error of any of them is raised. Closing the iterator cancels what is not done.
    """
    events: Events = SimpleQueue()
    waiting, asked = deque(range(len(requests))), dict[int, Asked]()
    done: list[tuple[int, Event | None]] = []
    try:
        while waiting or asked or done:
            while waiting and len(asked) < most_at_once:
                number = waiting.popleft()
                asked[number] = submit(number, events)
            for number, event in done:  # after their places were filled, for the reader may take his time
                if isinstance(event, Exception):
                    raise event
                assert isinstance(event, Completion)
                yield number, event
            done = _what_came(events) if asked else []
            for number, _ in done:
                del asked[number]
    finally:
        for request in asked.values():
            request.cancel()


def _what_came(events: Events) -> list[tuple[int, Event | None]]:
    """All that has come; waits for the first."""
    found = [events.get()]
    while not events.empty():
        found.append(events.get())
    return found


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
            if self._over:  # closed while this thread waited
                raise StopIteration
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
        self._over = True
        self._cancel()
        self._ready.clear()
        self._events.put((0, None))

    def __del__(self) -> None:
        self._cancel()
