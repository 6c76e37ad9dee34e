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
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.replies import Detokenizer, SpecialTokens
from thinktune.inference.requests import Completion, Request, SamplingParams, completion_record
from thinktune.inference.sampler import Sampler, sample_tokens
from thinktune.inference.streaming import EventQueue, Stream, as_completed
from thinktune.model.forward import autocast, inference_context

MAX_PREFILL_TOKENS = 512  # read in one pass while others write: so long, and no longer, they wait for a prompt


class SequenceState:
    """One request in the batch or in line: its tokens so far, and where what comes of it is put, beside its number.

    `cancelled` may be set by any thread; its row is free at the next token.
    """

    def __init__(
        self,
        prompt: list[int],
        sampling: SamplingParams,
        detokenizer: Detokenizer,
        events: EventQueue,
        *,
        index: int,
        streamed: bool,
    ) -> None:
        self.ids = list(prompt)
        self.detokenizer, self.sampler = detokenizer, Sampler(sampling)
        self.cancelled = False
        self._events, self._index, self._streamed = events, index, streamed

    def cancel(self) -> None:
        """Ask for its end."""
        self.cancelled = True

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be written."""
        return self.cancelled or self.detokenizer.finish_reason is not None

    def append_token(self, sampled: int) -> None:
        """Take the next token, and put out what is certain now."""
        token = self.detokenizer.next_token(sampled)
        self.ids.append(token)
        pieces = self.detokenizer.append(token)
        if pieces and self._streamed:
            self._events.put((self._index, pieces))
        if self.detokenizer.finish_reason:
            self._events.put((self._index, self.detokenizer.completion()))

    def fail(self, error: Exception) -> None:
        """End it with an error, which its caller will raise."""
        self.cancelled = True
        self._events.put((self._index, error))


class Scheduler:
    """Lets requests share one running batch: first come, first served, `max_sequences` at a time.

    Its thread lives while there is work, and the cache with it. A pass that fails ends the requests that were in it
    and no others; where memory runs out, the youngest goes back in line, to be read again when there is room.
    """

    def __init__(self, model: Any, precision: torch.dtype, max_sequences: int) -> None:
        self._model, self._precision, self._max_sequences = model, precision, max_sequences
        self._lock = threading.Lock()
        self._waiting: deque[SequenceState] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, sequence: SequenceState) -> None:
        """Put a request in line."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(sequence)
            if not self._thread:
                self._thread = threading.Thread(target=self._run_loop, name="thinktune-engine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End every request with an error and wait for the thread; nothing can be submitted after it."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread and thread is not threading.current_thread():
            thread.join()

    def _run_loop(self) -> None:
        batch = RunningBatch(self._model, self._max_sequences)
        self._model.eval()
        try:
            with inference_context(self._model), autocast(self._model, self._precision):
                while self._admit(batch):
                    batch.step()
        except Exception as error:  # the schedule itself failed: nobody may be left waiting
            with self._lock:
                self._fail_all(batch, error)
                self._thread = None

    def _admit(self, batch: "RunningBatch") -> bool:
        """Let requests in line join while there is room; returns whether there is anything to do."""
        batch.free_finished()
        with self._lock:
            if self._closed:
                self._fail_all(batch, RuntimeError("the engine was closed before the reply was whole"))
            while self._waiting and batch.has_room():
                ticket = self._waiting.popleft()
                if not ticket.is_finished:
                    batch.prefilling.append(ticket)
            if not batch.sequences():
                self._thread = None
                return False
            return True

    def _fail_all(self, batch: "RunningBatch", error: Exception) -> None:
        for ticket in (*batch.sequences(), *self._waiting):
            ticket.fail(error)
        self._waiting.clear()
        batch.free_finished()


class RunningBatch:
    """The requests that are being read and written, beside their rows in the cache."""

    def __init__(self, model: Any, max_sequences: int) -> None:
        self.prefilling: deque[SequenceState] = deque()
        self._decoding: list[SequenceState] = []  # row by row as in the cache
        self._cache, self._model, self._max_sequences = KVCache(model), model, max_sequences
        self._partial_prefill: KVCache | None = (
            None  # the first of those joining, where its prompt takes several passes
        )
        self._out_of_memory = False  # memory ran out, and nobody has left since

    def sequences(self) -> list[SequenceState]:
        """All requests in it."""
        return [*self._decoding, *self.prefilling]

    def has_room(self) -> bool:
        """Whether one more may join."""
        return len(self._decoding) + len(self.prefilling) < self._max_sequences

    def free_finished(self) -> None:
        """Let go whatever is over."""
        if self.prefilling and self.prefilling[0].is_finished:
            self._partial_prefill = None
        self.prefilling = deque(ticket for ticket in self.prefilling if not ticket.is_finished)
        for row in range(len(self._decoding) - 1, -1, -1):
            if self._decoding[row].is_finished:
                self._free(row)

    def step(self) -> None:
        """One more token for every reply that is being written, then some of the prompts of those that join."""
        if self._decoding:
            self._decode()
        self.free_finished()
        if self.prefilling and not self._out_of_memory:
            self._prefill()

    def _decode(self) -> None:
        try:
            logits = self._cache.extend([ticket.ids[-1:] for ticket in self._decoding])
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) and len(self._decoding) > 1:
                self._preempt()
                return
            for ticket in self._decoding:
                ticket.fail(error)
            return
        _append_sampled(self._decoding, logits)

    def _prefill(self) -> None:
        """Read the next prompts; of whom that has succeeded, the first token is written."""
        reading = self._next_prefill()
        try:
            logits = (
                self._prefill_chunk(reading[0])
                if self._partial_prefill
                else self._cache.prefill([t.ids for t in reading])
            )
        except Exception as error:
            self._partial_prefill = None
            if isinstance(error, torch.OutOfMemoryError) and self._decoding:
                self._out_of_memory = True
                return
            for ticket in reading:
                ticket.fail(error)
            return
        if logits is not None:
            self._decoding += reading
            for _ in reading:
                self.prefilling.popleft()
            _append_sampled(reading, logits)

    def _next_prefill(self) -> list[SequenceState]:
        """In the order of their coming, those whose prompts fit into one pass, or one with a longer prompt."""
        first, *others = self.prefilling
        if len(first.ids) > MAX_PREFILL_TOKENS:
            self._partial_prefill = self._partial_prefill or KVCache(self._model)
            return [first]
        reading, tokens = [first], len(first.ids)
        for ticket in others:
            tokens += len(ticket.ids)
            if tokens > MAX_PREFILL_TOKENS:
                break
            reading.append(ticket)
        return reading

    def _prefill_chunk(self, sequence: SequenceState) -> Tensor | None:
        """Read the next part of a long prompt, apart from the others; the logits at its end, else none."""
        assert self._partial_prefill is not None
        done = sum(self._partial_prefill.lengths)
        part = sequence.ids[done : done + MAX_PREFILL_TOKENS]
        logits = self._partial_prefill.extend([part]) if done else self._partial_prefill.prefill([part])
        if done + len(part) < len(sequence.ids):
            return None
        self._cache.adopt(self._partial_prefill)
        self._partial_prefill = None
        return logits

    def _preempt(self) -> None:
        """Memory ran out: who has written least goes back in line, and is read again once somebody has left."""
        row = min(range(len(self._decoding)), key=lambda row: self._decoding[row].detokenizer.tokens)
        self.prefilling.appendleft(self._decoding[row])
        self._partial_prefill = None
        self._free(row)
        self._out_of_memory = True

    def _free(self, row: int) -> None:
        self._cache.free(row)
        self._decoding[row] = self._decoding[-1]
        self._decoding.pop()
        self._out_of_memory = False


def _append_sampled(sequences: Sequence[SequenceState], logits: Tensor) -> None:
    """Write the next token of each request."""
    chosen: list[int] = sample_tokens(
        logits, [ticket.sampler for ticket in sequences]
    ).tolist()  # the one wait for the device
    for ticket, token in zip(sequences, chosen, strict=True):
        try:
            ticket.append_token(token)
        except Exception as error:
            ticket.fail(error)


__all__ = ["Completion", "Engine", "Request", "SamplingParams", "completion_record"]


class Engine:
    """A model in this process, its tokenizer, the arithmetic that it runs in, and the most replies written at once.

    All methods may be called from many threads; their requests share one running batch, first come, first served.
    A greedy reply is the same as the one that the request gets alone. An error in writing a reply is raised to whoever
    waits for it. The model must be left alone while replies are written.
    """

    def __init__(
        self, model: Any, tokenizer: Any, precision: torch.dtype = torch.float32, max_sequences: int = 128
    ) -> None:
        self.model, self.tokenizer, self.precision = model, tokenizer, precision
        self._special_tokens = SpecialTokens.from_tokenizer(tokenizer, model.generation_config.eos_token_id)
        self._scheduler = Scheduler(model, precision, max_sequences)

    def complete(self, requests: Sequence[Request], max_concurrency: int = 32) -> Generator[tuple[int, Completion]]:
        """Each request's index and completion, as replies end, in any order; `max_concurrency` are in the batch or line.

        Raises UserError where a conversation is refused; closing the iterator cancels what is not done.
        """
        return as_completed(
            requests,
            max_concurrency,
            lambda number, events: self._submit(requests[number], events, number, streamed=False),
        )

    def stream(self, request: Request) -> Stream:
        """The pieces of one reply as they come, and last its Completion. Closing the iterator cancels it.

        Raises UserError where the conversation is refused.
        """
        events: EventQueue = SimpleQueue()
        return Stream(events, self._submit(request, events, 0, streamed=True).cancel)

    def close(self) -> None:
        """End every reply with an error to whoever waits for it; nothing can be asked any more."""
        self._scheduler.close()

    def _submit(self, request: Request, events: EventQueue, index: int, *, streamed: bool) -> SequenceState:
        ticket = self._make_sequence(request, events, index, streamed=streamed)
        self._scheduler.submit(ticket)
        return ticket

    def _make_sequence(self, request: Request, events: EventQueue, index: int, *, streamed: bool) -> SequenceState:
        prompt = render_prompt(request.turns, self.tokenizer, thinking=request.thinking)
        most = self.model.config.max_position_embeddings
        if len(prompt) >= most:
            raise UserError(f"the conversation takes {len(prompt):,} tokens, and the model {most:,}; shorten it")
        budget = min(request.sampling.max_new_tokens, most - len(prompt))
        sampling = replace(request.sampling, max_new_tokens=budget)
        writer = Detokenizer(sampling, self._special_tokens, prompt)
        return SequenceState(prompt, sampling, writer, events, index=index, streamed=streamed)
