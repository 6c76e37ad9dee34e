"""Responses made of replies: admitted in order, generated in threads, and ended for a client that leaves.

What a request asks for and what its replies are sent as is its surface's: each API has one. FastAPI requires endpoints
to return a `Response`. The streaming responses of Starlette, FastAPI and sse-starlette send status 200 before the first
event, so an early failure (full queue, context too long) could not have its own.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from thinktune.errors import UpstreamError, UserError, redact
from thinktune.http import ApiError, Limits
from thinktune.http.security import error_response
from thinktune.inference import Completion, Piece, Request, Stream
from thinktune.inference.requests import ContextLengthError, GenerationError
from thinktune.serve.admission import AdmissionQueue
from thinktune.serve.metrics import Metrics
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_schema import Json

WARNINGS_HEADER, MAX_HEADER_CHARACTERS = "x-thinktune-warnings", 2000

log = logging.getLogger("thinktune")

Replies = AsyncGenerator[tuple[int, Piece | Completion]]  # with the number of the request that each belongs to


@dataclass(frozen=True, slots=True)
class Framing:
    """How the bodies of a stream become text, and what comes after the last."""

    media_type: str
    frame: Callable[[Json], str]
    end: str = ""


def _dump(body: Json) -> str:
    return json.dumps(body, ensure_ascii=False)


EVENT_STREAM = "text/event-stream; charset=utf-8"
DATA_EVENTS = Framing(EVENT_STREAM, lambda body: f"data: {_dump(body)}\n\n", "data: [DONE]\n\n")
TYPED_EVENTS = Framing(EVENT_STREAM, lambda body: f"event: {body['type']}\ndata: {_dump(body)}\n\n")


class Surface(Protocol):
    """One request in the form of its API, and the form of what answers it."""

    framing: Framing

    @property
    def stream(self) -> bool:
        """True if the replies are sent as they are written."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """A sentence for each option that was left out."""
        ...

    def requests(self) -> list[Request]:
        """Return the engine's requests, one for each reply; raises ApiError."""
        ...

    def bodies(self, requests: Sequence[Request], replies: Replies) -> AsyncGenerator[Json]:
        """Yield the bodies of a stream, or the one body of a whole response; the requests are rendered."""
        ...

    def refusal(self, error: ApiError) -> ApiError:
        """Say an error in the names of this API's fields."""
        ...

    def failure(self, error: ApiError) -> Iterable[Json]:
        """Return the last bodies of a stream that fails."""
        ...


class ReplyResponse(Response):
    """Response to one request, whole or as a stream; it ends as soon as the client has left."""

    def __init__(
        self, served_model: ServedModel, surface: Surface, admission_queue: AdmissionQueue, metrics: Metrics
    ) -> None:
        super().__init__()
        self._served_model, self._surface = served_model, surface
        self._admission_queue, self._metrics = admission_queue, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the reply; cancel it when the client disconnects."""
        async with anyio.create_task_group() as group:

            async def cancel_on_disconnect() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(cancel_on_disconnect)
            await self._respond(scope, receive, send)
            group.cancel_scope.cancel()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        surface, queue, started = self._surface, self._admission_queue, False
        try:
            async with asyncio.timeout(queue.limits.reply_timeout_seconds):
                requests = await queue.convert(surface.requests)
                async with queue.places(len(requests)):
                    requests = await queue.render_all(self._served_model, requests)
                    replies = generate(self._served_model, requests, queue, self._metrics)
                    async with aclosing(replies), aclosing(surface.bodies(requests, replies)) as bodies:
                        async for body in bodies:
                            if not surface.stream:
                                await JSONResponse(body, headers=self._headers)(scope, receive, send)
                                return
                            if not started:
                                await send(self._stream_start)
                                started = True
                            await send(_part(surface.framing.frame(body)))
        except Exception as error:
            api_error = surface.refusal(as_api_error(error, queue.limits))
            if not started:
                await error_response(api_error)(scope, receive, send)
                return
            for body in surface.failure(api_error):
                await send(_part(surface.framing.frame(body)))
        await send(_part(surface.framing.end, more=False))

    @property
    def _headers(self) -> dict[str, str]:
        """The warnings as a header, in ASCII, which is all that a header may hold."""
        text = "; ".join(self._surface.warnings).encode("ascii", "backslashreplace").decode()
        shown = "".join(letter if letter.isprintable() else " " for letter in text)
        shown = shown[:MAX_HEADER_CHARACTERS].strip()  # a value that begins or ends with a space is refused
        return {WARNINGS_HEADER: shown} if shown else {}

    @property
    def _stream_start(self) -> Message:
        headers = {
            "content-type": self._surface.framing.media_type,
            "cache-control": "no-store",
            "x-accel-buffering": "no",  # a proxy must not buffer the stream
            **self._headers,
        }
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": encoded}


async def generate(
    served_model: ServedModel, requests: Sequence[Request], admission_queue: AdmissionQueue, metrics: Metrics
) -> Replies:
    """Generate the replies to requests side by side, each in a slot of its own; closing the generator cancels them."""
    events: asyncio.Queue[tuple[int, Piece | Completion | Exception | None]] = asyncio.Queue()

    async def run(index: int) -> None:
        asked = time.monotonic()
        try:
            async with admission_queue.slot(), aclosing(stream_in_thread(served_model, requests[index])) as pieces:
                with metrics.watch(served_model.name, time.monotonic() - asked) as watched:
                    async for piece in pieces:
                        watched.see(piece)
                        events.put_nowait((index, piece))
            events.put_nowait((index, None))
        except Exception as error:
            events.put_nowait((index, error))

    tasks = [asyncio.create_task(run(index)) for index in range(len(requests))]
    try:
        left = len(tasks)
        while left:
            index, event = await events.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                left -= 1
            else:
                yield index, event
    finally:
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):  # their places are free only once their slots are
            await asyncio.gather(*tasks, return_exceptions=True)


async def stream_in_thread(served_model: ServedModel, request: Request) -> AsyncGenerator[Piece | Completion]:
    """Stream a reply from a worker thread; closing the generator cancels it, whatever the thread is doing."""
    loop, closed = asyncio.get_running_loop(), threading.Event()
    streams: list[Stream] = []  # the one stream, once it is open
    queue: asyncio.Queue[Piece | Completion | Exception | None] = asyncio.Queue()

    def put(item: Piece | Completion | Exception | None) -> None:
        with suppress(RuntimeError):  # the server has closed its loop, and nobody reads
            if not closed.is_set():
                loop.call_soon_threadsafe(queue.put_nowait, item)

    def run() -> None:
        try:
            streams.append(stream := served_model.stream(request))
            if closed.is_set():  # meanwhile, when there was no stream to close
                stream.close()
            for piece in stream:
                put(piece)
        except Exception as error:
            put(error)
        put(None)

    threading.Thread(target=run, daemon=True, name=f"reply of {served_model.name}").start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        closed.set()
        for stream in streams:
            stream.close()


def as_api_error(error: Exception, limits: Limits) -> ApiError:
    """Convert an error for the client; the details of our own failures go to the server's log only."""
    match error:
        case ApiError():
            return error
        case ContextLengthError():
            field = str(error).partition(":")[0]
            return ApiError(400, str(error), code="context_length_exceeded", param=field)
        case GenerationError():
            log.error("a reply failed: %s", error)
            return ApiError(500, str(error), code="generation_failed")
        case UpstreamError():
            return ApiError(502, redact(str(error)), code="upstream_failed")
        case UserError():
            return ApiError(400, redact(str(error)))
        case TimeoutError():
            return ApiError(504, f"the reply took longer than {limits.reply_timeout_seconds:g} s", code="timeout")
        case _:
            log.error("a reply failed", exc_info=error)
            return ApiError(500, "the reply failed; the server's log says why")


def _part(text: str, *, more: bool = True) -> Message:
    """Encode a part of a stream; a lone surrogate, which an endpoint's JSON may hold, becomes a question mark."""
    return {"type": "http.response.body", "body": text.encode("utf-8", "replace"), "more_body": more}
