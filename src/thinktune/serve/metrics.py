"""Counts of a server since its start, in Prometheus' text format: requests, replies, tokens, the queue, seconds.

Source: Prometheus' text-based exposition format, version 0.0.4. Labels are addresses of routes, names of served models
and fixed words, so that no client can make their number grow. All is counted in the event loop's thread.
"""

import time
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thinktune.inference import Completion, Piece
from thinktune.inference.requests import FinishReason
from thinktune.serve.admission import AdmissionQueue
from thinktune.serve.security import Access

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)

FINISHES: dict[FinishReason, str] = {"end": "stop", "stop": "stop", "length": "length"}

Labels = tuple[str, ...]


@dataclass(slots=True)
class Counter:
    """Sums by labels that never fall."""

    name: str
    help: str
    labels: Labels
    values: dict[Labels, float] = field(default_factory=dict[Labels, float])

    def add(self, *labels: str, amount: float = 1) -> None:
        """Add to the sum of some labels."""
        self.values[labels] = self.values.get(labels, 0) + amount

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text format."""
        yield from _head(self.name, self.help, "counter")
        for labels, value in self.values.items():
            yield _sample(self.name, zip(self.labels, labels, strict=True), value)


@dataclass(slots=True)
class Histogram:
    """Distributions of seconds by labels, in the buckets `SECONDS`."""

    name: str
    help: str
    labels: Labels
    counts: dict[Labels, list[int]] = field(default_factory=dict[Labels, list[int]])
    sums: dict[Labels, float] = field(default_factory=dict[Labels, float])

    def observe(self, seconds: float, *labels: str) -> None:
        """Add one value to the distribution of some labels."""
        counts = self.counts.setdefault(labels, [0] * (len(SECONDS) + 1))
        counts[bisect_left(SECONDS, seconds)] += 1  # a bucket holds its upper bound
        self.sums[labels] = self.sums.get(labels, 0) + seconds

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text format; buckets are cumulative."""
        yield from _head(self.name, self.help, "histogram")
        for labels, counts in self.counts.items():
            named = list(zip(self.labels, labels, strict=True))
            total = 0
            for bound, count in zip([*map(str, SECONDS), "+Inf"], counts, strict=True):
                total += count
                yield _sample(f"{self.name}_bucket", [*named, ("le", bound)], total)
            yield _sample(f"{self.name}_sum", named, self.sums[labels])
            yield _sample(f"{self.name}_count", named, total)


class Metrics:
    """What a server has done since its start, and what it does now."""

    def __init__(self, admission_queue: AdmissionQueue, version: str) -> None:
        self._queue, self._version = admission_queue, version
        self.requests = Counter("thinktune_requests_total", "Finished HTTP requests.", ("path", "status"))
        self._replies = Counter("thinktune_replies_total", "Finished replies.", ("model", "finish"))
        self._prompt_tokens = Counter("thinktune_prompt_tokens_total", "Tokens of prompts.", ("model",))
        self._tokens = Counter("thinktune_completion_tokens_total", "Tokens of complete replies.", ("model",))
        self._reasoning_tokens = Counter(
            "thinktune_reasoning_tokens_total", "Tokens of the reasoning in them.", ("model",)
        )
        self._queue_seconds = Histogram("thinktune_queue_seconds", "Time that a reply waited for a slot.", ("model",))
        self._first_text_seconds = Histogram(
            "thinktune_first_text_seconds", "Time from the slot to a reply's first text.", ("model",)
        )
        self._reply_seconds = Histogram(
            "thinktune_reply_seconds", "Time from the slot to the end of a reply.", ("model",)
        )

    @contextmanager
    def watch(self, model: str, waited_seconds: float) -> Generator["ReplyWatch"]:
        """Watch a reply from the time that it has a slot, and count it when it ends, however it ends."""
        self._queue_seconds.observe(waited_seconds, model)
        watched = ReplyWatch()
        finish = "cancelled"
        try:
            yield watched
        except Exception:
            finish = "error"
            raise
        finally:
            if watched.completion:  # even if the response was sent, and all of it closed, before its stream had an end
                finish = FINISHES[watched.completion.finish]
            self._replies.add(model, finish)
            self._reply_seconds.observe(time.monotonic() - watched.started, model)
            if watched.first_text_seconds is not None:
                self._first_text_seconds.observe(watched.first_text_seconds, model)
            if reply := watched.completion:
                self._prompt_tokens.add(model, amount=reply.prompt_tokens)
                self._tokens.add(model, amount=reply.tokens)
                self._reasoning_tokens.add(model, amount=reply.reasoning_tokens)

    def text(self) -> str:
        """Return all in Prometheus' text format."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _head("thinktune_info", "The server's version.", "gauge")
        yield _sample("thinktune_info", [("version", self._version)], 1)
        for name, help_text, value in (
            ("thinktune_replies_running", "Replies being written.", self._queue.running),
            ("thinktune_replies_waiting", "Replies waiting for a slot.", self._queue.waiting),
        ):
            yield from _head(name, help_text, "gauge")
            yield _sample(name, [], value)
        for family in (
            self.requests,
            self._replies,
            self._prompt_tokens,
            self._tokens,
            self._reasoning_tokens,
            self._queue_seconds,
            self._first_text_seconds,
            self._reply_seconds,
        ):
            yield from family.lines()


class ReplyWatch:
    """The times of one reply, and its completion."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.first_text_seconds: float | None = None
        self.completion: Completion | None = None

    def see(self, piece: Piece | Completion) -> None:
        """Take note of what the reply has brought."""
        if isinstance(piece, Completion):
            self.completion = piece
        elif self.first_text_seconds is None:
            self.first_text_seconds = time.monotonic() - self.started


class RequestCounter:
    """Application that counts the requests of another by the route's address and the status.

    The address of no route is "other"; the status of a client that left before there was one is 499, as nginx has it.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, access: Access, paths: Iterable[str]) -> None:
        self._app, self._metrics, self._access, self._paths = app, metrics, access, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it when it has ended."""
        status = 499

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        finally:
            if scope["type"] == "http":
                path = self._access.route_of(scope["path"])
                self._metrics.requests.add(path if path in self._paths else "other", str(status))


def _head(name: str, help_text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"


def _sample(name: str, labels: Iterable[tuple[str, str]], value: float) -> str:
    shown = ",".join(f'{label}="{_escape(text)}"' for label, text in labels)
    return f"{name}{{{shown}}} {value!r}" if shown else f"{name} {value!r}"  # whole: %g would round a long count


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
