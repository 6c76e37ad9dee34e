"""Replies as they come, from whatever thread they are written in to the one that reads them."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from typing import Protocol, Self

from thinktune.inference.replies import Piece
from thinktune.inference.requests import Completion, Request

Event = list[Piece] | Completion | Exception  # what a writer puts out: some pieces, then the whole, or what went wrong


EventQueue = SimpleQueue[
    tuple[int, Event | None]
]  # beside the number of the request; none wakes a reader who has closed


class Cancellable(Protocol):
    """A request on its way."""

    def cancel(self) -> object:
        """Ask for its end."""


def as_completed(
    requests: Sequence[Request], max_concurrency: int, submit: Callable[[int, EventQueue], Cancellable]
) -> Generator[tuple[int, Completion]]:
    """The completions of requests beside their indexes, as they end; `submit` sends the request of an index on its way.

    An error of any of them is raised. Closing the iterator cancels what is not done.
    """
    events: EventQueue = SimpleQueue()
    waiting, asked = deque(range(len(requests))), dict[int, Cancellable]()
    done: list[tuple[int, Event | None]] = []
    try:
        while waiting or asked or done:
            while waiting and len(asked) < max_concurrency:
                number = waiting.popleft()
                asked[number] = submit(number, events)
            for number, event in done:  # after their places were filled, for the reader may take his time
                if isinstance(event, Exception):
                    raise event
                assert isinstance(event, Completion)
                yield number, event
            done = _drain(events) if asked else []
            for number, _ in done:
                del asked[number]
    finally:
        for request in asked.values():
            request.cancel()


def _drain(events: EventQueue) -> list[tuple[int, Event | None]]:
    """All that has come; waits for the first."""
    found = [events.get()]
    while not events.empty():
        found.append(events.get())
    return found


class Stream:
    """An iterator over the pieces of one reply, and last its Completion. An error of the writer is raised in it.

    `close` cancels the reply; it may be called from any thread, also while another one waits for the next piece.
    """

    def __init__(self, events: EventQueue, cancel: Callable[[], object]) -> None:
        self._events, self._cancel = events, cancel
        self._ready: deque[Piece | Completion] = deque()
        self._finished = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece | Completion:
        while not self._ready:
            if self._finished:
                raise StopIteration
            _, event = self._events.get()
            if self._finished:  # closed while this thread waited
                raise StopIteration
            match event:
                case None:
                    self._finished = True
                case Completion():
                    self._finished = True
                    self._ready.append(event)
                case Exception():
                    self._finished = True
                    raise event
                case _:
                    self._ready.extend(event)
        return self._ready.popleft()

    def close(self) -> None:
        """Cancel the reply; whoever waits for its next piece comes to an end."""
        self._finished = True
        self._cancel()
        self._ready.clear()
        self._events.put((0, None))

    def __del__(self) -> None:
        self._cancel()
