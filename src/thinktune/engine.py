"""Writing replies with a model in this process: many requests to completions, or one to pieces as they come."""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import torch

from thinktune.errors import UserError
from thinktune.render import render_prompt
from thinktune.request import Completion, Request, Sampling, record
from thinktune.schedule import Schedule, Ticket
from thinktune.stream import Event, Events, Stream
from thinktune.writer import Marks, Writer

__all__ = ["Completion", "Engine", "Request", "Sampling", "record"]


class Engine:
    """A model in this process, its tokenizer, the arithmetic that it runs in, and the most replies written at once.

    All methods may be called from many threads; their requests share one running batch, first come, first served.
    A greedy reply is the same as the one that the request gets alone. An error in writing a reply is raised to whoever
    waits for it. The model must be left alone while replies are written.
    """

    def __init__(self, model: Any, tokenizer: Any, precision: torch.dtype = torch.float32, slots: int = 128) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._marks = Marks.of(tokenizer, model.generation_config.eos_token_id)
        self._schedule = Schedule(model, precision, slots)

    def complete(self, requests: Sequence[Request], most_at_once: int = 32) -> Generator[tuple[int, Completion]]:
        """Each request's index and completion, as replies end, in any order; `most_at_once` are in the batch or line.

        Raises UserError where a conversation is refused; closing the iterator cancels what is not done.
        """
        events: Events = SimpleQueue()
        waiting, asked = deque(enumerate(requests)), dict[int, Ticket]()
        done: list[tuple[int, Event | None]] = []
        try:
            while waiting or asked or done:
                new = [waiting.popleft() for _ in range(min(len(waiting), most_at_once - len(asked)))]
                asked |= {number: self._ticket(request, events, number, pieces=False) for number, request in new}
                self._schedule.submit([asked[number] for number, _ in new])
                for number, event in done:  # after their places were filled, for the caller may take his time
                    if isinstance(event, Exception):
                        raise event
                    assert isinstance(event, Completion)
                    yield number, event
                done = _what_came(events) if asked else []
                for number, _ in done:
                    del asked[number]
        finally:
            for ticket in asked.values():
                ticket.cancelled = True

    def stream(self, request: Request) -> Stream:
        """The pieces of one reply as they come, and last its Completion. Closing the iterator cancels it.

        Raises UserError where the conversation is refused.
        """
        events: Events = SimpleQueue()
        ticket = self._ticket(request, events, 0, pieces=True)
        self._schedule.submit([ticket])
        return Stream(events, ticket.cancel)

    def close(self) -> None:
        """End every reply with an error to whoever waits for it; nothing can be asked any more."""
        self._schedule.close()

    def _ticket(self, request: Request, events: Events, number: int, *, pieces: bool) -> Ticket:
        prompt = render_prompt(request.turns, self.tokenizer, thinking=request.thinking)
        most = self.model.config.max_position_embeddings
        if len(prompt) >= most:
            raise UserError(f"the conversation takes {len(prompt):,} tokens, and the model {most:,}; shorten it")
        budget = min(request.sampling.max_new_tokens, most - len(prompt))
        sampling = replace(request.sampling, max_new_tokens=budget)
        writer = Writer(sampling, self._marks, prompt)
        return Ticket(prompt, sampling, writer, events, number=number, pieces=pieces)


def _what_came(events: Events) -> list[tuple[int, Event | None]]:
    """All that has come; waits for the first."""
    found = [events.get()]
    while not events.empty():
        found.append(events.get())
    return found
