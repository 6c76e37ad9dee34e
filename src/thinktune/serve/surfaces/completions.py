"""The surface `/v1/completions`: texts that go on from prompts as they are, without a chat template.

Source: OpenAI's completions, with vLLM's `add_special_tokens`. Several prompts are answered side by side, each as it
would be alone.
"""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from thinktune.inference import Completion, Piece, Request
from thinktune.inference.requests import RawPrompt
from thinktune.serve.models import ServedModel
from thinktune.serve.neutral_fields import NeutralOnly
from thinktune.serve.openai_conversion import FINISH_REASONS, to_sampling_params, usage
from thinktune.serve.openai_schema import (
    ApiError,
    GenerationRequest,
    Json,
    NonNegativeInt,
    ResponseModel,
    TokenLimit,
    Usage,
    parse_body,
)
from thinktune.serve.reply_response import DATA_EVENTS, Replies

MAX_PROMPTS = 1024  # in a body; how many are answered at once is the admission's to say

TokenId = Annotated[int, Field(ge=0)]
Tokens = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


def _prompt_kind(value: Any) -> str:
    """Tell the forms of a prompt apart by what is given, so that a fault inside one is not said to be its form."""
    if not isinstance(value, list):
        return "str"
    first: Any = value[0] if value else ""
    return "list[str]" if isinstance(first, str) else "list[Tokens]" if isinstance(first, list) else "Tokens"


Prompts = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("list[str]")]
    | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("list[Tokens]")]
    | Annotated[Tokens, Tag("Tokens")],
    Discriminator(_prompt_kind),
]


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions; thinking is not asked for here, since no chat template is applied."""

    prompt: Prompts
    """A text, token ids, or a list of either."""
    max_tokens: TokenLimit | None = None
    echo: bool | None = None
    """Put the prompt before the text that goes on from it."""
    n: Annotated[Any, NeutralOnly((1,))] = None
    best_of: Annotated[Any, NeutralOnly((1,))] = None
    logprobs: Annotated[Any, NeutralOnly((False,))] = None
    top_logprobs: Annotated[Any, NeutralOnly((0,))] = None
    suffix: Annotated[Any, NeutralOnly()] = None
    add_special_tokens: bool | None = None
    """False leaves out what the tokenizer puts before a text, such as a start token."""


class CompletionChoice(ResponseModel):
    """The text that goes on from one prompt."""

    index: NonNegativeInt
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class TextCompletion(ResponseModel):
    """The response to POST /v1/completions without `stream`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: NonNegativeInt
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    warnings: list[str]
    """Ours: a sentence for each option of the request that was left out, because it is not supported."""


@dataclass(frozen=True, slots=True)
class ParsedCompletion:
    """A request, its prompts, and a sentence for each option that was left out because it is not supported."""

    body: CompletionRequest
    prompts: tuple[RawPrompt, ...]
    warnings: tuple[str, ...]

    @property
    def model(self) -> str | None:
        """The name of the model that is asked."""
        return self.body.model


def parse_completion(body: bytes) -> ParsedCompletion:
    """Parse a request's body; raises ApiError (400) that names every fault of it."""
    request, warnings = parse_body(CompletionRequest, body)
    given: Any = request.prompt  # one prompt, or a list of them
    several = isinstance(given, list) and isinstance(given[0], str | list)
    adds = request.add_special_tokens is not False
    prompts = [
        RawPrompt(prompt if isinstance(prompt, str) else tuple(prompt), adds)
        for prompt in (given if several else [given])
    ]
    return ParsedCompletion(request, tuple(prompts), tuple(warnings))


class CompletionSurface:
    """One request for completions, and the completion or the chunks that answer it."""

    framing = DATA_EVENTS

    def __init__(self, served_model: ServedModel, parsed: ParsedCompletion) -> None:
        self._served_model, self._parsed = served_model, parsed
        self.stream, self.warnings = bool(parsed.body.stream), parsed.warnings
        self._id, self._created = f"cmpl-{uuid.uuid4().hex}", int(time.time())

    def requests(self) -> list[Request]:
        """Return a request for each prompt; raises ApiError (400) for an echo of tokens whose text is not known."""
        body, tokenizer = self._parsed.body, self._served_model.tokenizer
        if body.echo and tokenizer is None and any(not isinstance(one.content, str) for one in self._parsed.prompts):
            raise ApiError(
                400,
                "echo: only the server that writes the replies knows the text of these tokens; give the prompt as text",
                param="echo",
            )
        limit = body.max_tokens if body.max_tokens and body.max_tokens > 0 else None
        usual = self._served_model.defaults.sampling
        return [Request((), to_sampling_params(body, limit, usual), raw=prompt) for prompt in self._parsed.prompts]

    async def bodies(self, requests: Sequence[Request], replies: Replies) -> AsyncGenerator[Json]:
        """Yield the chunks of a stream, those of several prompts as they come, or the one body of a whole response."""
        texts = [self._echo(request) for request in requests]  # not sent yet
        ended: dict[int, Completion] = {}
        warned: Json = {"warnings": [*self.warnings]} if self.warnings else {}
        async for index, piece in replies:
            match piece:
                case Completion():
                    ended[index] = piece
                    if self.stream:
                        yield self._chunk(index, texts[index], FINISH_REASONS[piece.finish]) | warned
                case Piece() if self.stream:
                    yield self._chunk(index, texts[index] + piece.text) | warned
                case Piece():
                    continue
            if self.stream:
                texts[index], warned = "", {}
        done = [ended[index] for index in range(len(requests))]
        if not self.stream:
            yield self._completion([text + reply.answer for text, reply in zip(texts, done, strict=True)], done)
        elif (options := self._parsed.body.stream_options) and options.include_usage:
            yield self._envelope([]) | {"usage": usage(*done).model_dump()}

    def refusal(self, error: ApiError) -> ApiError:
        """Return the error as it is: its fields are this API's."""
        return error

    def failure(self, error: ApiError) -> list[Json]:
        """Return the error as an event."""
        return [error.body]

    def _echo(self, request: Request) -> str:
        assert request.raw
        content = request.raw.content
        if not self._parsed.body.echo:
            return ""
        if isinstance(content, str):
            return content
        assert self._served_model.tokenizer
        return self._served_model.tokenizer.backend_tokenizer.decode(list(content), skip_special_tokens=False)

    def _completion(self, texts: Sequence[str], replies: Sequence[Completion]) -> Json:
        choices = [
            CompletionChoice(index=index, text=text, finish_reason=FINISH_REASONS[reply.finish])
            for index, (text, reply) in enumerate(zip(texts, replies, strict=True))
        ]
        return TextCompletion(
            id=self._id,
            created=self._created,
            model=self._served_model.name,
            choices=choices,
            usage=usage(*replies),
            warnings=[*self.warnings],
        ).model_dump()

    def _chunk(self, index: int, text: str, finish: str | None = None) -> Json:
        return self._envelope([{"index": index, "text": text, "finish_reason": finish, "logprobs": None}])

    def _envelope(self, choices: list[Json]) -> Json:
        kind, model = "text_completion", self._served_model.name
        return {"id": self._id, "object": kind, "created": self._created, "model": model, "choices": choices}
