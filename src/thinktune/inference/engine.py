"""The running batch: one thread owns the model, and requests join and leave at every token."""

import threading
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from thinktune.data.chat_template import render_prompt
from thinktune.errors import UserError
from thinktune.inference.kv_cache import Slots
from thinktune.inference.replies import Marks, Writer
from thinktune.inference.requests import Completion, Request, Sampling, record
from thinktune.inference.sampler import Chooser, choose
from thinktune.inference.streaming import Events, Stream, as_they_end
from thinktune.model.forward import arithmetic, no_gradients

PROMPT_TOKENS = 512  # read in one pass while others write: so long, and no longer, they wait for a prompt


class Ticket:
    """One request in the batch or in line: its tokens so far, and where what comes of it is put, beside its number.

    `cancelled` may be set by any thread; its row is free at the next token.
    """

    def __init__(
        self, prompt: list[int], sampling: Sampling, writer: Writer, events: Events, *, number: int, pieces: bool
    ) -> None:
        self.ids = list(prompt)
        self.writer, self.chooser = writer, Chooser(sampling)
        self.cancelled = False
        self._events, self._number, self._pieces = events, number, pieces

    def cancel(self) -> None:
        """Ask for its end."""
        self.cancelled = True

    @property
    def over(self) -> bool:
        """Whether nothing more is to be written."""
        return self.cancelled or self.writer.finish is not None

    def write(self, chosen: int) -> None:
        """Take the next token, and put out what is certain now."""
        token = self.writer.next(chosen)
        self.ids.append(token)
        pieces = self.writer.take(token)
        if pieces and self._pieces:
            self._events.put((self._number, pieces))
        if self.writer.finish:
            self._events.put((self._number, self.writer.completion()))

    def fail(self, error: Exception) -> None:
        """End it with an error, which its caller will raise."""
        self.cancelled = True
        self._events.put((self._number, error))


class Schedule:
    """Lets requests share one running batch: first come, first served, `slots` at a time.

    Its thread lives while there is work, and the cache with it. A pass that fails ends the requests that were in it
    and no others; where memory runs out, the youngest goes back in line, to be read again when there is room.
    """

    def __init__(self, model: Any, precision: torch.dtype, slots: int) -> None:
        self._model, self._precision, self._most = model, precision, slots
        self._lock = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, ticket: Ticket) -> None:
        """Put a request in line."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(ticket)
            if not self._thread:
                self._thread = threading.Thread(target=self._work, name="thinktune-engine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End every request with an error and wait for the thread; nothing can be submitted after it."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        batch = Batch(self._model, self._most)
        self._model.eval()
        try:
            with no_gradients(self._model), arithmetic(self._model, self._precision):
                while self._feed(batch):
                    batch.step()
        except Exception as error:  # the schedule itself failed: nobody may be left waiting
            with self._lock:
                self._fail_all(batch, error)
                self._thread = None

    def _feed(self, batch: "Batch") -> bool:
        """Let requests in line join while there is room; returns whether there is anything to do."""
        batch.leave()
        with self._lock:
            if self._closed:
                self._fail_all(batch, RuntimeError("the engine was closed before the reply was whole"))
            while self._waiting and batch.room():
                ticket = self._waiting.popleft()
                if not ticket.over:
                    batch.joining.append(ticket)
            if not batch.tickets():
                self._thread = None
                return False
            return True

    def _fail_all(self, batch: "Batch", error: Exception) -> None:
        for ticket in (*batch.tickets(), *self._waiting):
            ticket.fail(error)
        self._waiting.clear()
        batch.leave()


class Batch:
    """The requests that are being read and written, beside their rows in the cache."""

    def __init__(self, model: Any, most: int) -> None:
        self.joining: deque[Ticket] = deque()
        self._writing: list[Ticket] = []  # row by row as in the cache
        self._slots, self._model, self._most = Slots(model), model, most
        self._begun: Slots | None = None  # the first of those joining, where its prompt takes several passes
        self._full = False  # memory ran out, and nobody has left since

    def tickets(self) -> list[Ticket]:
        """All requests in it."""
        return [*self._writing, *self.joining]

    def room(self) -> bool:
        """Whether one more may join."""
        return len(self._writing) + len(self.joining) < self._most

    def leave(self) -> None:
        """Let go whatever is over."""
        if self.joining and self.joining[0].over:
            self._begun = None
        self.joining = deque(ticket for ticket in self.joining if not ticket.over)
        for row in range(len(self._writing) - 1, -1, -1):
            if self._writing[row].over:
                self._drop(row)

    def step(self) -> None:
        """One more token for every reply that is being written, then some of the prompts of those that join."""
        if self._writing:
            self._write()
        self.leave()
        if self.joining and not self._full:
            self._read()

    def _write(self) -> None:
        try:
            logits = self._slots.extend([ticket.ids[-1:] for ticket in self._writing])
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) and len(self._writing) > 1:
                self._give_way()
                return
            for ticket in self._writing:
                ticket.fail(error)
            return
        _advance(self._writing, logits)

    def _read(self) -> None:
        """Read the next prompts; of whom that has succeeded, the first token is written."""
        reading = self._next_to_read()
        try:
            logits = self._read_part(reading[0]) if self._begun else self._slots.join([t.ids for t in reading])
        except Exception as error:
            self._begun = None
            if isinstance(error, torch.OutOfMemoryError) and self._writing:
                self._full = True
                return
            for ticket in reading:
                ticket.fail(error)
            return
        if logits is not None:
            self._writing += reading
            for _ in reading:
                self.joining.popleft()
            _advance(reading, logits)

    def _next_to_read(self) -> list[Ticket]:
        """In the order of their coming, those whose prompts fit into one pass, or one with a longer prompt."""
        first, *others = self.joining
        if len(first.ids) > PROMPT_TOKENS:
            self._begun = self._begun or Slots(self._model)
            return [first]
        reading, tokens = [first], len(first.ids)
        for ticket in others:
            tokens += len(ticket.ids)
            if tokens > PROMPT_TOKENS:
                break
            reading.append(ticket)
        return reading

    def _read_part(self, ticket: Ticket) -> Tensor | None:
        """Read the next part of a long prompt, apart from the others; the logits at its end, else none."""
        assert self._begun is not None
        done = sum(self._begun.lengths)
        part = ticket.ids[done : done + PROMPT_TOKENS]
        logits = self._begun.extend([part]) if done else self._begun.join([part])
        if done + len(part) < len(ticket.ids):
            return None
        self._slots.adopt(self._begun)
        self._begun = None
        return logits

    def _give_way(self) -> None:
        """Memory ran out: who has written least goes back in line, and is read again once somebody has left."""
        row = min(range(len(self._writing)), key=lambda row: self._writing[row].writer.tokens)
        self.joining.appendleft(self._writing[row])
        self._begun = None
        self._drop(row)
        self._full = True

    def _drop(self, row: int) -> None:
        self._slots.drop(row)
        self._writing[row] = self._writing[-1]
        self._writing.pop()
        self._full = False


def _advance(tickets: Sequence[Ticket], logits: Tensor) -> None:
    """Write the next token of each request."""
    chosen: list[int] = choose(logits, [ticket.chooser for ticket in tickets]).tolist()  # the one wait for the device
    for ticket, token in zip(tickets, chosen, strict=True):
        try:
            ticket.write(token)
        except Exception as error:
            ticket.fail(error)


__all__ = ["Completion", "Engine", "Request", "Sampling", "record"]


class Engine:
    """A model in this process, its tokenizer, the arithmetic that it runs in, and the most replies written at once.

    All methods may be called from many threads; their requests share one running batch, first come, first served.
    A greedy reply is the same as the one that the request gets alone. An error in writing a reply is raised to whoever
    waits for it. The model must be left alone while replies are written.
    """

    def __init__(self, model: Any, tokenizer: Any, precision: torch.dtype = torch.float32, slots: int = 128) -> None:
        self.model, self.tokenizer, self.precision = model, tokenizer, precision
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
