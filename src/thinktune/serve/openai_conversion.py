"""OpenAI's requests to the engine's, and the engine's replies to OpenAI's completions, chunks and deltas."""

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from thinktune.inference import ChatDefaults, Completion, Piece, Request, SamplingParams
from thinktune.inference.chat_defaults import with_system_prompt
from thinktune.inference.replies import parse_reply
from thinktune.inference.requests import FinishReason
from thinktune.serve.openai_schema import (
    ChatCompletion,
    Choice,
    CompletionTokensDetails,
    Json,
    Message,
    ParsedRequest,
    ReplyMessage,
    StreamOptions,
    Usage,
)
from thinktune.serve.thinking_controls import EffortUse
from thinktune.tokenization import Turn

FINISH_REASONS: dict[FinishReason, Literal["stop", "length"]] = {"end": "stop", "stop": "stop", "length": "length"}


def to_engine_request(parsed: ParsedRequest, defaults: ChatDefaults, effort_use: EffortUse) -> Request:
    """Convert a chat request for the engine; the run's defaults fill what it leaves out, the system prompt too."""
    chat, controls = parsed.chat, parsed.controls
    turns = with_system_prompt(defaults.system, [_turn(message) for message in chat.messages])
    usual, stop = defaults.sampling, chat.stop or []
    limit = chat.token_limit or usual.max_new_tokens
    sampling = SamplingParams(
        max_new_tokens=limit,
        temperature=usual.temperature if chat.temperature is None else chat.temperature,
        top_p=usual.top_p if chat.top_p is None else chat.top_p,
        top_k=usual.top_k if chat.top_k is None else max(0, chat.top_k),
        seed=uuid.uuid4().int >> 66 if chat.seed is None else chat.seed,
        stop=tuple(filter(None, [stop] if isinstance(stop, str) else stop)),
        max_reasoning_tokens=controls.reasoning_limit(limit, effort_use),
    )
    effort = controls.effort if controls.thinking else "none"
    return Request(
        turns,
        sampling,
        controls.thinking,
        effort=None if effort_use == "budget" else effort,
        grammar=parsed.grammar,
    )


@dataclass(frozen=True, slots=True)
class ResponseBuilder:
    """Bodies of one response: a whole completion, or the chunks of a stream, all with the same id and time.

    With `hide_reasoning` the reasoning is written, counted and left out. `warnings` are in the whole body, and in a
    stream's first chunk.
    """

    model: str
    warnings: tuple[str, ...] = ()
    hide_reasoning: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, reply: Completion) -> Json:
        """Build the body that answers a request without `stream`."""
        reasoning = None if self.hide_reasoning else reply.reasoning or None
        message = ReplyMessage(content=reply.answer, **_reasoning_fields(reasoning))
        choice = Choice(message=message, finish_reason=FINISH_REASONS[reply.finish])
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[choice],
            usage=usage(reply),
            warnings=list(self.warnings),
        ).model_dump()

    def first_chunk(self) -> Json:
        """Build the first event of a stream, with the warnings if there are any."""
        warned = {"warnings": list(self.warnings)} if self.warnings else {}
        return self.chunk({"role": "assistant", "content": ""}) | warned

    def chunk(self, delta: Json, finish: str | None = None) -> Json:
        """Build one event of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._envelope([choice])

    def final_chunks(self, reply: Completion, rest: Iterable[Json], options: StreamOptions | None) -> Iterator[Json]:
        """Yield the last events: the remaining deltas, the finish reason, and the usage if the client asked for it."""
        yield from self.chunks(rest)
        yield self.chunk({}, FINISH_REASONS[reply.finish])
        if options and options.include_usage:
            yield self._envelope([]) | {"usage": usage(reply).model_dump()}

    def chunks(self, deltas: Iterable[Json]) -> Iterator[Json]:
        """Yield the events of deltas, those of hidden reasoning left out."""
        return (self.chunk(delta) for delta in deltas if not (self.hide_reasoning and "reasoning" in delta))

    def _envelope(self, choices: list[Json]) -> Json:
        kind = "chat.completion.chunk"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(reply: Completion) -> Usage:
    """Count the tokens of a prompt, of its reply, and of the reasoning in the reply."""
    return Usage(
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.tokens,
        total_tokens=reply.prompt_tokens + reply.tokens,
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=reply.reasoning_tokens),
    )


class DeltaStream:
    """Convert pieces to deltas; hold back text that may yet prove to be reasoning whose opening tag is missing.

    So `content` never holds reasoning. The price: a model that should reason and does not is seen only at its end.
    With `hold_answer` off, such text is sent at once, and a delta `moved: true` takes it back.
    """

    def __init__(self, *, hold_answer: bool) -> None:
        self._held: str | None = "" if hold_answer else None

    def feed(self, piece: Piece) -> Iterator[Json]:
        """Yield the deltas that are certain after this piece."""
        if piece.kind == "answer" and self._held is not None:
            self._held += piece.text
            return
        held, self._held = self._held, None
        match piece.kind:
            case "moved":
                yield {"moved": True} if held is None else _reasoning_fields(held)
            case "reasoning":
                yield _reasoning_fields(piece.text)
            case "answer":
                yield {"content": piece.text}

    def flush(self) -> Iterator[Json]:
        """Yield what is still held back, once no more pieces will come."""
        if self._held:
            yield {"content": self._held}


def _reasoning_fields(text: str | None) -> Json:
    """Put reasoning under both names in use: vLLM says `reasoning`, others `reasoning_content`."""
    return {"reasoning_content": text, "reasoning": text}


def _turn(message: Message) -> Turn:
    text = message.content or ""
    if not isinstance(text, str):
        text = "".join(part.text for part in text)
    if message.role != "assistant":
        return Turn("system" if message.role == "developer" else message.role, text)
    reasoning = message.reasoning_content or message.reasoning or ""
    if not reasoning and (reply := parse_reply(text)).closed:  # a client that keeps replies with their tags
        return Turn("assistant", reply.answer, reply.reasoning)
    return Turn("assistant", text, reasoning)
