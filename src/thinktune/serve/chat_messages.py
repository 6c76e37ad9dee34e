"""Messages of a conversation as clients send them: roles, texts, parts, and the thoughts of former replies."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from thinktune.serve.neutral_fields import MESSAGE_FIELDS_WITHOUT_EFFECT, ClientModel

MAX_MESSAGES, MAX_PARTS = 4096, 4096
NO_TOOLS = "tool calls are not supported here; turn tools off in your client, or leave them out"
THOUGHT_TYPES = ("thinking", "redacted_thinking", "reasoning")


def _refuse_tool_words(value: Any) -> Any:
    """Refuse roles and types of parts that only conversations with tools have."""
    if isinstance(value, str) and ("tool" in value or value == "function"):
        raise ValueError(NO_TOOLS)
    return value


class TextPart(ClientModel):
    """A part of a message; only text and thoughts are supported."""

    without_effect = MESSAGE_FIELDS_WITHOUT_EFFECT
    type: Annotated[Literal["text"], BeforeValidator(_refuse_tool_words)]
    text: str


class ThoughtPart(BaseModel):
    """A part of a reply that holds its thoughts, in the form of any API; what it holds besides them has no effect."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    type: Literal["thinking", "redacted_thinking", "reasoning"]
    thinking: Any = None
    reasoning: Any = None
    text: Any = None
    summary: Any = None


def _kind_of_part(part: Any) -> str:
    kind: Any = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return "ThoughtPart" if kind in THOUGHT_TYPES else "TextPart"


Part = Annotated[
    Annotated[TextPart, Tag("TextPart")] | Annotated[ThoughtPart, Tag("ThoughtPart")], Discriminator(_kind_of_part)
]

# Told apart by what is given, so that a fault in a part is not said to be a missing text.
Content = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[list[Part], Field(max_length=MAX_PARTS, fail_fast=True), Tag("list[TextPart]")],
    Discriminator(lambda content: "list[TextPart]" if isinstance(content, list) else "str"),
]


class Message(ClientModel):
    """One message of a conversation; an assistant's may carry its reasoning under any of the names in use."""

    without_effect = MESSAGE_FIELDS_WITHOUT_EFFECT
    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_refuse_tool_words)]
    content: Content | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    thinking_blocks: Any = None
    reasoning_details: Any = None
    name: str | None = None
    prefix: bool | None = None
    """DeepSeek's name for what `continue_final_message` asks for."""
    partial: bool | None = None
    """Moonshot's and DashScope's name for the same."""

    @property
    def text(self) -> str:
        """The text without the thoughts that are parts of their own."""
        content = self.content or ""
        return content if isinstance(content, str) else "".join(p.text for p in content if isinstance(p, TextPart))


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


NO_QUESTION = "messages: at least one must be from the user"
LAST_IS_NO_QUESTION = "messages: the last message must be from the user, or one of the assistant's to be continued"


def says_something(message: Message) -> bool:
    """Return True if there is any text in a message, or any thought in one of its fields."""
    thoughts = (message.reasoning_content, message.reasoning, message.thinking)
    apart = (message.thinking_blocks, message.reasoning_details)
    parts = isinstance(message.content, list) and any(part.type != "text" for part in message.content)
    return bool(message.text or any(thoughts) or any(apart) or parts)


def last_message_fault(messages: Sequence[Message], continue_final_message: bool | None) -> tuple[str, str] | None:
    """Return the field and the sentence of why no reply can follow the messages, or go on from the last; else None."""
    last = messages[-1]
    if last.role == "assistant" and not says_something(last):  # it is left out, and a question has to come before it
        return None if messages[:-1] and messages[-2].role == "user" else ("messages", LAST_IS_NO_QUESTION)
    if last.role == "assistant":
        has_question = any(message.role == "user" for message in messages)
        return None if has_question else ("messages", NO_QUESTION)
    asked = [("continue_final_message", continue_final_message)]
    asked += [(f"messages.{len(messages) - 1}.{name}", getattr(last, name)) for name in ("prefix", "partial")]
    for field, value in asked:
        if value:
            return (
                field,
                f"{field}: only a message of the assistant can be continued, and the last one is the {last.role}'s",
            )
    if last.role != "user":
        return "messages", LAST_IS_NO_QUESTION
    return None
