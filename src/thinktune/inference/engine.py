"""Continuous batching in one thread: requests join and leave the running batch at every token."""

import threading
from collections import deque
from collections.abc import Generator, Sequence
from queue import SimpleQueue

import torch
from torch import Tensor

from thinktune.distributed import SINGLE, World
from thinktune.errors import UserError
from thinktune.inference.decode_runner import DecodeMode, DecodeRunner, decodes_statically
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.replies import Detokenizer, SpecialTokens
from thinktune.inference.requests import Completion, Request, render_request
from thinktune.inference.sampling.constraint import GrammarCompiler
from thinktune.inference.sampling.logprobs import read_ranks
from thinktune.inference.sampling.sampler import Drawn, draw
from thinktune.inference.sequence import SequenceState
from thinktune.inference.streaming import EventQueue, Stream, as_completed
from thinktune.model import CausalLM
from thinktune.model.forward import autocast, inference_context
from thinktune.tokenization import ChatTokenizer

MAX_PREFILL_TOKENS = 512  # of one prefill pass; the other replies wait that long for a prompt, and no longer


class Scheduler:
    """Continuous-batching scheduler: first come, first served, at most `max_sequences` running.

    Its thread lives while there is work, and the KV cache with it. Long prompts are read in chunks, between which the
    others go on; a model with a recurrent state reads each as a whole. A pass that fails ends the requests that were in
    it and no others. Where memory runs out, the shortest reply is preempted: it is prefilled again when there is room.

    On many ranks all must make the same passes, because each pass may gather shards of the weights. So every decision
    follows from what all ranks know: the requests submitted as one, the tokens of rank 0, and whether any rank lacks
    memory for a larger cache. A pass that fails there ends every request, since the other ranks are still in it.
    """

    def __init__(
        self, model: CausalLM, precision: torch.dtype, max_sequences: int, world: World, decode: DecodeMode
    ) -> None:
        self._model, self._precision, self._max_sequences, self._world = model, precision, max_sequences, world
        self._is_static = decodes_statically(model, world, decode)
        self._lock = threading.Lock()
        self._waiting: deque[SequenceState] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, *sequences: SequenceState) -> None:
        """Queue requests, all of them before the thread sees the first; raises RuntimeError after `close`."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.extend(sequences)
            if not self._thread:
                self._thread = threading.Thread(target=self._run_loop, name="thinktune-engine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End every request with an error and join the thread; nothing can be submitted afterwards."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread and thread is not threading.current_thread():
            thread.join()

    def _run_loop(self) -> None:
        runner = DecodeRunner(self._model, is_static=self._is_static)
        batch = RunningBatch(self._model, runner, self._max_sequences, self._world)
        self._model.eval()
        try:
            if (
                self._model.device.type != "cpu"
            ):  # each thread has a current device of its own, and begins with the first
                torch.accelerator.set_device_index(self._model.device)
            with inference_context(self._model), autocast(self._model, self._precision):
                while self._admit(batch):
                    batch.step()
        except Exception as error:  # the scheduler itself failed: no caller may be left waiting
            with self._lock:
                self._fail_all(batch, error)
                self._thread = None

    def _admit(self, batch: "RunningBatch") -> bool:
        """Move queued requests into the batch while there is room; returns False when there is nothing to do."""
        batch.free_finished()
        with self._lock:
            if self._closed:
                self._fail_all(batch, RuntimeError("the engine was closed before the reply was complete"))
            while self._waiting and batch.has_room():
                sequence = self._waiting.popleft()
                if not sequence.is_finished:
                    batch.prefilling.append(sequence)
            if not batch.sequences():
                self._thread = None
                return False
            return True

    def _fail_all(self, batch: "RunningBatch", error: Exception) -> None:
        for sequence in (*batch.sequences(), *self._waiting):
            sequence.fail(error)
        self._waiting.clear()
        batch.free_finished()


class RunningBatch:
    """The sequences in prefill and in decode, with their KV cache."""

    def __init__(self, model: CausalLM, runner: DecodeRunner, max_sequences: int, world: World) -> None:
        self.prefilling: deque[SequenceState] = deque()
        self._decoding: list[SequenceState] = []  # row by row as in the cache
        self._cache, self._model, self._max_sequences, self._world = KVCache(model), model, max_sequences, world
        self._runner = runner
        self._partial_prefill: KVCache | None = None  # of the first in `prefilling`, if its prompt takes several passes
        self._paused: tuple[SequenceState, KVCache] | None = (
            None  # the same of a long prompt, while short ones go first
        )
        self._short_first = False
        self._out_of_memory = False  # a pass ran out of memory, and no sequence has left since

    def sequences(self) -> list[SequenceState]:
        """Return all sequences of the batch."""
        return [*self._decoding, *self.prefilling]

    def has_room(self) -> bool:
        """Return True if one more sequence may join."""
        return len(self._decoding) + len(self.prefilling) < self._max_sequences

    def free_finished(self) -> None:
        """Remove the finished sequences and free their rows in the cache."""
        if self.prefilling and self.prefilling[0].is_finished:
            self._partial_prefill = None
        self.prefilling = deque(sequence for sequence in self.prefilling if not sequence.is_finished)
        for row in range(len(self._decoding) - 1, -1, -1):
            if self._decoding[row].is_finished:
                self._free(row)

    def step(self) -> None:
        """Decode one token of every reply, then prefill at most `MAX_PREFILL_TOKENS` of the prompts that wait."""
        if self._decoding:
            self._decode()
        self.free_finished()
        if self.prefilling and not self._out_of_memory:
            self._take_turns()
            self._prefill()

    def _take_turns(self) -> None:
        """Put the short prompts first in one pass and the long ones in the next, so that neither hold up the others."""
        long, short = (
            [sequence for sequence in self.prefilling if (len(sequence.ids) > MAX_PREFILL_TOKENS) == is_long]
            for is_long in (True, False)
        )
        self._short_first = bool(short) and not (long and self._short_first)
        if self._partial_prefill:
            self._paused, self._partial_prefill = (self.prefilling[0], self._partial_prefill), None
        self.prefilling = deque([*short, *long] if self._short_first else [*long, *short])
        if not self._short_first and self._paused:
            owner, cache = self._paused
            self._paused = None
            if owner is self.prefilling[0]:  # it may have been cancelled, or have a preempted reply before it
                self._partial_prefill = cache

    def _decode(self) -> None:
        if not self._cache.reserve(len(self._decoding), max(self._cache.lengths) + 1, self._world):
            self._preempt_or_fail(torch.OutOfMemoryError("no memory on one of the ranks for a longer KV cache"))
            return
        try:
            drawn = self._runner.decode(
                self._cache,
                [sequence.ids[-1] for sequence in self._decoding],
                [sequence.sampler for sequence in self._decoding],
            )
        except Exception as error:
            if self._world.size > 1:
                raise
            self._preempt_or_fail(error)
            return
        self._append_drawn(self._decoding, drawn)

    def _preempt_or_fail(self, error: Exception) -> None:
        """After an error of a decode pass make room in memory if that may help, or else fail the replies in it."""
        if isinstance(error, torch.OutOfMemoryError) and len(self._decoding) > 1:
            self._preempt()
            if self._cache.is_broken:
                self._rebuild_cache()
            return
        for sequence in self._decoding:
            sequence.fail(error)

    def _prefill(self) -> None:
        """Prefill the next prompts, and sample the first token of those that are complete."""
        admitted = self._next_prefill()
        if not self._reserve_prefill(admitted):
            self._wait_or_fail(admitted, torch.OutOfMemoryError("no memory on one of the ranks for a prompt"))
            return
        try:
            if self._partial_prefill:
                logits = self._prefill_chunk(self._partial_prefill, admitted[0])
            else:
                logits = self._cache.prefill([sequence.ids for sequence in admitted])
            drawn = None if logits is None else draw(logits, [sequence.sampler for sequence in admitted])
        except Exception as error:
            if self._world.size > 1:
                raise
            for row in range(len(self._cache.lengths) - 1, len(self._decoding) - 1, -1):
                self._cache.free(row)  # of a prompt that was read, where the drawing failed
            self._wait_or_fail(admitted, error)
            return
        if drawn is not None:
            self._decoding += admitted
            for _ in admitted:
                self.prefilling.popleft()
            self._append_drawn(admitted, drawn)

    def _reserve_prefill(self, admitted: Sequence[SequenceState]) -> bool:
        """Grow the caches that the next prefill pass writes; return False where a rank has no memory for that."""
        rows, longest = len(self._cache.lengths) + len(admitted), max(len(sequence.ids) for sequence in admitted)
        if not self._partial_prefill:
            return self._cache.reserve(rows, longest, self._world)
        end = min(longest, sum(self._partial_prefill.lengths) + MAX_PREFILL_TOKENS)
        if not self._partial_prefill.reserve(1, end, self._world):
            return False
        return end < longest or self._cache.reserve(rows, longest, self._world)

    def _wait_or_fail(self, admitted: Sequence[SequenceState], error: Exception) -> None:
        """After an error of a prefill pass wait until a reply has left, if that may help, or else fail the prompts."""
        self._partial_prefill = None
        if isinstance(error, torch.OutOfMemoryError) and self._decoding:
            self._out_of_memory = True
            return
        for sequence in admitted:
            sequence.fail(error)

    def _next_prefill(self) -> list[SequenceState]:
        """Return the first sequences whose prompts fit into one pass, or one with a longer prompt."""
        first, *others = self.prefilling
        if len(first.ids) > MAX_PREFILL_TOKENS and not self._cache.reads_whole_prompts:
            self._partial_prefill = self._partial_prefill or KVCache(self._model)
            return [first]
        admitted, tokens = [first], len(first.ids)
        for sequence in others:
            tokens += len(sequence.ids)
            if tokens > MAX_PREFILL_TOKENS:
                break
            admitted.append(sequence)
        return admitted

    def _prefill_chunk(self, cache: KVCache, sequence: SequenceState) -> Tensor | None:
        """Prefill the next chunk of a long prompt in a cache of its own; returns the logits at the prompt's end."""
        done = sum(cache.lengths)
        chunk = sequence.ids[done : done + MAX_PREFILL_TOKENS]
        logits = cache.extend([chunk]) if done else cache.prefill([chunk])
        if done + len(chunk) < len(sequence.ids):
            return None
        self._cache.adopt(cache)
        self._partial_prefill = None
        return logits

    def _preempt(self) -> None:
        """Preempt the shortest reply after an out-of-memory error; it is prefilled again once a sequence has left."""
        row = min(range(len(self._decoding)), key=lambda row: self._decoding[row].detokenizer.tokens)
        self.prefilling.appendleft(self._decoding[row])
        self._partial_prefill = self._paused = None
        self._free(row)
        self._out_of_memory = True

    def _rebuild_cache(self) -> None:
        """Read all replies in decode again, as far as the cache had them; they fail if memory is too full for that."""
        self._cache = KVCache(self._model)
        try:
            self._cache.prefill([sequence.ids[:-1] for sequence in self._decoding])
        except Exception as error:
            for sequence in self._decoding:
                sequence.fail(error)
            self._decoding = []
            self._out_of_memory = False  # nothing is left that could leave

    def _free(self, row: int) -> None:
        self._cache.free(row)
        self._decoding[row] = self._decoding[-1]
        self._decoding.pop()
        self._out_of_memory = False

    def _append_drawn(self, sequences: Sequence[SequenceState], drawn: Drawn) -> None:
        """Append the next token of each sequence.

        Rank 0 decides: logits that differ by rounding would end a reply earlier on one rank than on another.
        """
        sampled: list[int] = self._world.broadcast_tensor(drawn.tokens).tolist()  # the one wait for the device
        ranked = read_ranks(drawn.ranks, [sequence.sampler.sampling.top_logprobs for sequence in sequences])
        for sequence, token, ranks in zip(sequences, sampled, ranked, strict=True):
            try:
                sequence.append_token(token, ranks)
            except Exception as error:
                sequence.fail(error)


class Engine:
    """A model in this process with its tokenizer: continuous batching, at most `max_sequences` replies at once.

    All methods may be called from many threads; their requests share one running batch. A greedy reply is the same as
    the one that the request gets alone. An error in a reply is raised to whoever waits for it. The model must not be
    used otherwise while replies are generated. With a `world` of many ranks, all must call `complete_all`, and nothing
    else, with the same requests.

    `decode` says how the passes that add a token run (`decodes_statically`); replies are the same either way.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: ChatTokenizer,
        precision: torch.dtype = torch.float32,
        max_sequences: int = 128,
        world: World = SINGLE,
        decode: DecodeMode = "auto",
    ) -> None:
        self.model, self.tokenizer, self.precision = model, tokenizer, precision
        self._special_tokens = SpecialTokens.from_tokenizer(tokenizer, model.generation_config.eos_token_id)
        self._grammars = GrammarCompiler(self._special_tokens, model.get_input_embeddings().weight.shape[0])
        self._scheduler = Scheduler(model, precision, max_sequences, world, decode)

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokens that end a reply."""
        return self._special_tokens.eos_token_ids

    def complete(self, requests: Sequence[Request], max_concurrency: int = 32) -> Generator[tuple[int, Completion]]:
        """Yield each request's index and completion as replies end, in any order.

        At most `max_concurrency` are in the batch or the queue. Raises UserError where a conversation is refused;
        closing the iterator cancels the rest.
        """
        return as_completed(
            requests,
            max_concurrency,
            lambda index, events: self._submit(requests[index], events, index, streamed=False),
        )

    def complete_with_ids(
        self, requests: Sequence[Request], max_concurrency: int = 32
    ) -> Generator[tuple[int, Completion, list[int]]]:
        """Yield like `complete`, with the token ids of each reply; the end token is included."""
        sequences: dict[int, SequenceState] = {}

        def submit(index: int, events: EventQueue) -> SequenceState:
            sequences[index] = self._submit(requests[index], events, index, streamed=False)
            return sequences[index]

        for index, completion in as_completed(requests, max_concurrency, submit):
            sequence = sequences.pop(index)
            yield index, completion, sequence.ids[sequence.prompt_tokens :]

    def complete_all(self, requests: Sequence[Request]) -> list[Completion]:
        """Return the completions of requests that are submitted as one, in their order.

        What shares a pass then depends on the requests alone, never on how fast threads are. An error of any reply is
        raised once all have ended. Raises UserError where a conversation is refused.
        """
        return self._finish(requests)[1]

    def complete_ids(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return the token ids of the replies to requests, as `complete_all` makes them; the end token is included."""
        sequences, _ = self._finish(requests)
        return [sequence.ids[sequence.prompt_tokens :] for sequence in sequences]

    def stream(self, request: Request) -> Stream:
        """Stream the pieces of one reply, and last its Completion. Closing the iterator cancels it.

        Raises UserError where the conversation is refused.
        """
        events: EventQueue = SimpleQueue()
        return Stream(events, self._submit(request, events, 0, streamed=True).cancel)

    def close(self) -> None:
        """End every reply with an error to whoever waits for it; no request is accepted afterwards."""
        self._scheduler.close()

    def _finish(self, requests: Sequence[Request]) -> tuple[list[SequenceState], list[Completion]]:
        """Submit requests as one and wait for all; return their sequences and completions, in their order."""
        events: EventQueue = SimpleQueue()
        sequences = [
            self._make_sequence(request, events, index, streamed=False) for index, request in enumerate(requests)
        ]
        outcomes: dict[int, Completion | Exception] = {}
        self._scheduler.submit(*sequences)
        try:
            while len(outcomes) < len(sequences):
                index, event = events.get()
                assert isinstance(event, Completion | Exception)
                outcomes.setdefault(index, event)
        finally:
            for sequence in sequences:
                sequence.cancel()
        completions: list[Completion] = []
        for index in range(len(sequences)):
            outcome = outcomes[index]
            if isinstance(outcome, Exception):
                raise outcome
            completions.append(outcome)
        return sequences, completions

    def _submit(self, request: Request, events: EventQueue, index: int, *, streamed: bool) -> SequenceState:
        sequence = self._make_sequence(request, events, index, streamed=streamed)
        self._scheduler.submit(sequence)
        return sequence

    def _make_sequence(self, request: Request, events: EventQueue, index: int, *, streamed: bool) -> SequenceState:
        request = render_request(request, self.tokenizer, self.model.config.max_position_embeddings)
        assert request.prompt_ids is not None
        vocabulary: int = self.model.config.vocab_size
        for token, _ in request.sampling.logit_bias:
            if token >= vocabulary:
                raise UserError(f"logit_bias: token {token} is beyond the model's {vocabulary:,} tokens; leave it out")
        detokenizer = Detokenizer(request.sampling, self._special_tokens, request.prompt_ids, request.start)
        sequence = SequenceState(request.prompt_ids, detokenizer, events, index=index, streamed=streamed)
        if request.grammar:
            sequence.follow(self._grammars.constrain(request.grammar, detokenizer, thinking=request.thinking))
        return sequence
