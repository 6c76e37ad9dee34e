"""Requests and replies in OpenAI's form: a stranger's JSON to a Request, a Completion to what clients read."""

import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema

from thinktune.data import Turn
from thinktune.inference import ChatDefaults, Completion, Piece, Request, SamplingParams
from thinktune.inference.chat_defaults import with_system_prompt
from thinktune.inference.replies import parse_reply
from thinktune.inference.requests import FinishReason

Json = dict[str, Any]


def _reject_true(said: bool) -> bool:
    if said:
        raise ValueError("is not supported")
    return said


MAX_MESSAGES, MAX_STOP_STRINGS = 4096, 16


FINISH_REASONS: dict[FinishReason, Literal["stop", "length"]] = {"end": "stop", "stop": "stop", "length": "length"}


NO_OP_OPTIONS = (
    "n",
    "tools",
    "tool_choice",
    "response_format",
    "logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "store",
)
"""Options that are accepted where they ask for what happens anyway; any other value is refused, never ignored."""


NonEmptyText = Annotated[str, Field(min_length=1)]


Zero = Annotated[float, Field(ge=0, le=0)]


# Not Literal[False], which takes 0 as well.
AlwaysFalse = Annotated[bool, AfterValidator(_reject_true), Field(json_schema_extra={"const": False})]


EmptyList = Annotated[list[Any], Field(max_length=0)]


class ApiError(Exception):
    """A refusal as clients read it: an HTTP status, a sentence, and OpenAI's names for what is at fault."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    @property
    def body(self) -> Json:
        """The refusal in OpenAI's form."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        detail = ErrorDetail(message=str(self), type=kind, param=self.param, code=self.code)
        return ErrorResponse(error=detail).model_dump()


NonNegativeInt = Annotated[int, Field(ge=0)]


class ResponseModel(BaseModel):
    """Base of what the server sends, for its OpenAPI document too: every field is always there."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class ErrorDetail(ResponseModel):
    """A refusal in OpenAI's form."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(ResponseModel):
    """The body of every refusal."""

    error: ErrorDetail


class Health(ResponseModel):
    """The body of GET /health."""

    status: Literal["ok"] = "ok"


class ModelDefaults(ResponseModel):
    """What holds where a request does not say otherwise."""

    system: str | None
    notice: str | None
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


class ModelCard(ResponseModel):
    """A model as /v1/models lists it."""

    id: str
    object: Literal["model"] = "model"
    created: NonNegativeInt
    owned_by: str = "thinktune"
    max_model_len: int | None
    thinktune: ModelDefaults


class ModelList(ResponseModel):
    """The body of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class CompletionTokensDetails(ResponseModel):
    """Tokens of a reply by kind."""

    reasoning_tokens: NonNegativeInt


class Usage(ResponseModel):
    """Tokens of the prompt and of the reply."""

    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt
    total_tokens: NonNegativeInt
    completion_tokens_details: CompletionTokensDetails


class ReplyMessage(ResponseModel):
    """A reply: its reasoning under both names in use, and its answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str | None
    reasoning: str | None


class Choice(ResponseModel):
    """The one choice of a reply."""

    index: Literal[0] = 0
    message: ReplyMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatCompletion(ResponseModel):
    """The body that answers POST /v1/chat/completions without `stream`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: NonNegativeInt
    model: str
    choices: list[Choice]
    usage: Usage


class StrictModel(BaseModel):
    """Fields of a stranger's JSON: of the right kind, and none that we would have to ignore."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class TextPart(StrictModel):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(StrictModel):
    """One message of a conversation. An assistant's may carry its reasoning under either name."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    name: str | None = None
    # What clients send back of a reply that they have got: no more than empty.
    refusal: None = None
    tool_calls: EmptyList | None = None
    function_call: None = None
    annotations: EmptyList | None = None
    audio: None = None


class StreamOptions(StrictModel):
    """What a stream holds beside the reply's text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    allow_moved: bool | None = None
    """Ours: send text at once that may prove to be reasoning; a delta `moved: true` then says that it was."""


class TemplateOptions(StrictModel):
    """Switches of the model's own chat template."""

    enable_thinking: bool | None = None


class TextFormat(StrictModel):
    """The only form of a reply: text."""

    type: Literal["text"]


class ChatRequest(StrictModel):
    """The body of POST /v1/chat/completions; null means that the option is left out."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: str | None = None
    """None means the first model of /v1/models."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: NonEmptyText | Annotated[list[NonEmptyText], Field(max_length=MAX_STOP_STRINGS)] | None = None
    reasoning_budget: Annotated[int, Field(ge=0)] | None = None
    """Tokens after which the reasoning is closed for the model."""
    chat_template_kwargs: TemplateOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    tools: EmptyList | None = None
    tool_choice: Literal["none"] | None = None
    response_format: TextFormat | None = None
    logprobs: AlwaysFalse | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    store: AlwaysFalse | None = None
    # Accepted and without effect: they say who asks, not what is wanted.
    user: str | None = None
    metadata: dict[str, str] | None = None


def parse_request(body: bytes) -> ChatRequest:
    """The request that a body holds; raises ApiError (400) naming every fault of it."""
    try:
        request = ChatRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        told = dict.fromkeys(_explain(fault) for fault in faults)
        raise ApiError(400, "; ".join(told), param=_field_path(faults[0]) or None) from None
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
    for number, message in enumerate(request.messages):
        if message.content is None and message.role != "assistant":
            raise ApiError(400, f"messages.{number}.content: is missing", param=f"messages.{number}.content")
    if request.messages[-1].role != "user":
        raise ApiError(400, "messages: the last one must be the user's", param="messages")
    return request


def to_engine_request(chat_request: ChatRequest, defaults: ChatDefaults) -> Request:
    """What the engine is to write; what the client left open is as in the run, the system prompt too."""
    turns = with_system_prompt(defaults.system, [_turn(message) for message in chat_request.messages])
    usual, template = defaults.sampling, chat_request.chat_template_kwargs
    stops = chat_request.stop or ()
    sampling = SamplingParams(
        max_new_tokens=chat_request.max_completion_tokens or chat_request.max_tokens or usual.max_new_tokens,
        temperature=usual.temperature if chat_request.temperature is None else chat_request.temperature,
        top_p=usual.top_p if chat_request.top_p is None else chat_request.top_p,
        top_k=usual.top_k if chat_request.top_k is None else max(0, chat_request.top_k),
        seed=uuid.uuid4().int >> 66 if chat_request.seed is None else chat_request.seed,
        stop=(stops,) if isinstance(stops, str) else tuple(stops),
        max_reasoning_tokens=chat_request.reasoning_budget,
    )
    return Request(turns, sampling, thinking=not (template and template.enable_thinking is False))


@dataclass(frozen=True, slots=True)
class ResponseBuilder:
    """One reply on its way to a client: by which model, its id, and when it was asked for."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, reply: Completion) -> Json:
        """The body that answers a request without `stream`."""
        message = ReplyMessage(content=reply.answer, **_reasoning(reply.reasoning or None))
        choice = Choice(message=message, finish_reason=FINISH_REASONS[reply.finish])
        body = ChatCompletion(id=self.id, created=self.created, model=self.model, choices=[choice], usage=usage(reply))
        return body.model_dump()

    def chunk(self, delta: Json, finish: str | None = None) -> Json:
        """One event of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._chunk([choice])

    def final_chunks(self, reply: Completion, rest: Iterable[Json], options: StreamOptions | None) -> Iterator[Json]:
        """The last events: the rest, why the reply ended, and what it took where the client asked for that."""
        for delta in rest:
            yield self.chunk(delta)
        yield self.chunk({}, FINISH_REASONS[reply.finish])
        if options and options.include_usage:
            yield self._chunk([]) | {"usage": usage(reply).model_dump()}

    def _chunk(self, choices: list[Json]) -> Json:
        envelope = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return {**envelope, "choices": choices}


def usage(reply: Completion) -> Usage:
    """Count the tokens of a prompt and of its reply, the reasoning's apart."""
    return Usage(
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.tokens,
        total_tokens=reply.prompt_tokens + reply.tokens,
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=reply.reasoning_tokens),
    )


class DeltaStream:
    """Pieces to deltas. What may yet prove to be reasoning without an opening tag is held back, unless allowed.

    So `content` never holds reasoning; the price is that a model which answers without reasoning, though it was to
    reason, is heard at its end.
    """

    def __init__(self, *, hold_answer: bool) -> None:
        self._held: str | None = "" if hold_answer else None

    def feed(self, piece: Piece) -> Iterator[Json]:
        """The deltas that are certain after this piece."""
        if piece.kind == "answer" and self._held is not None:
            self._held += piece.text
            return
        held, self._held = self._held, None
        match piece.kind:
            case "moved":
                yield {"moved": True} if held is None else _reasoning(held)
            case "reasoning":
                yield _reasoning(piece.text)
            case "answer":
                yield {"content": piece.text}

    def flush(self) -> Iterator[Json]:
        """The rest, when no more will come."""
        if self._held:
            yield {"content": self._held}


def _reasoning(text: str | None) -> Json:
    """Reasoning under both names in use: vLLM says `reasoning`, others `reasoning_content`."""
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


def _field_path(fault: Mapping[str, Any]) -> str:
    """Where in the body: its own names and numbers, without pydantic's names of alternatives."""
    names = (part for part in fault["loc"] if isinstance(part, int) or re.fullmatch("[a-z_]+", part))
    return ".".join(str(name) for name in names if name != "str")


def _explain(fault: Mapping[str, Any]) -> str:
    place = _field_path(fault)
    if fault["type"] == "extra_forbidden":
        return f"{place}: is not supported here; leave it out"
    if place.partition(".")[0] in NO_OP_OPTIONS or place.rpartition(".")[2] == "tool_calls":
        return f"{place}: is not supported here; leave it out"
    return f"{place}: {fault['msg']}" if place else f"the body is no such request: {fault['msg']}"


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": meaning}
    for status, meaning in {
        400: "The body is no such request, or the conversation is too long.",
        401: "The API key is missing or wrong.",
        403: "A page of another site asked.",
        404: "There is no such model or address.",
        405: "This address takes another method.",
        408: "The body came too slowly.",
        413: "The body is too large.",
        415: "The body is not application/json.",
        421: "The Host header names another server.",
        429: "Too many requests are waiting.",
        500: "The server failed.",
        502: "The server that writes the replies is gone, fails, or refuses this one's key.",
        504: "The reply took too long.",
    }.items()
}


CHAT_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}},
    }
}


def complete_document(document: Json) -> None:
    """Correct FastAPI's OpenAPI document where FastAPI cannot know: the body that we read ourselves, the optional key."""
    schemas = document["components"]["schemas"]
    _, request = models_json_schema([(ChatRequest, "validation")], ref_template="#/components/schemas/{model}")
    schemas.update(request["$defs"])
    # FastAPI announces a refusal of its own for each parameter. Ours is any text of a path, so it never comes.
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"key": []}]
