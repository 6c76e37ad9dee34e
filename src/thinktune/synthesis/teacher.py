"""Teacher: a source of replies that forgets none, never exceeds its budget, and goes on after failures."""

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from queue import SimpleQueue
from typing import Protocol

from thinktune.errors import UpstreamError, UserError, redact
from thinktune.inference import Completion, Request
from thinktune.inference.openai_errors import API_KEY_VARIABLES, TemporaryError
from thinktune.synthesis.ledger import Ledger, Usage
from thinktune.synthesis.reply_journal import ReplyJournal

# A byte of text is at most one token of any tokenizer; chat templates write some marks around each message, and some
# servers a line or two before them all.
TEMPLATE_TOKENS, TURN_TOKENS = 64, 16
MAX_WAIT_SECONDS = 60.0
MAX_NAMED_WAIT_SECONDS = 600.0  # a server that names a longer wait, as for a daily quota, has none of our time now
MAX_FAILURES_IN_A_ROW = 8  # at the least; then the server is taken to be gone
MAX_FIRST_REFUSALS = 8  # without a single reply: the fault is not a question's
_DONE = object()


class Engine(Protocol):
    """What completes requests, and is closed at the end: an endpoint, or a model in this process."""

    def complete(self, requests: Sequence[Request], max_concurrency: int = 32) -> Iterator[tuple[int, Completion]]:
        """Yield each request's index and completion, in any order."""
        ...

    def close(self) -> None:
        """End all requests."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How many requests are in flight, and how often and after which wait a failed one is sent again.

    Waits double from `first_wait_seconds` on, unless the server names a longer one. A server that sends no byte for
    `timeout_seconds` has failed; some queue a request for minutes, and say nothing meanwhile.
    """

    max_concurrency: int = 16
    max_attempts: int = 8
    first_wait_seconds: float = 1.0
    timeout_seconds: float = 300.0


class Teacher:
    """Completer over an engine; requests that the journal knows are answered from there, at no cost.

    Before a request is sent, all that it can cost is reserved in the ledger and written to the journal. A failure that
    may pass is tried again after a wait; one that stays, or a refusal of one question, is counted in `failures` and its
    request is left out of the replies, as are those that the budget has no room for (`is_spent`). A server that refuses
    us, or is gone, raises UserError.

    `name` is the model's name, `identity` all that its replies depend on but the request. All methods may be called by
    many threads.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        identity: str,
        journal: ReplyJournal,
        ledger: Ledger,
        patience: Patience | None = None,
    ) -> None:
        self.name, self.failures = name, Counter[str]()
        self.ledger, self._engine, self._identity, self._journal = ledger, engine, identity, journal
        self._patience = patience or Patience()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._failures_in_a_row = self._refusals = self._replies = 0
        self._pools: list[ThreadPoolExecutor] = []
        self._secrets = [value for name in API_KEY_VARIABLES if (value := os.environ.get(name))]

    @property
    def is_spent(self) -> bool:
        """True once the budget had no room for a request."""
        return self.ledger.is_spent

    @property
    def max_concurrency(self) -> int:
        """The most requests in flight."""
        return self._patience.max_concurrency

    def known(self, requests: Sequence[Request]) -> int:
        """Count the requests that the journal has replies to."""
        return sum(self.key(request) in self._journal for request in requests)

    def key(self, request: Request) -> str:
        """Hash what identifies a reply: the model, the conversation as it is sent, and the sampling."""
        turns = [(turn.role, turn.content) for turn in request.turns]
        text = repr((self._identity, turns, sorted(request.sampling.record().items()), request.thinking))
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()

    def complete(
        self, requests: Sequence[Request], max_concurrency: int | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """Yield the index and the completion of each request that could be answered, in any order.

        Equal requests are sent once.
        """
        indices: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            indices.setdefault(self.key(request), []).append(index)
        unknown = [key for key in indices if key not in self._journal]
        for key in indices.keys() - set(unknown):
            yield from ((index, self._journal.completion(key)) for index in indices[key])
        waiting = ((key, requests[indices[key][0]]) for key in unknown)
        width = min(max_concurrency or self._patience.max_concurrency, self._patience.max_concurrency)
        for key in self._ask_all(waiting, min(width, len(unknown))):
            yield from ((index, self._journal.completion(key)) for index in indices[key])

    def close(self) -> None:
        """Hang up, and wait for the threads; replies in flight are lost."""
        self._closing.set()
        self.ledger.close()
        self._engine.close()
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask_all(self, waiting: Iterator[tuple[str, Request]], width: int) -> Iterator[str]:
        """Ask, so many at a time, and yield the key of each request that got a reply."""
        if not width:
            return
        events: SimpleQueue[object] = SimpleQueue()
        stopped = threading.Event()
        lock = threading.Lock()

        def work() -> None:
            try:
                while not (stopped.is_set() or self._closing.is_set() or self.is_spent):
                    with lock:
                        key, request = next(waiting, (None, None))
                    if key is None or request is None:
                        return
                    if self._ask(key, request):
                        events.put(key)
            except Exception as error:
                stopped.set()
                events.put(error)
            finally:
                events.put(_DONE)

        pool = ThreadPoolExecutor(width, thread_name_prefix="thinktune-teacher")
        self._pools.append(pool)
        try:
            for _ in range(width):
                pool.submit(work)
            running = width
            while running:
                match events.get():
                    case str(key):
                        yield key
                    case Exception() as error:
                        raise error
                    case _:
                        running -= 1
        finally:
            stopped.set()
            pool.shutdown(wait=False)

    def _ask(self, key: str, request: Request) -> bool:
        """Ask until there is a reply, and journal it; returns False where there will be none."""
        wait = self._patience.first_wait_seconds
        for attempt in range(1, self._patience.max_attempts + 1):
            reserved = self.ledger.reserve(_largest_usage(request))
            if reserved is None:
                return False
            self._journal.add_request(key, reserved)
            try:
                [(_, reply)] = self._engine.complete([request], 1)
            except TemporaryError as error:
                self._lose(key, reserved, reserved if error.may_have_cost else Usage(), error)
                named = error.wait_seconds or 0.0
                last = attempt == self._patience.max_attempts or named > MAX_NAMED_WAIT_SECONDS
                if last or self._closing.wait(max(wait * random.uniform(0.5, 1.5), named)):
                    self._count_failure(error)
                    return False
                wait = min(2 * wait, MAX_WAIT_SECONDS)
            except UpstreamError as error:
                self._lose(key, reserved, Usage(), error)
                raise
            except UserError as error:
                self._lose(key, reserved, Usage(), error)
                self._count_refusal(error)
                return False
            except RuntimeError:  # closed while the request was in flight
                self._lose(key, reserved, reserved, UserError("was stopped"))
                if self._closing.is_set():
                    return False
                raise
            else:
                self._keep(key, self._without_secrets(reply), reserved)
                return True
        return False

    def _keep(self, key: str, reply: Completion, reserved: Usage) -> None:
        # A server that does not count tokens is charged with all that was reserved.
        counted = Usage(reply.prompt_tokens, reply.tokens)
        used = counted if reply.prompt_tokens and reply.tokens else reserved
        date = datetime.now(UTC).isoformat(timespec="seconds")
        self._journal.add_reply(key, reply, used, {"teacher": self.name, "date": date})
        self.ledger.settle(reserved, used)
        with self._lock:
            self._replies += 1
            self._failures_in_a_row = 0

    def _lose(self, key: str, reserved: Usage, used: Usage, error: UserError) -> None:
        self._journal.add_loss(key, used, redact(str(error)))
        self.ledger.settle(reserved, used)

    def _count_failure(self, error: TemporaryError) -> None:
        with self._lock:
            self.failures["no reply"] += 1
            self._failures_in_a_row += 1
            gone = self._failures_in_a_row >= max(MAX_FAILURES_IN_A_ROW, self._patience.max_concurrency)
        if gone and not self._closing.is_set():
            raise UpstreamError(
                f"{error}: no request was answered for a while; all replies so far are saved; run the same command "
                "to continue"
            )

    def _count_refusal(self, error: UserError) -> None:
        with self._lock:
            self.failures["refused by the teacher"] += 1
            self._refusals += 1
            hopeless = not self._replies and not len(self._journal) and self._refusals >= MAX_FIRST_REFUSALS
        if hopeless:
            raise error

    def _without_secrets(self, reply: Completion) -> Completion:
        """Mask our own key, which a server may repeat."""
        reasoning, answer = reply.reasoning, reply.answer
        for secret in self._secrets:
            reasoning, answer = reasoning.replace(secret, "***"), answer.replace(secret, "***")
        return replace(reply, reasoning=reasoning, answer=answer)


def _largest_usage(request: Request) -> Usage:
    """Return the most tokens that a request can cost with any tokenizer."""
    text_bytes = sum(len(turn.content.encode("utf-8", "replace")) for turn in request.turns)
    prompt_tokens = text_bytes + TURN_TOKENS * len(request.turns) + TEMPLATE_TOKENS
    return Usage(prompt_tokens, request.sampling.max_new_tokens)
