"""One request for a reply and its answer: a place to wait for, a thread that writes, and a client that may leave."""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from thinktune.errors import UpstreamError, UserError
from thinktune.inference import Completion, Piece, Request, Stream
from thinktune.inference.requests import ContextLengthError
from thinktune.serve import openai_schema as api
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_schema import ApiError, ChatRequest, Json
from thinktune.serve.security import Limits, error_response

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy between shall not collect the stream
]


START: Message = {"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS}


log = logging.getLogger("thinktune")


class AdmissionQueue:
    """Places for replies, given in the order of arrival; beyond so many waiting, who comes is sent away."""

    def __init__(self, limits: Limits) -> None:
        self._slots, self._limits, self._waiting = asyncio.Semaphore(limits.max_running), limits, 0

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Wait for a place and hold it; raises ApiError (429) where too many wait."""
        if self._slots.locked() and self._waiting >= self._limits.max_waiting:
            raise ApiError(429, f"{self._waiting} requests are waiting already; try again", code="rate_limit_exceeded")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()


@dataclass(frozen=True, slots=True)
class ChatCompletionHandler:
    """One request for a reply and its answer, as an ASGI app; it ends as soon as the client has left."""

    served_model: ServedModel
    chat_request: ChatRequest
    admission_queue: AdmissionQueue
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, whole or as a stream."""
        async with anyio.create_task_group() as group:

            async def leave_with_client() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(leave_with_client)
            await self._respond(scope, receive, send)
            group.cancel_scope.cancel()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        try:
            async with (
                asyncio.timeout(self.limits.reply_timeout_seconds),
                self.admission_queue.slot(),
                aclosing(self._response_bodies()) as bodies,
            ):
                async for body in bodies:
                    if not self.chat_request.stream:
                        await JSONResponse(body)(scope, receive, send)
                        return
                    if not begun:
                        await send(START)
                        begun = True
                    await send(_part(api.event(body)))
        except Exception as error:
            refused = as_api_error(error, self.limits)
            if not begun:
                await error_response(refused)(scope, receive, send)
                return
            await send(_part(api.event(refused.body)))
        await send(_part(b"data: [DONE]\n\n", more=False))

    async def _response_bodies(self) -> AsyncGenerator[Json]:
        """The events of a stream, or the one body of a whole reply."""
        request = api.to_engine_request(self.chat_request, self.served_model.defaults)
        answer, options = api.ResponseBuilder(self.served_model.name), self.chat_request.stream_options
        allowed = bool(options and options.allow_moved)
        wire = api.DeltaStream(hold_answer=self.served_model.may_reason and request.thinking and not allowed)
        async with aclosing(stream_in_thread(self.served_model, request)) as pieces:
            begun = not self.chat_request.stream
            async for piece in pieces:
                if not begun:
                    yield answer.chunk({"role": "assistant", "content": ""})
                    begun = True
                match piece:
                    case Completion() if not self.chat_request.stream:
                        yield answer.completion(piece)
                    case Completion():
                        for body in answer.final_chunks(piece, wire.flush(), options):
                            yield body
                    case Piece() if self.chat_request.stream:
                        for delta in wire.feed(piece):
                            yield answer.chunk(delta)
                    case Piece():
                        pass


async def stream_in_thread(served_model: ServedModel, request: Request) -> AsyncGenerator[Piece | Completion]:
    """What a voice says, heard in a thread of its own. Closing this cancels it, wherever it is."""
    loop, gone = asyncio.get_running_loop(), threading.Event()
    coming: list[Stream] = []
    said: asyncio.Queue[Piece | Completion | Exception | None] = asyncio.Queue()

    def tell(what: Piece | Completion | Exception | None) -> None:
        with suppress(RuntimeError):  # the server has closed its loop, and nobody listens
            if not gone.is_set():
                loop.call_soon_threadsafe(said.put_nowait, what)

    def hear() -> None:
        try:
            coming.append(stream := served_model.stream(request))
            if gone.is_set():  # between the two, where closing it was too early
                stream.close()
            for piece in stream:
                tell(piece)
        except Exception as error:
            tell(error)
        tell(None)

    threading.Thread(target=hear, daemon=True, name=f"reply of {served_model.name}").start()
    try:
        while (what := await said.get()) is not None:
            if isinstance(what, Exception):
                raise what
            yield what
    finally:
        gone.set()
        for stream in coming:
            stream.close()


def as_api_error(error: Exception, limits: Limits) -> ApiError:
    """What went wrong, as the client may read it; what is our fault is told to the server's log alone."""
    match error:
        case ApiError():
            return error
        case ContextLengthError():
            return ApiError(400, str(error), code="context_length_exceeded", param="messages")
        case UpstreamError():
            return ApiError(502, str(error), code="upstream_failed")
        case UserError():
            return ApiError(400, str(error))
        case TimeoutError():
            return ApiError(504, f"the reply took longer than {limits.reply_timeout_seconds:g} s", code="timeout")
        case _:
            log.error("a reply failed", exc_info=error)
            return ApiError(500, "the reply failed; the server's log says why")


def _part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
