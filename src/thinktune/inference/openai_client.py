"""Writing replies with a model behind any OpenAI-compatible server: the same door as the engine in this process."""

import asyncio
import os
import random
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from thinktune.data.chat_template import THINK_CLOSE, THINK_OPEN
from thinktune.errors import UpstreamError, UserError
from thinktune.inference.replies import Piece, ReplyParser
from thinktune.inference.requests import Completion, Request
from thinktune.inference.streaming import EventQueue, Stream, as_completed

BUDGET_SLACK_TOKENS = 64  # how far a server may overrun the reasoning's budget: its closing words are its own


class PassingError(Exception):
    """What may have passed when it is tried again; `after` is the server's Retry-After."""

    def __init__(self, told: str, after: str | None = None) -> None:
        super().__init__(told)
        self.after = after


class _Text(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(BaseModel):
    delta: _Text | None = None
    message: _Text | None = None
    finish_reason: str | None = None


class _Details(BaseModel):
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    completion_tokens_details: _Details | None = None


class _Part(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


def request_body(request: Request, model: str, dropped: set[str]) -> dict[str, Any]:
    """A request as JSON. Earlier reasoning is not sent: templates leave it out of a conversation that goes on.

    Stop texts are not sent either: servers look for them in the reasoning too, so the answer is watched here.
    """
    sampling = request.sampling
    most = "max_completion_tokens" if "max_tokens" in dropped else "max_tokens"
    fields: dict[str, Any] = {
        "model": model,
        "messages": [{"role": turn.role, "content": turn.content} for turn in request.turns],
        "stream": True,
        "stream_options": {"include_usage": True},
        most: sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "chat_template_kwargs": {"enable_thinking": request.thinking},
    }
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    if sampling.max_reasoning_tokens is not None:  # vLLM's name, and ours
        fields |= dict.fromkeys(("thinking_token_budget", "reasoning_budget"), sampling.max_reasoning_tokens)
    return {name: value for name, value in fields.items() if name not in dropped}


def droppable_fields(message: str, request: Request) -> set[str]:
    """The fields that a server's refusal names and that a request can do without."""
    needless = {"stream_options", "max_tokens", *(["chat_template_kwargs"] if request.thinking else [])}
    return {name for name in needless if name in message}


class ReplyAccumulator:
    """A reply as it is read; `finished` once all of it is there, `delivered` once any of it was handed on."""

    def __init__(self, request: Request) -> None:
        self.finished = self.delivered = False
        self._sampling = request.sampling
        self._parser = ReplyParser(request.sampling.stop)
        self._usage = _Usage()
        self._finish: str | None = None
        self._fields = False  # the reasoning comes in a field of its own, and its last part was not the answer's
        self._parts = self._reasoning_parts = 0

    def line(self, line: bytes) -> list[Piece]:
        """The pieces that one line of the event stream brings."""
        name, _, data = line.partition(b":")
        if name != b"data":
            if name.strip() in (b"", b"event", b"id", b"retry"):
                return []
            raise PassingError(f"sends what is no event stream: {line[:80]!r}")
        if data.strip() == b"[DONE]":
            self._finish = self._finish or "stop"
            self.finished = True
            return []
        return self._take(data.strip())

    def whole(self, text: bytes) -> list[Piece]:
        """The pieces of a reply that came as one JSON object."""
        return self._take(text)

    def end(self) -> list[Piece]:
        """What was held back, once no more will come; raises PassingError where the reply's end is missing."""
        if not self._finish and not self._parser.stopped:
            raise PassingError("breaks off in the middle of a reply")
        return self._parser.flush()

    def completion(self) -> Completion:
        """The reply, taken apart, after its end; raises UserError where its reasoning's budget was not kept."""
        reply, usage = self._parser.reply(), self._usage
        told = usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else None
        spent = self._reasoning_parts if told is None else told
        budget = self._sampling.max_reasoning_tokens
        if budget is not None and spent > budget + BUDGET_SLACK_TOKENS:
            raise UserError(
                f"reasoning_tokens: is {budget}, but this server let the model reason for {spent} tokens; "
                "leave it out, or serve the model with `thinktune serve`"
            )
        tokens = self._parts if usage.completion_tokens is None else usage.completion_tokens
        finish = "stop" if self._parser.stopped else "length" if self._finish == "length" else "end"
        return Completion(reply.reasoning, reply.answer, tokens, spent, finish, reply.closed, usage.prompt_tokens or 0)

    def _take(self, text: bytes) -> list[Piece]:
        try:
            part = _Part.model_validate_json(text)
        except ValidationError:
            raise PassingError(f"sends what is no part of a chat completion: {text[:80]!r}") from None
        if part.error:
            raise PassingError(f"reports an error: {part.error}")
        self._usage = part.usage or self._usage
        pieces: list[Piece] = []
        for choice in part.choices[:1]:
            self._finish = choice.finish_reason or self._finish
            if self._finish in ("abort", "error"):
                raise PassingError(f"gave the reply up ({self._finish})")
            pieces += self._text(choice.delta or choice.message or _Text())
        self.delivered = self.delivered or bool(pieces)
        return pieces

    def _text(self, new: _Text) -> list[Piece]:
        """Reasoning in a field of its own is read as if it stood between tags, so that one parser takes it apart."""
        if self._parser.stopped:
            return []
        pieces: list[Piece] = []
        reasoning = new.reasoning_content or new.reasoning
        self._parts += bool(reasoning or new.content)
        if reasoning:
            pieces += self._parser.feed(reasoning if self._fields else THINK_OPEN + reasoning)
            self._fields = True
        if new.content and self._parser.closed and not self._parser.stopped:
            pieces += self._parser.feed(new.content)
        elif new.content:
            pieces += self._parser.feed(THINK_CLOSE + new.content if self._fields else new.content)
        self._reasoning_parts += self._parser.in_reasoning
        self.finished = self._parser.stopped
        return pieces


def error_text(text: bytes) -> str:
    """What an error says, in whatever form."""
    try:
        error = _Part.model_validate_json(text).error
    except ValidationError:
        return text.decode(errors="replace")
    if isinstance(error, dict) and "message" in error:
        return str(error["message"])
    return str(error) if error else text.decode(errors="replace")


def model_names(text: bytes) -> list[str]:
    """The names in a list of models."""
    try:
        return [model.id for model in _Models.model_validate_json(text).data]
    except ValidationError:
        raise PassingError("sends no list of models") from None


API_KEY_VARIABLES = (
    "THINKTUNE_ENDPOINT_KEY",
    "OPENAI_API_KEY",
)  # where the environment may hold the key; the first one counts


MAX_ATTEMPTS = 6


FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0


CONNECT_SECONDS = 10.0


MOST_TOLD = 64 * 1024  # bytes of an error's text that are read


LONGEST_LINE = 16 * 1024 * 1024  # bytes of one event


Give = Callable[[list[Piece]], None]


class Endpoint:
    """A model behind `/v1/chat/completions`; without a name, the only one that the server has.

    What can pass (429, 5xx, a lost connection, half a stream, silence of `timeout_seconds`) is tried again, with
    growing waits or the server's own Retry-After; a stream that has begun to be read is not, for its reader cannot
    unread it. The user's faults (the key, the address, the request) are UserErrors at once. The key is taken from the
    environment where none is given, and never shown. All methods may be called from many threads.
    """

    def __init__(self, url: str, model: str = "", key: str | None = None, timeout_seconds: float = 300.0) -> None:
        self.url, self.model = _base(url), model
        self._key = key or next((found for name in API_KEY_VARIABLES if (found := os.environ.get(name))), None)
        self._dropped_fields: set[str] = set()  # fields that this server refuses and that nothing depends on
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=urlsplit(self.url).hostname not in ("localhost", "127.0.0.1", "::1"),  # no proxy leads to itself
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="thinktune-endpoint", daemon=True)
        self._thread.start()

    def complete(self, requests: Sequence[Request], max_concurrency: int = 32) -> Generator[tuple[int, Completion]]:
        """Each request's index and completion, as replies end, in any order; closing the iterator cancels the rest."""
        return as_completed(
            requests,
            max_concurrency,
            lambda number, events: self._submit(requests[number], events, number, streamed=False),
        )

    def stream(self, request: Request) -> Stream:
        """The pieces of one reply as they come, and last its Completion. Closing the iterator hangs up."""
        events: EventQueue = SimpleQueue()
        return Stream(events, self._submit(request, events, 0, streamed=True).cancel)

    def models(self) -> list[str]:
        """The names of the models that the server has; raises UserError where it does not say."""
        return asyncio.run_coroutine_threadsafe(self._models(), self._loop).result()

    def close(self) -> None:
        """Hang up; whoever waits for a reply gets an error."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _submit(self, request: Request, events: EventQueue, index: int, *, streamed: bool) -> "Future[None]":
        if self._loop.is_closed():
            raise RuntimeError("the endpoint is closed")
        return asyncio.run_coroutine_threadsafe(self._write(request, events, index, streamed=streamed), self._loop)

    async def _hang_up(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()

    async def _write(self, request: Request, events: EventQueue, index: int, *, streamed: bool) -> None:
        """One request to its end: whatever comes of it is put out."""
        try:
            self.model = self.model or await self._only_model()
            events.put((index, await self._tried(request, partial(_put, events, index) if streamed else None)))
        except asyncio.CancelledError:
            events.put((index, RuntimeError("the request was cancelled before the reply was whole")))
            raise
        except Exception as error:
            events.put((index, error))

    async def _tried(self, request: Request, give: Give | None) -> Completion:
        """Ask until there is a whole reply, at most `MAX_ATTEMPTS` times."""
        attempt = 0
        while True:
            attempt += 1
            answer = ReplyAccumulator(request)
            try:
                return await self._once(request, answer, give)
            except (PassingError, httpx.RequestError) as error:
                if attempt == MAX_ATTEMPTS or (give and answer.delivered):
                    often = f"tried {attempt} times" if attempt > 1 else "what was read until then stands"
                    raise UpstreamError(f"{self.url}: {self._told(error)} ({often})") from None
                await asyncio.sleep(_wait(error, attempt))

    async def _once(self, request: Request, answer: ReplyAccumulator, give: Give | None) -> Completion:
        sent = request_body(request, self.model, self._dropped_fields)
        async with self._client.stream("POST", f"{self.url}/chat/completions", json=sent) as response:
            if response.status_code != 200:
                await self._refuse(response, request)
            streamed = "json" not in response.headers.get("content-type", "")  # some servers do not stream
            async for new in _parts(response, answer) if streamed else _whole(response, answer):
                if give and new:
                    give(new)
        return answer.completion()

    async def _refuse(self, response: httpx.Response, request: Request) -> None:
        """Raise what a status other than 200 means: a PassingError where another try may help, else a UserError."""
        status, told = response.status_code, error_text(await _beginning(response))
        if status == 429 or status == 408 or status >= 500:
            raise PassingError(f"answers {status}: {told}", after=response.headers.get("retry-after"))
        spare = droppable_fields(told, request) - self._dropped_fields if status in (400, 422) else set[str]()
        if spare:
            self._dropped_fields |= spare
            raise PassingError("refuses a field that is not needed", after="0")
        match status:
            case 401 | 403:
                held = "refuses the key" if self._key else "asks for a key"
                raise UpstreamError(f"{self.url}: {held} ({status}); set {API_KEY_VARIABLES[0]} in the environment")
            case 404:
                raise UpstreamError(
                    f"{self.url}: has no model {self.model!r}, or no /chat/completions (404: {self._clean(told)}); "
                    "look at its /models, and write the address as in http://127.0.0.1:8000/v1"
                )
            case _:
                raise UserError(f"{self.url}: refuses the request ({status}): {self._clean(told)}")

    async def _models(self) -> list[str]:
        try:
            response = await self._client.get(f"{self.url}/models")
            return model_names(response.content) if response.status_code == 200 else []
        except (PassingError, httpx.RequestError) as error:
            raise UpstreamError(f"{self.url}/models: {self._told(error)}; is the server running?") from None

    async def _only_model(self) -> str:
        names = await self._models()
        if len(names) != 1:
            held = f"it has {', '.join(names)}" if names else "it does not say what it has"
            raise UpstreamError(f"{self.url}: name the model that shall answer; {held}")
        return names[0]

    def _told(self, error: Exception) -> str:
        return self._clean(f"{type(error).__name__}: {error}" if isinstance(error, httpx.RequestError) else str(error))

    def _clean(self, text: str) -> str:
        """What a server says, without the key that it may repeat."""
        text = " ".join(text.split())[:300]
        return text.replace(self._key, "***") if self._key else text


def _put(events: EventQueue, number: int, new: list[Piece]) -> None:
    events.put((number, new))


def _base(url: str) -> str:
    """The address up to its version, whatever of the usual endings it was written with."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url}: is no address; write one as in http://127.0.0.1:8000/v1")
    base = url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return base if urlsplit(base).path.strip("/") else f"{base}/v1"


async def _whole(response: httpx.Response, answer: ReplyAccumulator) -> AsyncGenerator[list[Piece]]:
    yield answer.whole(await response.aread())
    yield answer.end()


async def _parts(response: httpx.Response, answer: ReplyAccumulator) -> AsyncGenerator[list[Piece]]:
    """The pieces of a streamed reply, line by line; only a line feed ends a line (httpx cuts at U+2028 too)."""
    rest = b""
    async for read in response.aiter_bytes():
        *lines, rest = (rest + read).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise PassingError("sends a line without an end")
        for line in lines:
            yield answer.line(line)
            if answer.finished:
                yield answer.end()
                return
    yield answer.line(rest)
    yield answer.end()


async def _beginning(response: httpx.Response) -> bytes:
    """What an error says, but not gigabytes of it."""
    text = b""
    async for part in response.aiter_bytes():
        text += part
        if len(text) > MOST_TOLD:
            break
    return text[:MOST_TOLD]


def _wait(error: Exception, attempt: int) -> float:
    """Seconds until the next try: what the server asks for, else twice as long each time, with some chance in it."""
    after = error.after if isinstance(error, PassingError) else None
    if after is not None:
        with suppress(ValueError):
            return min(max(float(after), 0.0), LONGEST_WAIT_SECONDS)
        with suppress(ValueError):
            until = parsedate_to_datetime(after) - datetime.now(UTC)
            return min(max(until.total_seconds(), 0.0), LONGEST_WAIT_SECONDS)
    return min(FIRST_WAIT_SECONDS * 2 ** (attempt - 1), LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.5)
