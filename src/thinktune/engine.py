"""Writing replies with a model in this process: many requests to completions, or one to pieces as they come."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import torch

from thinktune.errors import UserError
from thinktune.render import render_prompt
from thinktune.request import Completion, Request, Sampling, record
from thinktune.schedule import Schedule, Ticket
from thinktune.stream import Events, Stream, as_they_end
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
        return as_they_end(
            requests, most_at_once, lambda number, events: self._submit(requests[number], events, number, pieces=False)
        )

    def stream(self, request: Request) -> Stream:
        """The pieces of one reply as they come, and last its Completion. Closing the iterator cancels it.

        Raises UserError where the conversation is refused.
        """
        events: Events = SimpleQueue()
        return Stream(events, self._submit(request, events, 0, pieces=True).cancel)

    def close(self) -> None:
        """End every reply with an error to whoever waits for it; nothing can be asked any more."""
        self._schedule.close()

    def _submit(self, request: Request, events: Events, number: int, *, pieces: bool) -> Ticket:
        ticket = self._ticket(request, events, number, pieces=pieces)
        self._schedule.submit(ticket)
        return ticket

    def _ticket(self, request: Request, events: Events, number: int, *, pieces: bool) -> Ticket:
        prompt = render_prompt(request.turns, self.tokenizer, thinking=request.thinking)
        most = self.model.config.max_position_embeddings
        if len(prompt) >= most:
            raise UserError(f"the conversation takes {len(prompt):,} tokens, and the model {most:,}; shorten it")
        budget = min(request.sampling.max_new_tokens, most - len(prompt))
        sampling = replace(request.sampling, max_new_tokens=budget)
        writer = Writer(sampling, self._marks, prompt)
        return Ticket(prompt, sampling, writer, events, number=number, pieces=pieces)
