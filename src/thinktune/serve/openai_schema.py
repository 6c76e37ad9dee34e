"""Requests and responses in OpenAI's form, as pydantic models: what the API takes, sends and documents."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic.json_schema import models_json_schema

from thinktune.errors import UserError
from thinktune.inference.sampling.grammar import Grammar
from thinktune.serve.chat_messages import NO_TOOLS, Messages, last_message_fault
from thinktune.serve.conversations import to_turns
from thinktune.serve.neutral_fields import (
    BINDING_FIELDS,
    NEUTRAL_REQUEST_VALUES,
    REQUEST_FIELDS_WITHOUT_EFFECT,
    ClientModel,
    Json,
    LeftOut,
    NeutralValues,
)
from thinktune.serve.response_format import FormFields, read_grammar
from thinktune.serve.sampling_fields import SamplingFields
from thinktune.serve.thinking_controls import ThinkingControls, ThinkingFields, read_controls
from thinktune.tokenization.tags import Tags

MAX_STOP_STRINGS = 16


NonNegativeInt = Annotated[int, Field(ge=0)]
TokenLimit = Annotated[int, Field(ge=-1)]  # -1 and 0 are how some clients say: no limit of mine


def _refuse_tool_choice(value: Any) -> Any:
    if value and value not in ("none", "auto"):
        raise ValueError(NO_TOOLS)
    return value


def _refuse_tools(value: Any, info: ValidationInfo) -> Any:
    if value and "none" not in (info.data.get("tool_choice"), info.data.get("function_call")):
        raise ValueError(NO_TOOLS)
    return value


ToolChoice = Annotated[Any, AfterValidator(_refuse_tool_choice)]
Tools = Annotated[Any, AfterValidator(_refuse_tools)]


class ApiError(Exception):
    """A refusal: an HTTP status, a sentence, and OpenAI's names for the fault (`code`, `param`)."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    @property
    def body(self) -> Json:
        """The refusal as the JSON body that OpenAI's clients read."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        detail = ErrorDetail(message=str(self), type=kind, param=self.param, code=self.code)
        return ErrorResponse(error=detail).model_dump()


class StreamOptions(ClientModel):
    """What a stream holds besides the reply's text."""

    neutral_values: ClassVar[NeutralValues] = {"continuous_usage_stats": [False]}
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    allow_moved: bool | None = None
    """Ours: send text at once even if it may prove to be reasoning; a delta `moved: true` then says that it was."""


class GenerationRequest(SamplingFields):
    """Options that the bodies of all surfaces share; null is the same as leaving an option out."""

    without_effect = REQUEST_FIELDS_WITHOUT_EFFECT
    neutral_values = NEUTRAL_REQUEST_VALUES
    model: str | None = None
    """None or an empty name means the first model of /v1/models."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    """Empty strings stop nothing."""
    strict: bool | None = None
    """Ours: refuse an option that is not supported, instead of leaving it out with a warning."""
    tool_choice: ToolChoice = None
    function_call: ToolChoice = None
    tools: Tools = None
    functions: Tools = None


class ChatRequest(GenerationRequest, FormFields, ThinkingFields):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    continue_final_message: bool | None = None
    """The reply goes on from the last message, the assistant's; it does so by itself if that is the last one."""
    add_generation_prompt: bool | None = None

    @property
    def token_limit(self) -> int | None:
        """The client's own limit of a reply's tokens."""
        return next((limit for limit in (self.max_completion_tokens, self.max_tokens) if limit and limit > 0), None)


class ResponseModel(BaseModel):
    """Base of what the server sends; every field is always present."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class ErrorDetail(ResponseModel):
    """A refusal: a sentence, and OpenAI's names for the fault."""

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


class Version(ResponseModel):
    """The body of GET /version."""

    version: str


class ServedFrom(ResponseModel):
    """The run, model folder or endpoint that a model is served from."""

    id: str
    """The same whenever the same is served, after a restart or on another port, too."""
    name: str


class ModelDefaults(ResponseModel):
    """Values that apply where a request leaves an option out."""

    system: str | None
    notice: str | None
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int


class ModelCard(ResponseModel):
    """One model of /v1/models."""

    id: str
    object: Literal["model"] = "model"
    created: NonNegativeInt
    owned_by: str = "thinktune"
    max_model_len: int | None
    thinktune: ModelDefaults
    served_from: ServedFrom | None


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
    """A whole reply: its reasoning under both names in use, and its answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str | None
    reasoning: str | None


class TopLogprob(ResponseModel):
    """A token that could have been drawn: its text, log probability and bytes (null if unknown)."""

    token: str
    logprob: float
    bytes: list[int] | None


class AnswerLogprob(TopLogprob):
    """A token of `content`, and the likeliest tokens in its place, the likeliest first."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(ResponseModel):
    """The log probabilities of the tokens of `content`; those of reasoning and end are not in it."""

    content: list[AnswerLogprob]
    refusal: None = None


class Choice(ResponseModel):
    """One choice of a completion."""

    index: NonNegativeInt = 0
    message: ReplyMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChoiceLogprobs | None = None


class ChatCompletion(ResponseModel):
    """The response to POST /v1/chat/completions without `stream`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: NonNegativeInt
    model: str
    choices: list[Choice]
    usage: Usage
    warnings: list[str]
    """Ours: a sentence for each option of the request that was left out, because it is not supported."""


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": meaning}
    for status, meaning in {
        400: "The body is not a valid request, or the conversation is too long.",
        401: "The API key is missing or wrong.",
        403: "The request comes from a page of another site.",
        404: "Model or address not found.",
        405: "This address needs another method.",
        408: "The body arrived too slowly.",
        413: "The body is too large.",
        415: "The body is not application/json.",
        421: "The Host header names another server.",
        429: "Too many requests are waiting.",
        500: "The server failed.",
        502: "The server that writes the replies is gone, fails, or refuses this server's key.",
        504: "The reply took too long.",
    }.items()
}


SCHEMA_REF = "#/components/schemas/{model}"
Body = TypeVar("Body", bound=GenerationRequest)


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request, and a sentence for each option that was left out because it is not supported."""

    chat: ChatRequest
    controls: ThinkingControls
    warnings: tuple[str, ...] = ()
    grammar: Grammar | None = None

    @property
    def model(self) -> str | None:
        """The name of the model that is asked."""
        return self.chat.model


def parse_request(body: bytes) -> ParsedRequest:
    """Parse the body of a chat request; raises ApiError (400) that names every fault of it."""
    return read_chat(*parse_body(ChatRequest, body))


def parse_body(model: type[Body], body: bytes) -> tuple[Body, list[str]]:
    """Parse a request's body, and warn of each option that is left out because it is not supported.

    Raises ApiError (400) that names every fault of it.
    """
    try:
        return model.model_validate_json(body, strict=True), []
    except ValidationError as error:
        return _without_unknown_options(model, body, error)


def read_chat(request: ChatRequest, warnings: Sequence[str]) -> ParsedRequest:
    """Read what a chat request asks for; raises ApiError (400) where its parts do not agree."""
    warnings = [*warnings]
    limits = {limit for limit in (request.max_tokens, request.max_completion_tokens) if limit and limit > 0}
    if len(limits) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give only one of them", param="max_tokens")
    if request.top_logprobs and not request.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs: true; add it", param="top_logprobs")
    for number, message in enumerate(request.messages):
        if message.content is None and message.role != "assistant":
            raise ApiError(400, f"messages.{number}.content: is missing", param=f"messages.{number}.content")
    if fault := last_message_fault(request.messages, request.continue_final_message):
        raise ApiError(400, fault[1], param=fault[0])
    controls = read_controls(request)
    contradictions = (controls.contradiction, _end_contradiction(request), _mode_contradiction(request, controls))
    for contradiction in filter(None, contradictions):
        if request.strict:
            raise ApiError(400, contradiction, param=contradiction.partition(":")[0])
        warnings.append(contradiction)
    try:
        grammar = read_grammar(request, is_strict=bool(request.strict))
    except UserError as error:
        raise ApiError(400, str(error), param=str(error).partition(":")[0]) from None
    if grammar and request.messages[-1].role == "assistant":
        sentence = "has a whole answer, but the last message has already begun one; leave one of them out"
        raise ApiError(400, f"{grammar.field}: {sentence}", param=grammar.field)
    return ParsedRequest(request, controls, tuple(warnings), grammar)


def _mode_contradiction(request: ChatRequest, controls: ThinkingControls) -> str | None:
    """Return a sentence where a field names another mode than that of the reply that goes on."""
    if request.messages[-1].role != "assistant" or controls.named_by is None:
        return None
    turns, open_turn = to_turns(request.messages[-1:], Tags())
    if open_turn is None or (thinks := open_turn.part == "reasoning" or turns[-1].has_reasoning) == controls.thinking:
        return None
    word = "on" if thinks else "off"
    return f"{controls.named_by}: thinking is {word}, as in the last message, which the reply continues"


def _end_contradiction(request: ChatRequest) -> str | None:
    """Return a sentence where vLLM's options for the end of a conversation contradict its last message."""
    if request.messages[-1].role == "assistant":
        if request.continue_final_message is False:
            return (
                "continue_final_message: is false, but the last message is the assistant's, which the reply continues"
            )
    elif request.add_generation_prompt is False:
        return "add_generation_prompt: is not supported here and was left out"
    return None


def _without_unknown_options(model: type[Body], body: bytes, error: ValidationError) -> tuple[Body, list[str]]:
    """Parse a body without the options that are not known; raises ApiError where anything else is wrong with it."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    request, left_out = None, LeftOut()
    if all(fault["type"] == "extra_forbidden" and fault["loc"][-1] not in BINDING_FIELDS for fault in faults):
        try:
            request = model.model_validate_json(body, strict=True, context=left_out)
        except ValidationError as other:  # behind the first message with a fault
            faults = other.errors(include_url=False, include_input=False, include_context=False)
    if request is None or request.strict:
        raise refusal_of(faults, model)
    warnings = [f"{_field_path(fault, model)}: is not supported here and was left out" for fault in faults]
    more = left_out.count - len(warnings)
    return request, [*warnings, f"and {more:,} more such fields"] if more > 0 else warnings


def refusal_of(faults: Sequence[Mapping[str, Any]], model: type[ClientModel]) -> ApiError:
    """Return the refusal that names pydantic's faults of a body."""
    sentences = dict.fromkeys(_explain(fault, model) for fault in faults)
    return ApiError(400, "; ".join(sentences), param=_field_path(faults[0], model) or None)


def describe_body(model: type[BaseModel]) -> Json:
    """Return what FastAPI adds to an operation for the body that we read ourselves."""
    schema = {"$ref": SCHEMA_REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def complete_document(document: Json, models: Sequence[type[BaseModel]]) -> None:
    """Add to FastAPI's OpenAPI document what it cannot know: the bodies that we read ourselves, the optional key."""
    schemas = document["components"]["schemas"]
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=SCHEMA_REF)
    schemas.update(definitions["$defs"])
    # FastAPI documents a refusal of its own (422) for each parameter. Ours is any text in the path, so it never comes.
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"key": []}]


MAX_NAME_CHARACTERS = 100  # of a client's own field in a refusal


@cache
def _field_names(model: type[ClientModel]) -> frozenset[str]:
    _, definitions = models_json_schema([(model, "validation")])
    return frozenset(name for schema in definitions["$defs"].values() for name in schema.get("properties", {}))


def _field_path(fault: Mapping[str, Any], model: type[ClientModel]) -> str:
    """Return the path of a faulty field in the body, without pydantic's names of a union's alternatives."""
    location: tuple[int | str, ...] = fault["loc"]
    names = _field_names(model)
    known = [str(part) for part in location if isinstance(part, int) or part in names]
    if fault["type"] == "extra_forbidden":  # the last name is the client's own, whatever it is
        return ".".join([*known[: len(known) - (location[-1] in names)], str(location[-1])[:MAX_NAME_CHARACTERS]])
    return ".".join(known)


def _explain(fault: Mapping[str, Any], model: type[ClientModel]) -> str:
    path = _field_path(fault, model)
    if path.rpartition(".")[2] in ("tools", "functions", "tool_choice", "tool_calls", "function_call"):
        return f"{path}: {NO_TOOLS}"
    if fault["type"] == "value_error":  # a sentence of our own
        return f"{path}: {fault['msg'].removeprefix('Value error, ')}"
    if fault["type"] != "extra_forbidden":
        return f"{path}: {fault['msg']}" if path else f"the body is not a valid request: {fault['msg']}"
    if neutral := model.neutral_values.get(path):
        return f"{path}: only {' or '.join(map(json.dumps, neutral))} is supported here; leave it out"
    return f"{path}: is not supported here; leave it out"
