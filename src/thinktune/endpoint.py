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
from urllib.parse import urlsplit

import httpx

from thinktune.errors import UpstreamError, UserError
from thinktune.reply import Piece
from thinktune.request import Completion, Request
from thinktune.stream import Events, Stream, as_they_end
from thinktune.wire import Answer, PassingError, body, error_text, model_names, spared

KEYS = ("THINKTUNE_ENDPOINT_KEY", "OPENAI_API_KEY")  # where the environment may hold the key; the first one counts
TRIES = 6
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
CONNECT_SECONDS = 10.0
MOST_TOLD = 64 * 1024  # bytes of an error's text that are read
LONGEST_LINE = 16 * 1024 * 1024  # bytes of one event
Give = Callable[[list[Piece]], None]


class Endpoint:
    """A model behind `/v1/chat/completions`; without a name, the only one that the server has.

    What can pass (429, 5xx, a lost connection, half a stream, silence of `patience_seconds`) is tried again, with
    growing waits or the server's own Retry-After; a stream that has begun to be read is not, for its reader cannot
    unread it. The user's faults (the key, the address, the request) are UserErrors at once. The key is taken from the
    environment where none is given, and never shown. All methods may be called from many threads.
    """

    def __init__(self, url: str, model: str = "", key: str | None = None, patience_seconds: float = 300.0) -> None:
        self.url, self.model = _base(url), model
        self._key = key or next((found for name in KEYS if (found := os.environ.get(name))), None)
        self._spared: set[str] = set()  # fields that this server refuses and that nothing depends on
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(patience_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=urlsplit(self.url).hostname not in ("localhost", "127.0.0.1", "::1"),  # no proxy leads to itself
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="thinktune-endpoint", daemon=True)
        self._thread.start()

    def complete(self, requests: Sequence[Request], most_at_once: int = 32) -> Generator[tuple[int, Completion]]:
        """Each request's index and completion, as replies end, in any order; closing the iterator cancels the rest."""
        return as_they_end(
            requests, most_at_once, lambda number, events: self._submit(requests[number], events, number, pieces=False)
        )

    def stream(self, request: Request) -> Stream:
        """The pieces of one reply as they come, and last its Completion. Closing the iterator hangs up."""
        events: Events = SimpleQueue()
        return Stream(events, self._submit(request, events, 0, pieces=True).cancel)

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

    def _submit(self, request: Request, events: Events, number: int, *, pieces: bool) -> "Future[None]":
        if self._loop.is_closed():
            raise RuntimeError("the endpoint is closed")
        return asyncio.run_coroutine_threadsafe(self._write(request, events, number, pieces=pieces), self._loop)

    async def _hang_up(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()

    async def _write(self, request: Request, events: Events, number: int, *, pieces: bool) -> None:
        """One request to its end: whatever comes of it is put out."""
        try:
            self.model = self.model or await self._only_model()
            events.put((number, await self._tried(request, partial(_put, events, number) if pieces else None)))
        except asyncio.CancelledError:
            events.put((number, RuntimeError("the request was cancelled before the reply was whole")))
            raise
        except Exception as error:
            events.put((number, error))

    async def _tried(self, request: Request, give: Give | None) -> Completion:
        """Ask until there is a whole reply, at most `TRIES` times."""
        attempt = 0
        while True:
            attempt += 1
            answer = Answer(request)
            try:
                return await self._once(request, answer, give)
            except (PassingError, httpx.RequestError) as error:
                if attempt == TRIES or (give and answer.given):
                    often = f"tried {attempt} times" if attempt > 1 else "what was read until then stands"
                    raise UpstreamError(f"{self.url}: {self._told(error)} ({often})") from None
                await asyncio.sleep(_wait(error, attempt))

    async def _once(self, request: Request, answer: Answer, give: Give | None) -> Completion:
        sent = body(request, self.model, self._spared)
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
        spare = spared(told, request) - self._spared if status in (400, 422) else set[str]()
        if spare:
            self._spared |= spare
            raise PassingError("refuses a field that is not needed", after="0")
        match status:
            case 401 | 403:
                held = "refuses the key" if self._key else "asks for a key"
                raise UpstreamError(f"{self.url}: {held} ({status}); set {KEYS[0]} in the environment")
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


def _put(events: Events, number: int, new: list[Piece]) -> None:
    events.put((number, new))


def _base(url: str) -> str:
    """The address up to its version, whatever of the usual endings it was written with."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url}: is no address; write one as in http://127.0.0.1:8000/v1")
    base = url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return base if urlsplit(base).path.strip("/") else f"{base}/v1"


async def _whole(response: httpx.Response, answer: Answer) -> AsyncGenerator[list[Piece]]:
    yield answer.whole(await response.aread())
    yield answer.end()


async def _parts(response: httpx.Response, answer: Answer) -> AsyncGenerator[list[Piece]]:
    """The pieces of a streamed reply, line by line; only a line feed ends a line (httpx cuts at U+2028 too)."""
    rest = b""
    async for read in response.aiter_bytes():
        *lines, rest = (rest + read).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise PassingError("sends a line without an end")
        for line in lines:
            yield answer.line(line)
            if answer.over:
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
