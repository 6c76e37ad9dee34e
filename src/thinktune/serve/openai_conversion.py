"""OpenAI's requests to the engine's, and the engine's replies to OpenAI's completions, chunks and deltas."""

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from thinktune.inference import ChatDefaults, Completion, Piece, Request, SamplingParams
from thinktune.inference.chat_defaults import with_system_prompt
from thinktune.inference.replies import DEFAULT_TAGS
from thinktune.inference.requests import FinishReason
from thinktune.serve.conversations import to_turns
from thinktune.serve.openai_schema import (
    ChatCompletion,
    Choice,
    CompletionTokensDetails,
    GenerationRequest,
    Json,
    ParsedRequest,
    ReplyMessage,
    StreamOptions,
    Usage,
)
from thinktune.serve.thinking_controls import EffortUse
from thinktune.tokenization.tags import Tags

FINISH_REASONS: dict[FinishReason, Literal["stop", "length"]] = {"end": "stop", "stop": "stop", "length": "length"}


def to_engine_request(
    parsed: ParsedRequest, defaults: ChatDefaults, effort_use: EffortUse, tags: Tags = DEFAULT_TAGS
) -> Request:
    """Convert a chat request for the engine; the run's defaults fill what it leaves out, the system prompt too.

    `tags` are the model's. A reply that goes on from an open turn thinks if that turn does.
    """
    chat, controls = parsed.chat, parsed.controls
    conversation, open_turn = to_turns(chat.messages, tags)
    turns = with_system_prompt(defaults.system, conversation)
    thinking = controls.thinking
    if open_turn:
        thinking = open_turn.part == "reasoning" or turns[-1].has_reasoning
    sampling = to_sampling_params(chat, chat.token_limit, defaults.sampling)
    sampling = replace(sampling, max_reasoning_tokens=controls.reasoning_limit(sampling.max_new_tokens, effort_use))
    effort = controls.effort if thinking else "none"
    return Request(
        turns,
        sampling,
        thinking,
        effort=None if effort_use == "budget" else effort,
        open_turn=open_turn,
        grammar=parsed.grammar,
    )


def may_be_reasoning(request: Request, *, may_reason: bool) -> bool:
    """Return True if text that looks like an answer may prove to be reasoning whose opening tag is missing."""
    in_answer = request.open_turn is not None and request.open_turn.part == "answer"
    return may_reason and request.thinking and not in_answer


def to_sampling_params(options: GenerationRequest, limit: int | None, usual: SamplingParams) -> SamplingParams:
    """Convert the options that all surfaces share; `usual` fills what is left out, but for the seed: that is new."""
    stop = options.stop or []
    return SamplingParams(
        max_new_tokens=limit or usual.max_new_tokens,
        temperature=usual.temperature if options.temperature is None else options.temperature,
        top_p=usual.top_p if options.top_p is None else options.top_p,
        top_k=usual.top_k if options.top_k is None else max(0, options.top_k),
        seed=uuid.uuid4().int >> 66 if options.seed is None else options.seed,
        stop=tuple(filter(None, [stop] if isinstance(stop, str) else stop)),
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


def usage(*replies: Completion) -> Usage:
    """Count the tokens of prompts, of their replies, and of the reasoning in the replies."""
    prompt_tokens, tokens = sum(reply.prompt_tokens for reply in replies), sum(reply.tokens for reply in replies)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=tokens,
        total_tokens=prompt_tokens + tokens,
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=sum(reply.reasoning_tokens for reply in replies)
        ),
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
