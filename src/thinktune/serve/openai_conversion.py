"""OpenAI's requests to the engine's, and the engine's replies to OpenAI's completions, chunks and deltas."""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from thinktune.inference import Completion, Piece, Request, SamplingParams
from thinktune.inference.chat_defaults import with_system_prompt
from thinktune.inference.requests import FinishReason
from thinktune.inference.sampling.answer_tokens import TokenLogprob
from thinktune.serve.conversations import to_turns
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_schema import (
    AnswerLogprob,
    ChatCompletion,
    Choice,
    ChoiceLogprobs,
    CompletionTokensDetails,
    GenerationRequest,
    Json,
    ParsedRequest,
    ReplyMessage,
    TopLogprob,
    Usage,
)
from thinktune.serve.sampling_fields import read_sampling

FINISH_REASONS: dict[FinishReason, Literal["stop", "length"]] = {"end": "stop", "stop": "stop", "length": "length"}


def to_engine_request(parsed: ParsedRequest, served_model: ServedModel) -> Request:
    """Convert a chat request for the engine; the run's defaults fill what it leaves out, the system prompt too.

    A reply that goes on from an open turn thinks if that turn does.
    """
    chat, controls = parsed.chat, parsed.controls
    defaults, effort_use = served_model.defaults, served_model.effort_use
    conversation, open_turn = to_turns(chat.messages, served_model.tags)
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


def may_be_reasoning(request: Request, served_model: ServedModel) -> bool:
    """Return True if text that looks like an answer may prove to be reasoning whose opening tag is missing."""
    in_answer = request.open_turn is not None and request.open_turn.part == "answer"
    # Under a grammar the answer begins where the grammar does.
    return served_model.may_reason and request.thinking and not in_answer and request.grammar is None


def to_sampling_params(options: GenerationRequest, limit: int | None, usual: SamplingParams) -> SamplingParams:
    """Convert the options that all surfaces share; `usual` fills what is left out, but for the seed: that is new."""
    stop = options.stop or []
    return read_sampling(
        options,
        usual,
        max_new_tokens=limit or usual.max_new_tokens,
        seed=uuid.uuid4().int >> 66,
        stop=tuple(filter(None, [stop] if isinstance(stop, str) else stop)),
    )


def choices(request: Request, count: int) -> list[Request]:
    """Return a request for each of `count` choices: the same, each with the seed one higher than the last one's."""
    sampling = request.sampling
    return [replace(request, sampling=replace(sampling, seed=sampling.seed + number)) for number in range(count)]


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

    def completion(
        self, replies: Sequence[Completion], logprobs: Sequence[Sequence[TokenLogprob]] | None = None
    ) -> Json:
        """Build the body that answers a request without `stream`; `logprobs` are those of each reply's answer."""
        ranked = [None] * len(replies) if logprobs is None else [logprobs_body(each) for each in logprobs]
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[self._choice(index, *each) for index, each in enumerate(zip(replies, ranked, strict=True))],
            usage=usage(*replies, prompt_tokens=replies[0].prompt_tokens),
            warnings=list(self.warnings),
        ).model_dump()

    def _choice(self, index: int, reply: Completion, logprobs: ChoiceLogprobs | None) -> Choice:
        reasoning = None if self.hide_reasoning else reply.reasoning or None
        message = ReplyMessage(content=reply.answer, **_reasoning_fields(reasoning))
        return Choice(index=index, message=message, finish_reason=FINISH_REASONS[reply.finish], logprobs=logprobs)

    def first_chunk(self, index: int = 0) -> Json:
        """Build the first event of a choice; that of the first one has the warnings, if there are any."""
        warned = {"warnings": list(self.warnings)} if self.warnings and not index else {}
        return self.chunk({"role": "assistant", "content": ""}, index=index) | warned

    def chunk(self, delta: Json, finish: str | None = None, *, index: int = 0) -> Json:
        """Build one event of a stream; the log probabilities that are in a delta stand beside it."""
        shown = {name: value for name, value in delta.items() if name != LOGPROBS}
        choice = {"index": index, "delta": shown, "finish_reason": finish, "logprobs": delta.get(LOGPROBS)}
        return self._envelope([choice])

    def usage_chunk(self, replies: Sequence[Completion]) -> Json:
        """Build the event after all choices, for a client that asks for it: the tokens of them together."""
        return self._envelope([]) | {"usage": usage(*replies, prompt_tokens=replies[0].prompt_tokens).model_dump()}

    def chunks(self, deltas: Iterable[Json], index: int = 0) -> Iterator[Json]:
        """Yield the events of deltas, those of hidden reasoning left out."""
        return (self.chunk(each, index=index) for each in deltas if not (self.hide_reasoning and "reasoning" in each))

    def _envelope(self, choices: list[Json]) -> Json:
        kind = "chat.completion.chunk"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def usage(*replies: Completion, prompt_tokens: int | None = None) -> Usage:
    """Count the tokens of prompts (each reply's, if they are not given), of replies, and of the reasoning in them."""
    prompts = sum(reply.prompt_tokens for reply in replies) if prompt_tokens is None else prompt_tokens
    tokens, reasoning = sum(reply.tokens for reply in replies), sum(reply.reasoning_tokens for reply in replies)
    return Usage(
        prompt_tokens=prompts,
        completion_tokens=tokens,
        total_tokens=prompts + tokens,
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=reasoning),
    )


def logprobs_body(tokens: Sequence[TokenLogprob]) -> ChoiceLogprobs:
    """Convert the log probabilities of an answer's tokens to OpenAI's form."""

    def fields(token: TokenLogprob) -> Json:
        spelled = None if token.bytes is None else list(token.bytes)
        return {"token": token.text, "logprob": token.logprob, "bytes": spelled}

    return ChoiceLogprobs(
        content=[
            AnswerLogprob(**fields(token), top_logprobs=[TopLogprob(**fields(each)) for each in token.likeliest])
            for token in tokens
        ]
    )


LOGPROBS = "logprobs"  # in a delta of `content`, where they were asked for


class DeltaStream:
    """Convert pieces to deltas; hold back text that may yet prove to be reasoning whose opening tag is missing.

    So `content` never holds reasoning. The price: a model that should reason and does not is seen only at its end.
    With `hold_answer` off, such text is sent at once, and a delta `moved: true` takes it back.
    """

    def __init__(self, *, hold_answer: bool) -> None:
        self._held: str | None = "" if hold_answer else None
        self._held_logprobs: list[TokenLogprob] = []

    def feed(self, piece: Piece) -> Iterator[Json]:
        """Yield the deltas that are certain after this piece."""
        if piece.kind == "answer" and self._held is not None:
            self._held += piece.text
            self._held_logprobs += piece.logprobs
            return
        held, self._held = self._held, None
        match piece.kind:
            case "moved":
                yield {"moved": True} if held is None else _reasoning_fields(held)
            case "reasoning":
                yield _reasoning_fields(piece.text)
            case "answer":
                yield _content(piece.text, piece.logprobs)

    def flush(self) -> Iterator[Json]:
        """Yield what is still held back, once no more pieces will come."""
        if self._held:
            yield _content(self._held, self._held_logprobs)


def _content(text: str, logprobs: Sequence[TokenLogprob]) -> Json:
    return {"content": text} | ({LOGPROBS: logprobs_body(logprobs).model_dump()} if logprobs else {})


class ChoiceReply:
    """One choice of a response as its pieces come: the events of a stream, and what is left at the end."""

    def __init__(self, response: ResponseBuilder, index: int, *, hold_answer: bool) -> None:
        self.completion: Completion | None = None
        self.logprobs: list[TokenLogprob] = []  # of the answer
        self._response, self._index = response, index
        self._deltas, self._started = DeltaStream(hold_answer=hold_answer), False

    def add(self, piece: Piece | Completion) -> list[Json]:
        """Take the next piece, or the completion at the end; returns the events for them."""
        events = [] if self._started else [self._response.first_chunk(self._index)]
        self._started = True
        if isinstance(piece, Completion):
            self.completion = piece
            events += self._response.chunks(self._deltas.flush(), self._index)
            return [*events, self._response.chunk({}, FINISH_REASONS[piece.finish], index=self._index)]
        if piece.kind == "moved":
            self.logprobs.clear()
        self.logprobs += piece.logprobs
        return [*events, *self._response.chunks(self._deltas.feed(piece), self._index)]


def _reasoning_fields(text: str | None) -> Json:
    """Put reasoning under both names in use: vLLM says `reasoning`, others `reasoning_content`."""
    return {"reasoning_content": text, "reasoning": text}
