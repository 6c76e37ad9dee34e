"""Requests and responses of `/v1/messages` in Anthropic's form, and such a request as a chat request.

So all that a chat request may ask for can be asked for here, with one meaning, and one table of neutral fields counts.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from thinktune.http.errors import ResponseModel
from thinktune.serve.openai_schema import MAX_STOP_STRINGS, Json, NonNegativeInt, ParsedRequest, TokenLimit
from thinktune.serve.surfaces.chat_shims import ShimRequest, as_chat, parse_shim

# The chat request's names, and what the same is called here.
NAMES = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
}

# Who asks, where, and how fast; no field of these changes the text.
WITHOUT_EFFECT = (
    *("anthropic_version", "anthropic_beta", "betas", "diagnostics", "inference_geo", "speed", "workspace_id"),
    "user_profile_id",
)

UNSIGNED = "unsigned"  # of every thinking block; clients want a signature, and it proves nothing here


def _kind(content: Any) -> str:
    """Tell the forms of a text apart by what is given, so that a fault in a part is not said to be its form."""
    return "list" if isinstance(content, list) else "str"


class InputMessage(BaseModel):
    """A message of the conversation; its parts are text and former thoughts."""

    model_config = ConfigDict(extra="allow")
    role: Literal["user", "assistant", "system"]
    content: Annotated[Annotated[str, Tag("str")] | Annotated[list[Json], Tag("list")], Discriminator(_kind)]


class SystemPart(BaseModel):
    """A part of the system prompt."""

    model_config = ConfigDict(extra="allow")
    type: Literal["text"]
    text: str


class ToolChoice(BaseModel):
    """Which tool may be called."""

    model_config = ConfigDict(extra="allow")
    type: Literal["auto", "any", "tool", "none"]


class OutputConfig(BaseModel):
    """How hard to think, and the form of the answer."""

    model_config = ConfigDict(extra="allow")
    effort: str | None = None
    format: Json | None = None


class MessagesRequest(ShimRequest):
    """The body of POST /v1/messages; null is the same as leaving an option out."""

    messages: Annotated[list[InputMessage], Field(min_length=1)]
    model: str | None = None
    max_tokens: TokenLimit | None = None
    """The run's own limit if left out."""
    system: (
        Annotated[Annotated[str, Tag("str")] | Annotated[list[SystemPart], Tag("list")], Discriminator(_kind)] | None
    ) = None
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None
    output_format: Json | None = None


class ThinkingBlock(ResponseModel):
    """The reasoning of a reply."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = UNSIGNED


class TextBlock(ResponseModel):
    """The answer of a reply."""

    type: Literal["text"] = "text"
    text: str


class OutputTokensDetails(ResponseModel):
    """Tokens of a reply by kind."""

    thinking_tokens: NonNegativeInt


class MessageUsage(ResponseModel):
    """Tokens of the prompt and of the reply."""

    input_tokens: NonNegativeInt
    output_tokens: NonNegativeInt
    cache_creation_input_tokens: Literal[0] = 0
    cache_read_input_tokens: Literal[0] = 0
    output_tokens_details: OutputTokensDetails


class MessageBody(ResponseModel):
    """The response to POST /v1/messages without `stream`."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ThinkingBlock | TextBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence"] | None
    stop_sequence: str | None
    usage: MessageUsage
    warnings: list[str]
    """Ours: a sentence for each option of the request that was left out, because it is not supported."""


class TokenCount(ResponseModel):
    """The response to POST /v1/messages/count_tokens."""

    input_tokens: NonNegativeInt


class AnthropicErrorDetail(ResponseModel):
    """The kind of a refusal, and its sentence."""

    type: str
    message: str


class AnthropicErrorResponse(ResponseModel):
    """The body of a refusal."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: None


def parse_messages(body: bytes) -> ParsedRequest:
    """Parse a body as a chat request; raises ApiError (400) that names its faults."""
    request = parse_shim(MessagesRequest, body)
    fields = request.model_dump(exclude_unset=True)
    for name in WITHOUT_EFFECT:
        fields.pop(name, None)
    system = request.system
    fields.pop("system", None)
    if isinstance(system, list):
        system = "".join(part.text for part in system)
    if stops := fields.pop("stop_sequences", None):
        fields["stop"] = stops
    if choice := fields.pop("tool_choice", None):
        fields["tool_choice"] = choice["type"] if choice["type"] in ("auto", "none") else "required"
    output = fields.pop("output_config", None) or {}
    form = output.pop("format", None) or fields.pop("output_format", None)
    fields.pop("output_format", None)
    if effort := output.pop("effort", None):
        fields.setdefault("reasoning_effort", effort)
    if form:
        fields["response_format"] = _response_format(form)
    if output:
        fields["output_config"] = output
    return as_chat(fields | _thinking(fields.get("thinking")), NAMES, system)


def _response_format(form: Json) -> Json:
    """Return a JSON schema's form as a chat request has it; another kind is judged there."""
    if form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": form.get("schema"), "strict": True}}


def _thinking(switch: Any) -> Json:
    """Return what the object `thinking` says in words that are Anthropic's alone."""
    if not isinstance(switch, dict):
        return {}
    hidden: Json = {"include_reasoning": False} if switch.get("display") == "omitted" else {}
    if switch.get("type") == "between_tools":  # there are none, so that it says nothing
        return {"thinking": None, **hidden}
    return hidden
