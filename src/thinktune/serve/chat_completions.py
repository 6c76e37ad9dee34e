"""Responses to chat requests: admitted in order, generated in a thread, and ended for a client that leaves."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from thinktune.errors import UpstreamError, UserError, redact
from thinktune.inference import Completion, Piece, Request, Stream
from thinktune.inference.requests import ContextLengthError, GenerationError
from thinktune.serve.admission import AdmissionQueue
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_conversion import ChoiceReply, ResponseBuilder, choices, to_engine_request
from thinktune.serve.openai_schema import ApiError, Json, ParsedRequest
from thinktune.serve.security import Limits, error_response

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy must not buffer the stream
]


WARNINGS_HEADER, MAX_HEADER_CHARACTERS = "x-thinktune-warnings", 2000


STREAM_END: Message = {"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False}


log = logging.getLogger("thinktune")


class ChatCompletionResponse(Response):
    """Response to one chat request, whole or as server-sent events; it ends as soon as the client has left.

    FastAPI requires endpoints to return a `Response`. The streaming responses of Starlette, FastAPI and sse-starlette
    send status 200 before the first event, so an early failure (full queue, context too long) could not have its own.
    """

    def __init__(
        self, served_model: ServedModel, parsed: ParsedRequest, admission_queue: AdmissionQueue, limits: Limits
    ) -> None:
        super().__init__()
        self._served_model, self._parsed, self._chat_request = served_model, parsed, parsed.chat
        self._admission_queue, self._limits = admission_queue, limits

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
        started = False
        try:
            async with (
                asyncio.timeout(self._limits.reply_timeout_seconds),
                self._admission_queue.place(self._choices),
            ):
                request = to_engine_request(self._parsed, self._served_model.defaults, self._served_model.effort_use)
                request = await self._admission_queue.render(self._served_model, request)
                async with aclosing(self._response_bodies(request)) as bodies:
                    async for body in bodies:
                        if not self._chat_request.stream:
                            await JSONResponse(body, headers=self._headers)(scope, receive, send)
                            return
                        if not started:
                            await send(self._stream_start)
                            started = True
                        await send(_event(body))
        except Exception as error:
            api_error = as_api_error(error, self._limits)
            if not started:
                await error_response(api_error)(scope, receive, send)
                return
            await send(_event(api_error.body))
        await send(STREAM_END)

    @property
    def _choices(self) -> int:
        return self._chat_request.n or 1

    @property
    def _headers(self) -> dict[str, str]:
        """The warnings as a header, in ASCII, which is all that a header may hold."""
        text = "; ".join(self._parsed.warnings).encode("ascii", "backslashreplace").decode()
        shown = "".join(letter if letter.isprintable() else " " for letter in text)
        shown = shown[:MAX_HEADER_CHARACTERS].strip()  # a value that begins or ends with a space is refused
        return {WARNINGS_HEADER: shown} if shown else {}

    @property
    def _stream_start(self) -> Message:
        warned = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *warned]}

    async def _response_bodies(self, request: Request) -> AsyncGenerator[Json]:
        """Yield the events of a stream, or the one body of a whole response."""
        parsed, options = self._parsed, self._chat_request.stream_options
        response = ResponseBuilder(self._served_model.name, parsed.warnings, parsed.controls.is_hidden)
        allow_moved = bool(options and options.allow_moved)
        hold_answer = self._served_model.may_reason and request.thinking and not allow_moved
        requests = choices(request, self._choices)
        replies = [ChoiceReply(response, index, hold_answer=hold_answer) for index in range(len(requests))]
        async with aclosing(merge([self._pieces(each) for each in requests])) as pieces:
            async for index, piece in pieces:
                events = replies[index].add(piece)
                for event in events if self._chat_request.stream else ():
                    yield event
        completions = [reply.completion for reply in replies if reply.completion]
        if not self._chat_request.stream:
            has_logprobs = request.sampling.top_logprobs is not None
            yield response.completion(completions, [reply.logprobs for reply in replies] if has_logprobs else None)
        elif options and options.include_usage:
            yield response.usage_chunk(completions)

    async def _pieces(self, request: Request) -> AsyncGenerator[Piece | Completion]:
        """Yield the pieces of one choice, and last its Completion, once there is a slot for it."""
        async with (
            self._admission_queue.slot(),
            aclosing(stream_in_thread(self._served_model, request)) as pieces,
        ):
            async for piece in pieces:
                yield piece


Item = TypeVar("Item")


async def merge(sources: Sequence[AsyncGenerator[Item]]) -> AsyncGenerator[tuple[int, Item]]:
    """Yield the items of all sources as they come, each with its source's index; closing it closes the sources."""
    queue: asyncio.Queue[tuple[int, Item] | Exception | None] = asyncio.Queue()

    async def read(index: int, source: AsyncGenerator[Item]) -> None:
        try:
            async with aclosing(source) as items:
                async for item in items:
                    queue.put_nowait((index, item))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(read(index, source)) for index, source in enumerate(sources)]
    try:
        reading = len(tasks)
        while reading:
            found = await queue.get()
            if found is None:
                reading -= 1
            elif isinstance(found, Exception):
                raise found
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):  # a client that has left cancels this wait too
            await asyncio.wait(tasks)


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
            return ApiError(400, str(error), code="context_length_exceeded", param="messages")
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


def _event(body: Json) -> Message:
    """Encode a server-sent event; a lone surrogate, which an endpoint's JSON may hold, becomes a question mark."""
    text = f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
    return {"type": "http.response.body", "body": text.encode("utf-8", "replace"), "more_body": True}
