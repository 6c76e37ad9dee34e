"""Requests and responses in OpenAI's form, as pydantic models: what the API takes, sends and documents."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, ValidationInfo
from pydantic.json_schema import models_json_schema

from thinktune.serve.neutral_fields import (
    BINDING_FIELDS,
    MESSAGE_FIELDS_WITHOUT_EFFECT,
    NEUTRAL_REQUEST_VALUES,
    REQUEST_FIELDS_WITHOUT_EFFECT,
    ClientModel,
    Json,
    LeftOut,
    NeutralValues,
)
from thinktune.serve.thinking_controls import (
    ReasoningOptions,
    TemplateOptions,
    ThinkingControls,
    ThinkingFields,
    ThinkingSwitch,
    read_controls,
)

MAX_MESSAGES, MAX_PARTS, MAX_STOP_STRINGS = 4096, 4096, 16
NO_TOOLS = "tool calls are not supported here; switch tools off in your client, or leave them out"


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


class TextPart(ClientModel):
    """A part of a message; only text is supported."""

    without_effect = MESSAGE_FIELDS_WITHOUT_EFFECT
    type: Literal["text"]
    text: str


# Told apart by what is given, so that a fault in a part is not said to be a missing text.
Content = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True), Tag("list[TextPart]")],
    Discriminator(lambda content: "list[TextPart]" if isinstance(content, list) else "str"),
]


class Message(ClientModel):
    """One message of a conversation; an assistant's may carry its reasoning under either name."""

    without_effect = MESSAGE_FIELDS_WITHOUT_EFFECT
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    name: str | None = None


class StreamOptions(ClientModel):
    """What a stream holds besides the reply's text."""

    neutral_values: ClassVar[NeutralValues] = {"continuous_usage_stats": [False]}
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    allow_moved: bool | None = None
    """Ours: send text at once even if it may prove to be reasoning; a delta `moved: true` then says that it was."""


class ChatRequest(ThinkingFields):
    """The body of POST /v1/chat/completions; null is the same as leaving an option out."""

    without_effect = REQUEST_FIELDS_WITHOUT_EFFECT
    neutral_values = NEUTRAL_REQUEST_VALUES
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    model: str | None = None
    """None or an empty name means the first model of /v1/models."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    """Empty strings stop nothing."""
    strict: bool | None = None
    """Ours: refuse an option that is not supported, instead of leaving it out with a warning."""
    tool_choice: ToolChoice = None
    function_call: ToolChoice = None
    tools: Tools = None
    functions: Tools = None

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


class Choice(ResponseModel):
    """The only choice of a completion."""

    index: Literal[0] = 0
    message: ReplyMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


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
        404: "There is no such model or address.",
        405: "This address takes another method.",
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
CHAT_REQUEST_BODY: Json = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": SCHEMA_REF.format(model="ChatRequest")}}},
    }
}


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request, and a sentence for each option that was left out because it is not supported."""

    chat: ChatRequest
    controls: ThinkingControls
    warnings: tuple[str, ...] = ()


def parse_request(body: bytes) -> ParsedRequest:
    """Parse a request's body; raises ApiError (400) that names every fault of it."""
    try:
        request, warnings = ChatRequest.model_validate_json(body, strict=True), []
    except ValidationError as error:
        request, warnings = _without_unknown_options(body, error)
    limits = {limit for limit in (request.max_tokens, request.max_completion_tokens) if limit and limit > 0}
    if len(limits) > 1:
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give only one of them", param="max_tokens")
    for number, message in enumerate(request.messages):
        if message.content is None and message.role != "assistant":
            raise ApiError(400, f"messages.{number}.content: is missing", param=f"messages.{number}.content")
    if request.messages[-1].role != "user":
        raise ApiError(400, "messages: the last message must be the user's", param="messages")
    controls = read_controls(request)
    if controls.contradiction:
        if request.strict:
            raise ApiError(400, controls.contradiction, param=controls.contradiction.partition(":")[0])
        warnings.append(controls.contradiction)
    return ParsedRequest(request, controls, tuple(warnings))


def _without_unknown_options(body: bytes, error: ValidationError) -> tuple[ChatRequest, list[str]]:
    """Parse a body without the options that are not known; raises ApiError where anything else is wrong with it."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    request, left_out = None, LeftOut()
    if all(fault["type"] == "extra_forbidden" and fault["loc"][-1] not in BINDING_FIELDS for fault in faults):
        try:
            request = ChatRequest.model_validate_json(body, strict=True, context=left_out)
        except ValidationError as other:  # behind the first message with a fault
            faults = other.errors(include_url=False, include_input=False, include_context=False)
    if request is None or request.strict:
        messages = dict.fromkeys(_explain(fault) for fault in faults)
        raise ApiError(400, "; ".join(messages), param=_field_path(faults[0]) or None)
    warnings = [f"{_field_path(fault)}: is not supported here and was left out" for fault in faults]
    more = left_out.count - len(warnings)
    return request, [*warnings, f"and {more:,} more such fields"] if more > 0 else warnings


def complete_document(document: Json) -> None:
    """Add to FastAPI's OpenAPI document what FastAPI cannot know: the body that we read ourselves, the optional key."""
    schemas = document["components"]["schemas"]
    _, definitions = models_json_schema([(ChatRequest, "validation")], ref_template=SCHEMA_REF)
    schemas.update(definitions["$defs"])
    # FastAPI documents a refusal of its own (422) for each parameter. Ours is any text in the path, so it never comes.
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"key": []}]


FIELD_NAMES = {
    name
    for model in (ChatRequest, Message, TextPart, StreamOptions, TemplateOptions, ThinkingSwitch, ReasoningOptions)
    for name in model.model_fields
}
MAX_NAME_CHARACTERS = 100  # of a client's own field in a refusal


def _field_path(fault: Mapping[str, Any]) -> str:
    """Return the path of a faulty field in the body, without pydantic's names of a union's alternatives."""
    location: tuple[int | str, ...] = fault["loc"]
    known = [str(part) for part in location if isinstance(part, int) or part in FIELD_NAMES]
    if fault["type"] == "extra_forbidden":  # the last name is the client's own, whatever it is
        return ".".join([*known[: len(known) - (location[-1] in FIELD_NAMES)], str(location[-1])[:MAX_NAME_CHARACTERS]])
    return ".".join(known)


def _explain(fault: Mapping[str, Any]) -> str:
    path = _field_path(fault)
    if path.rpartition(".")[2] in ("tools", "functions", "tool_choice", "tool_calls", "function_call"):
        return f"{path}: {NO_TOOLS}"
    if fault["type"] != "extra_forbidden":
        return f"{path}: {fault['msg']}" if path else f"the body is not a chat request: {fault['msg']}"
    if neutral := NEUTRAL_REQUEST_VALUES.get(path):
        return f"{path}: only {' or '.join(map(json.dumps, neutral))} is supported here; leave it out"
    return f"{path}: is not supported here; leave it out"
