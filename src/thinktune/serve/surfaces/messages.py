"""The surface `/v1/messages`: Anthropic's messages, whole and as a stream of typed events."""

import uuid
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Literal

from thinktune.http import ApiError
from thinktune.http.error_forms import AnthropicError
from thinktune.inference import Completion, Request
from thinktune.inference.requests import FinishReason
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_conversion import DeltaStream, may_be_reasoning, to_engine_request
from thinktune.serve.openai_schema import Json, ParsedRequest
from thinktune.serve.reply_response import TYPED_EVENTS, Replies
from thinktune.serve.surfaces.chat_shims import rename_fields, write_reply
from thinktune.serve.surfaces.messages_schema import (
    NAMES,
    UNSIGNED,
    MessageBody,
    MessageUsage,
    OutputTokensDetails,
    TextBlock,
    ThinkingBlock,
)
from thinktune.tokenization.open_turn import OpenPart

STOP_REASONS: dict[FinishReason, Literal["end_turn", "max_tokens", "stop_sequence"]] = {
    "end": "end_turn",
    "length": "max_tokens",
    "stop": "stop_sequence",
}


class MessagesSurface:
    """One request for a message, and the message or the events that answer it."""

    framing = TYPED_EVENTS

    def __init__(self, served_model: ServedModel, parsed: ParsedRequest) -> None:
        self._served_model, self._parsed = served_model, parsed
        self.stream, self.warnings = bool(parsed.chat.stream), parsed.warnings

    def requests(self) -> list[Request]:
        """Return the one request."""
        return [to_engine_request(self._parsed, self._served_model)]

    async def bodies(self, requests: Sequence[Request], replies: Replies) -> AsyncGenerator[Json]:
        """Yield the events of a stream, or the one message."""
        [request], hide = requests, self._parsed.controls.is_hidden
        writer = MessageWriter(self._served_model.name, len(request.prompt_ids or ()), self.warnings, hide=hide)
        deltas = DeltaStream(hold_answer=may_be_reasoning(request, self._served_model))
        async for body in write_reply(writer, deltas, replies, stream=self.stream, hide=hide):
            yield body

    def refusal(self, error: ApiError) -> ApiError:
        """Say an error in this API's form and names."""
        error = rename_fields(error, NAMES)
        return AnthropicError(error.status, str(error), code=error.code, param=error.param)

    def failure(self, error: ApiError) -> list[Json]:
        """Return the error as an event."""
        return [error.body]


class MessageWriter:
    """The message that a reply becomes: a thinking block, then a text block, each where there is text for it."""

    def __init__(self, model: str, prompt_tokens: int, warnings: Sequence[str], *, hide: bool) -> None:
        self._model, self._prompt_tokens, self._warnings, self._hide = model, prompt_tokens, list(warnings), hide
        self._id = f"msg_{uuid.uuid4().hex}"
        self._index = 0
        self._open: OpenPart | None = None

    def whole(self, reply: Completion) -> Json:
        """Return the whole message."""
        blocks: list[ThinkingBlock | TextBlock] = []
        if reply.reasoning and not self._hide:
            blocks.append(ThinkingBlock(thinking=reply.reasoning))
        if reply.answer:
            blocks.append(TextBlock(text=reply.answer))
        return self._message(blocks, reply).model_dump()

    def start(self) -> Iterable[Json]:
        """Return the event that opens a message."""
        message = self._message([], None).model_dump()
        if not self._warnings:
            del message["warnings"]
        return [{"type": "message_start", "message": message}]

    def part(self, part: OpenPart, text: str) -> Iterable[Json]:
        """Return the events for some text; the block of the part is opened, and another one closed."""
        events = [] if self._open == part else [*self._close(), self._open_block(part)]
        kind, field = ("thinking_delta", "thinking") if part == "reasoning" else ("text_delta", "text")
        return [*events, self._delta({"type": kind, field: text})]

    def moved(self) -> Iterable[Json]:
        """Return the events that close the block, so that the answer has one of its own: nothing can be taken back."""
        return self._close()

    def end(self, reply: Completion) -> Iterable[Json]:
        """Return the events that close a message."""
        ended = {"stop_reason": STOP_REASONS[reply.finish], "stop_sequence": reply.stop_string}
        usage = self._usage(reply).model_dump()
        return [
            *self._close(),
            {"type": "message_delta", "delta": ended, "usage": usage},
            {"type": "message_stop"},
        ]

    def _open_block(self, part: OpenPart) -> Json:
        self._open = part
        block: Json = {"type": "text", "text": ""}
        if part == "reasoning":
            block = {"type": "thinking", "thinking": "", "signature": ""}
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _close(self) -> list[Json]:
        if self._open is None:
            return []
        events = [self._delta({"type": "signature_delta", "signature": UNSIGNED})] if self._open == "reasoning" else []
        events.append({"type": "content_block_stop", "index": self._index})
        self._index, self._open = self._index + 1, None
        return events

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _usage(self, reply: Completion | None) -> MessageUsage:
        return MessageUsage(
            input_tokens=reply.prompt_tokens if reply else self._prompt_tokens,
            output_tokens=reply.tokens if reply else 0,
            output_tokens_details=OutputTokensDetails(thinking_tokens=reply.reasoning_tokens if reply else 0),
        )

    def _message(self, blocks: list[ThinkingBlock | TextBlock], reply: Completion | None) -> MessageBody:
        return MessageBody(
            id=self._id,
            model=self._model,
            content=blocks,
            stop_reason=STOP_REASONS[reply.finish] if reply else None,
            stop_sequence=reply.stop_string if reply else None,
            usage=self._usage(reply),
            warnings=self._warnings,
        )
