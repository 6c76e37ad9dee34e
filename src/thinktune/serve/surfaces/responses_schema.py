"""Requests and responses of `/v1/responses` in OpenAI's form, and such a request as a chat request.

So all that a chat request may ask for can be asked for here, with one meaning. A conversation comes whole with each
request, and reasoning items carry the thoughts of earlier replies; an item of a former output may be named by its id.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError
from pydantic_core import PydanticCustomError

from thinktune.serve.chat_messages import MAX_MESSAGES, MAX_PARTS, NO_TOOLS
from thinktune.serve.neutral_fields import (
    MESSAGE_FIELDS_WITHOUT_EFFECT,
    NEUTRAL_REQUEST_VALUES,
    REQUEST_FIELDS_WITHOUT_EFFECT,
    ClientModel,
    Json,
    NeutralOnly,
    NeutralValues,
)
from thinktune.serve.openai_schema import (
    ApiError,
    ChatRequest,
    GenerationRequest,
    NonNegativeInt,
    ParsedRequest,
    ResponseModel,
    TokenLimit,
    parse_body,
    read_chat,
    refusal_of,
)
from thinktune.serve.surfaces.kept_items import KeptItems
from thinktune.serve.thinking_controls import ThinkingFields

NOTHING_STORED = "nothing is stored here; send the whole conversation in input"
MAX_NAMED_CHARACTERS = 4_000_000  # as a body may have: one item can be named many times
NOT_KEPT = "no item with this id is stored here any more; send the item itself (store: false makes most clients do so)"
LOG_PROBABILITIES, ENCRYPTED_REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"

# The chat request's names, and what the same is called here.
NAMES = {"messages": "input", "response_format": "text.format", "max_completion_tokens": "max_output_tokens"}


class TextPart(ClientModel):
    """A part of a message; only text is supported."""

    without_effect = MESSAGE_FIELDS_WITHOUT_EFFECT | {"prompt_cache_breakpoint"}
    type: Literal["input_text", "output_text", "text"]
    text: str


class InputMessage(ClientModel):
    """A message of the conversation."""

    without_effect = MESSAGE_FIELDS_WITHOUT_EFFECT
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag("str")]
        | Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True), Tag("list[TextPart]")],
        Discriminator(lambda content: "list[TextPart]" if isinstance(content, list) else "str"),
    ]

    @property
    def text(self) -> str:
        """The content's text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ThoughtPart(ClientModel):
    """A part of a reasoning item."""

    without_effect = MESSAGE_FIELDS_WITHOUT_EFFECT
    type: Literal["reasoning_text", "summary_text"]
    text: str


Thoughts = Annotated[list[ThoughtPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class ReasoningItem(ClientModel):
    """The reasoning of the assistant's message that follows."""

    without_effect = MESSAGE_FIELDS_WITHOUT_EFFECT
    type: Literal["reasoning"]
    content: Thoughts | None = None
    summary: Thoughts | None = None

    @property
    def text(self) -> str:
        """The reasoning, or what its writer says of it instead."""
        return "".join(part.text for part in self.content or self.summary or [])


class ItemReference(ClientModel):
    """An item of a former output, named by its id."""

    without_effect = MESSAGE_FIELDS_WITHOUT_EFFECT - {"id"}
    type: Literal["item_reference"]
    id: str


def _refuse_other_items(value: Any) -> Any:
    kind: Any = value.get("type") if isinstance(value, dict) else None
    match kind:
        case None | "message" | "reasoning" | "item_reference":
            return value
        case str() if kind.endswith(("_call", "_call_output", "_tools", "_request", "_response")):
            raise PydanticCustomError("tools", NO_TOOLS)
        case _:
            raise PydanticCustomError("items", "only items of type message and reasoning are supported here")


def _item_class(item: Any) -> str:
    kind: Any = item.get("type") if isinstance(item, dict) else None
    return {"reasoning": "ReasoningItem", "item_reference": "ItemReference"}.get(str(kind), "InputMessage")


InputItem = Annotated[
    Annotated[InputMessage, Tag("InputMessage")]
    | Annotated[ReasoningItem, Tag("ReasoningItem")]
    | Annotated[ItemReference, Tag("ItemReference")],
    Discriminator(_item_class),
    BeforeValidator(_refuse_other_items),
]


class TextOptions(ClientModel):
    """The form of the answer."""

    neutral_values: ClassVar[NeutralValues] = {"verbosity": ["medium"]}
    format: dict[str, Any] | None = None


def _refuse_stored(value: Any) -> Any:
    if value:
        raise PydanticCustomError("stored", NOTHING_STORED)
    return value


Stored = Annotated[Any, BeforeValidator(_refuse_stored)]


class ResponsesRequest(GenerationRequest, ThinkingFields):
    """The body of POST /v1/responses."""

    without_effect = REQUEST_FIELDS_WITHOUT_EFFECT | {"max_tool_calls", "prompt_cache_options"}
    neutral_values: ClassVar[NeutralValues] = {
        **NEUTRAL_REQUEST_VALUES,
        "truncation": ["disabled", "auto"],  # a conversation that is too long is refused by name
        "moderation": [{}],
    }
    input: Annotated[
        Annotated[str, Tag("str")]
        | Annotated[
            list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), Tag("list[InputItem]")
        ],
        Discriminator(lambda items: "list[InputItem]" if isinstance(items, list) else "str"),
    ]
    instructions: str | None = None
    """A system prompt; an empty one removes the run's own."""
    max_output_tokens: TokenLimit | None = None
    text: TextOptions | None = None
    include: Annotated[list[str], Field(max_length=64, fail_fast=True)] | None = None
    metadata: Any = None
    """Sent back with the response."""
    store: Any = None
    """False keeps no item of the output."""
    background: Annotated[Any, NeutralOnly((False,))] = None
    n: Annotated[Any, NeutralOnly((1,))] = None
    logprobs: Annotated[Any, NeutralOnly((False,))] = None
    top_logprobs: Annotated[Any, NeutralOnly((0,))] = None
    previous_response_id: Stored = None
    conversation: Stored = None
    prompt: Stored = None


class SummaryPart(ResponseModel):
    """A part of a summary; none is written here."""

    type: Literal["summary_text"] = "summary_text"
    text: str


class ReasoningPart(ResponseModel):
    """The text of a reply's reasoning."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class AnswerPart(ResponseModel):
    """The text of a reply's answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Json] = Field(default_factory=list[Json])
    logprobs: list[Json] = Field(default_factory=list[Json])


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class ReasoningOutput(ResponseModel):
    """A reply's reasoning, as an item of the output."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    status: ItemStatus
    summary: list[SummaryPart] = Field(default_factory=list[SummaryPart])
    content: list[ReasoningPart]
    encrypted_content: None = None


class MessageOutput(ResponseModel):
    """A reply's answer, as an item of the output."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[AnswerPart]


class InputTokensDetails(ResponseModel):
    """Tokens of the prompt by kind; no prompt is cached."""

    cached_tokens: Literal[0] = 0
    cache_write_tokens: Literal[0] = 0


class OutputTokensDetails(ResponseModel):
    """Tokens of the reply by kind."""

    reasoning_tokens: NonNegativeInt


class ResponsesUsage(ResponseModel):
    """Tokens of the prompt and of the reply."""

    input_tokens: NonNegativeInt
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: NonNegativeInt
    output_tokens_details: OutputTokensDetails
    total_tokens: NonNegativeInt


class ResponseFault(ResponseModel):
    """Why a response has failed."""

    code: str
    message: str


class IncompleteDetails(ResponseModel):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseBody(ResponseModel):
    """The response to POST /v1/responses without `stream`, and what the events of a stream hold of it."""

    id: str
    object: Literal["response"] = "response"
    created_at: NonNegativeInt
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False] = False
    error: ResponseFault | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    model: str
    output: list[ReasoningOutput | MessageOutput]
    parallel_tool_calls: Literal[False] = False
    previous_response_id: None = None
    reasoning: dict[str, str | None]
    store: Literal[False] = False
    temperature: float
    text: dict[str, Any]
    tool_choice: Literal["none"] = "none"
    tools: list[Json] = Field(default_factory=list[Json])
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponsesUsage | None
    warnings: list[str]
    """Ours: a sentence for each option of the request that was left out, because it is not supported."""


@dataclass(frozen=True, slots=True)
class ParsedResponses:
    """A request, and the same as a chat request."""

    body: ResponsesRequest
    chat: ParsedRequest

    @property
    def model(self) -> str | None:
        """The name of the model that is asked."""
        return self.body.model


def parse_responses(body: bytes, kept: KeptItems | None = None) -> ParsedResponses:
    """Parse a request's body, which may name items that are kept; raises ApiError (400) that names its faults."""
    request, warnings = parse_body(ResponsesRequest, body)
    warnings += _left_out_of_the_output(request)
    options = {
        name: getattr(request, name)
        for name in ChatRequest.model_fields
        if name in request.model_fields_set and name in ResponsesRequest.model_fields
    }
    answer_format = _response_format(request)
    formatted = {"response_format": answer_format} if answer_format else {}
    try:
        chat = ChatRequest.model_validate(
            {
                **options,
                **formatted,
                "messages": list(_messages(request, _named_items(request, kept or KeptItems()))),
                "max_completion_tokens": request.max_output_tokens,
            }
        )
        return ParsedResponses(request, read_chat(chat, warnings))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise in_our_names(refusal_of(faults, ChatRequest)) from None
    except ApiError as error:
        raise in_our_names(error) from None


def in_our_names(error: ApiError) -> ApiError:
    """Say an error of a chat request in the names of this API's fields."""
    field = (error.param or "").partition(".")[0]
    if field not in NAMES:
        return error
    message, param = str(error), error.param or ""
    message = NAMES[field] + message.removeprefix(field) if message.startswith(field) else message
    return ApiError(error.status, message, code=error.code, param=NAMES[field] + param.removeprefix(field))


def _left_out_of_the_output(request: ResponsesRequest) -> list[str]:
    """Return a warning for what `include` asks of the output and no reply has.

    Raises ApiError for log probabilities, and with `strict` for what a warning would say.
    """
    asked = request.include or []
    if LOG_PROBABILITIES in asked:
        raise ApiError(400, f"include: {LOG_PROBABILITIES} is not supported here; leave it out", param="include")
    if ENCRYPTED_REASONING not in asked:
        return []  # all else is about tools, and none are called
    if request.strict:
        raise ApiError(400, f"include: {ENCRYPTED_REASONING} is not supported here; leave it out", param="include")
    return [f"include: {ENCRYPTED_REASONING} is not supported here; the reasoning is sent as it is"]


def _response_format(request: ResponsesRequest) -> Json | None:
    """Return `text.format` as a chat request has it, None for plain text."""
    asked = (request.text and request.text.format) or {"type": "text"}
    if asked.get("type") == "text":
        return None
    if asked.get("type") != "json_schema":
        return asked
    schema = {name: value for name, value in asked.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _named_items(request: ResponsesRequest, kept: KeptItems) -> list[InputMessage | ReasoningItem]:
    """Return the conversation with the items themselves in place of their ids."""
    given = request.input
    items: list[InputMessage | ReasoningItem] = []
    characters = 0
    for number, item in enumerate([InputMessage(role="user", content=given)] if isinstance(given, str) else given):
        if not isinstance(item, ItemReference):
            items.append(item)
            continue
        found = kept.find(item.id)
        if found is None:
            raise ApiError(400, f"input.{number}: {NOT_KEPT}", param=f"input.{number}")
        kind, text = found
        characters += len(text)
        if characters > MAX_NAMED_CHARACTERS:
            sentence = f"the items named by id have over {MAX_NAMED_CHARACTERS:,} characters together; name fewer"
            raise ApiError(400, f"input: {sentence}", param="input")
        if kind == "reasoning":
            items.append(ReasoningItem(type=kind, content=[ThoughtPart(type="reasoning_text", text=text)]))
        else:
            items.append(InputMessage(type=kind, role="assistant", content=text))
    return items


def _messages(request: ResponsesRequest, given: Sequence[InputMessage | ReasoningItem]) -> Iterator[Json]:
    """Yield the conversation as chat messages.

    The instructions and the system messages that follow them are one: templates take one, at the start. A thought
    without an answer is that of a reply that was cut.
    """
    items = [*given]
    if request.instructions is not None:
        system = [request.instructions]
        while items and isinstance(first := items[0], InputMessage) and first.role in ("system", "developer"):
            system.append(first.text)
            items.pop(0)
        yield {"role": "system", "content": "\n\n".join(filter(None, system))}
    thoughts: list[str] = []
    for item in items:
        if isinstance(item, ReasoningItem):
            thoughts.append(item.text)
            continue
        thought, thoughts = "\n\n".join(filter(None, thoughts)), []
        if thought and item.role != "assistant":
            yield {"role": "assistant", "content": "", "reasoning_content": thought}
        reasoning = {"reasoning_content": thought} if thought and item.role == "assistant" else {}
        yield {"role": item.role, "content": item.text, **reasoning}
    if any(thoughts):
        yield {"role": "assistant", "content": "", "reasoning_content": "\n\n".join(filter(None, thoughts))}
