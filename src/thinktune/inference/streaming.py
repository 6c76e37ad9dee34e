"""Queues and iterators that carry replies from the thread that produces them to the one that reads them."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from typing import Protocol, Self

from thinktune.inference.replies import Piece
from thinktune.inference.requests import Completion, Request

# What a producer puts in the queue: some pieces, then the completion, or the error.
Event = list[Piece] | Completion | Exception

# Events with the index of their request; None wakes a reader that has closed its stream.
EventQueue = SimpleQueue[tuple[int, Event | None]]


class Cancellable(Protocol):
    """A request in flight."""

    def cancel(self) -> object:
        """Ask for its end, from any thread."""


def as_completed(
    requests: Sequence[Request], max_concurrency: int, submit: Callable[[int, EventQueue], Cancellable]
) -> Generator[tuple[int, Completion]]:
    """Yield each request's index and completion as replies end; `submit` starts the request of an index.

    At most `max_concurrency` are in flight. An error of any of them is raised. Closing the iterator cancels the rest.
    """
    events: EventQueue = SimpleQueue()
    waiting, in_flight = deque(range(len(requests))), dict[int, Cancellable]()
    done: list[tuple[int, Event | None]] = []
    try:
        while waiting or in_flight or done:
            while waiting and len(in_flight) < max_concurrency:
                index = waiting.popleft()
                in_flight[index] = submit(index, events)
            for index, event in done:  # only after others have started in their place: the reader may be slow
                if isinstance(event, Exception):
                    raise event
                assert isinstance(event, Completion)
                yield index, event
            done = _drain(events) if in_flight else []
            for index, _ in done:
                del in_flight[index]
    finally:
        for request in in_flight.values():
            request.cancel()


def _drain(events: EventQueue) -> list[tuple[int, Event | None]]:
    """Take every event in the queue; waits for the first one."""
    found = [events.get()]
    while not events.empty():
        found.append(events.get())
    return found


class Stream:
    """Iterator over the pieces of one reply, and last its Completion; raises the producer's error.

    `close` cancels the reply; it may be called from any thread, even while another one waits for the next piece.
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
        """Cancel the reply; a thread that waits for the next piece stops iterating."""
        self._finished = True
        self._cancel()
        self._ready.clear()
        self._events.put((0, None))

    def __del__(self) -> None:
        self._cancel()
