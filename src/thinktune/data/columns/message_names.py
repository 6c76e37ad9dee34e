"""Names that messages go by: the meaning of their keys, and of the roles that speak in them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from thinktune.data.columns.literals import read_literal
from thinktune.tokenization.conversation import Role

# A message of role "reasoning" holds the reasoning of the assistant's message after it.
Speaker = Role | Literal["reasoning"]


REASONING_KEYS = (
    *("reasoning", "reasoning_content", "think", "thinking", "thought", "thoughts", "complex_cot", "cot"),
    *("chain_of_thought", "rationale", "thinking_content", "think_content", "thought_process", "reasoning_process"),
    *("思考", "思考过程", "推理", "推理过程", "思维链"),
    *("inner_thought", "inner_thoughts", "inner_monologue", "reasoning_text", "reasoning_trace", "reasoning_steps"),
    *(
        "thinking_trajectory",
        "thinking_trajectories",
        "thinking_process",
        "cot_content",
        "推理步骤",
        "思考内容",
        "内心独白",
    ),
)


USER_NAMES = (
    *("user", "human", "prompter", "questioner", "seeker", "patient", "customer", "client", "q"),
    *("question", "query"),
    *("用户", "人类", "提问者", "提问", "问", "患者", "病人", "客户", "顾客", "来访者", "求助者", "咨询者", "当事人"),
)


ASSISTANT_NAMES = (
    *("assistant", "gpt", "chatgpt", "bot", "model", "ai", "chatbot", "moss", "supporter", "doctor", "agent"),
    *("counselor", "counsellor", "therapist", "lawyer", "a", "answer", "response"),
    *("助手", "助理", "机器人", "模型", "回答者", "答", "医生", "大夫", "客服", "咨询师", "心理咨询师", "律师"),
)


ROLE_ALIASES: dict[str, Speaker] = {
    **dict.fromkeys(USER_NAMES, "user"),
    **dict.fromkeys(ASSISTANT_NAMES, "assistant"),
    **dict.fromkeys(("system", "developer", "系统"), "system"),
    **dict.fromkeys(REASONING_KEYS, "reasoning"),
}


TOOL_ROLES = ("tool", "tools", "tool_call", "tool_response", "tool_result", "function", "function_call", "observation")


# The meaning of a message's keys where it has a role or is one of several turns.
MESSAGE_KEYS = {
    **dict.fromkeys(("role", "from"), "role"),
    **dict.fromkeys(("content", "value"), "content"),
    **dict.fromkeys(REASONING_KEYS, "reasoning"),
    **dict.fromkeys(("loss_weight", "weight", "loss", "loss_scale", "train", "output_with_loss"), "weight"),
    **dict.fromkeys(("enable_thinking", "thinking_mode", "chat_template_kwargs"), "mode"),
    **dict.fromkeys(("tool_calls", "tool_call", "function_call"), "tools"),
    "channel": "channel",
}


# Keys that hold a speaker's whole text, in messages that name no role: {human, assistant}, {input, output} …
SPEAKER_KEYS: dict[str, str] = {
    # `model` beside a text says which model wrote it.
    **{name: speaker for name, speaker in ROLE_ALIASES.items() if speaker != "reasoning" and name != "model"},
    **dict.fromkeys(("input", "question", "query", "prompt", "instruction", "问题", "输入", "指令"), "user"),
    **dict.fromkeys(
        ("output", "answer", "response", "reply", "completion", "答案", "回答", "回复", "输出"), "assistant"
    ),
    "system_prompt": "system",
}


# Keys that hold a message's text in files that have none of the usual ones; preferred names first.
CONTENT_KEYS = ("text", "message", "utterance", "body", "msg", "sentence", "内容", "文本", "消息")


# Keys that say who speaks, in files where the names of the speakers are unknown as well.
ROLE_KEYS = (
    "speaker",
    "author",
    "sender",
    "name",
    "who",
    "speaker_name",
    "role_name",
    "说话人",
    "发言人",
    "角色",
    "身份",
)


_TURN_KEY = re.compile(r"(?:turn|round|轮)?_?\d{1,4}")


# What programs write for a missing value; only a whole field that says this counts as null.
NULL_SPELLINGS = frozenset(("None", "null", "Null", "NULL", "nan", "NaN", "NAN", "N/A", "n/a", "<NA>"))


@lru_cache(maxsize=4096)
def normalize_key(name: str) -> str:
    """Return a key or column name in lower case, with `_` in place of `-` and spaces."""
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def is_blank(value: Any) -> bool:
    """Return True for null, null written as text, white space, NaN, and an empty list or object."""
    if isinstance(value, str):
        return not value or value.isspace() or value.strip() in NULL_SPELLINGS
    return value is None or value == [] or value == {} or value != value  # only NaN differs from itself


@dataclass(frozen=True, slots=True)
class MessageNames:
    """Names in a file's messages beside the usual ones, all normalized: keys by meaning, and roles by speaker."""

    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    roles: Mapping[str, Speaker] = field(default_factory=dict[str, Speaker])

    def meaning_of(self, key: str, has_role: bool) -> str | None:
        """Return what a message's key means, or None for one that is not used."""
        name = normalize_key(key)
        if meaning := self.keys.get(name) or MESSAGE_KEYS.get(name):
            return meaning
        # Beside a role, such a key is something else.
        return None if has_role else self.roles.get(name) or SPEAKER_KEYS.get(name)

    def speaker_of(self, role: str) -> Speaker | None:
        """Return who speaks in a role, or None for an unknown one."""
        name = normalize_key(role)
        return self.roles.get(name) or ROLE_ALIASES.get(name)

    def has_role(self, message: Mapping[str, Any]) -> bool:
        """Return True if a message says in a key of its own who speaks."""
        return any((self.keys.get(name) or MESSAGE_KEYS.get(name)) == "role" for name in map(normalize_key, message))

    def unused_keys(self, message: Mapping[str, Any]) -> Iterator[str]:
        """Yield the keys of a message that are not read."""
        has_role = self.has_role(message)
        return (key for key in message if self.meaning_of(key, has_role) is None)


USUAL_NAMES = MessageNames()


NO_ROLES: Mapping[str, Sequence[str]] = {}


def as_messages(value: Any) -> Any:
    """Return the list of messages that a value is: a list, one message, an object around a list, or text of these."""
    if isinstance(value, str):
        value = read_literal(value) if value.lstrip()[:1] in ("[", "{", "a") else None
    if not isinstance(value, dict):
        return value
    inner = [element for element in value.values() if isinstance(element, list)]
    names = {normalize_key(key) for key in value}
    if value and all(isinstance(turn, dict) for turn in value.values()) and all(map(_TURN_KEY.fullmatch, names)):
        return list(value.values())
    if len(inner) == 1 and names & {"messages", "conversations", "conversation"}:
        return inner[0]
    return [value]


def holds_messages(value: Any) -> bool:
    """Return True for a list with messages in it, one message with a role, or text of either."""
    found = as_messages(value)
    if not isinstance(found, list):
        return False
    if found and found[0] is value:
        return USUAL_NAMES.has_role(value)
    return any(isinstance(message, dict) for message in found)


def detect_message_names(
    values: Sequence[Any], reasoning_key: str | None = None, given_roles: Mapping[str, Sequence[str]] = NO_ROLES
) -> MessageNames:
    """Detect the names in a file's messages from sample values; those that the recipe gives come first.

    `given_roles` holds the names of each speaker.
    """
    roles: dict[str, Speaker] = {}
    for speaker, names in given_roles.items():
        roles |= dict.fromkeys(map(normalize_key, names), ROLE_ALIASES[speaker])
    keys = {} if reasoning_key is None else {normalize_key(reasoning_key): "reasoning"}
    messages = list(sample_messages(values))
    if key := _role_key(messages, MessageNames(keys, roles)):
        keys[key] = "role"
    if key := _content_key(messages, MessageNames(keys, roles)):
        keys[key] = "content"
    return MessageNames(keys, roles)


def unknown_speakers(values: Sequence[Any], names: MessageNames) -> tuple[list[str], list[str]] | None:
    """Return the unknown roles that speak first in a conversation, and all others, or None where the roles are known.

    They are known as soon as one conversation has both a user and an assistant.
    """
    first, others = Counter[str](), Counter[str]()
    for value in values:
        roles = [role for message in _messages_of(value) if (role := _role_of(message, names)) is not None]
        roles = roles or [role for message in _messages_of(value) for role in _spoken_by(message)]
        speakers = [names.speaker_of(role) for role in roles]
        if {"user", "assistant"} <= set(speakers):
            return None
        unknown = [
            role
            for role, speaker in zip(roles, speakers, strict=True)
            if speaker is None and normalize_key(role) not in TOOL_ROLES and role.isprintable()
        ]
        asks = unknown[:1] if "user" not in speakers else []
        first.update(asks)
        others.update(role for role in unknown if role not in asks)
    if not first and not others:
        return None
    return list(first), [role for role in others if role not in first]


def _messages_of(value: Any) -> list[dict[str, Any]]:
    found = as_messages(value)
    return [message for message in found if isinstance(message, dict)] if isinstance(found, list) else []


def sample_messages(values: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the messages of all values, without anything else in them."""
    for value in values:
        yield from _messages_of(value)


def _role_of(message: Mapping[str, Any], names: MessageNames) -> str | None:
    for key, value in message.items():
        if names.meaning_of(key, has_role=True) == "role" and isinstance(value, str):
            return value
    return None


def _spoken_by(message: Mapping[str, Any]) -> list[str]:
    return [value for key, value in message.items() if normalize_key(key) in ROLE_KEYS and isinstance(value, str)][:1]


def _role_key(messages: Sequence[Mapping[str, Any]], names: MessageNames) -> str | None:
    """Return the one key whose values are roles, of a user and an assistant, in messages that have no usual one."""
    if not messages or any(map(names.has_role, messages)):
        return None
    common = set.intersection(*({normalize_key(key) for key in message} for message in messages))
    other = {*SPEAKER_KEYS, *MESSAGE_KEYS, *CONTENT_KEYS}
    found = [name for name in sorted(common - other) if name.isprintable() and _holds_roles(messages, name, names)]
    return found[0] if len(found) == 1 else None


def _holds_roles(messages: Sequence[Mapping[str, Any]], name: str, names: MessageNames) -> bool:
    values = [value for message in messages for key, value in message.items() if normalize_key(key) == name]
    roles = [value for value in values if isinstance(value, str)]
    speakers = {names.speaker_of(role) or ("tool" if normalize_key(role) in TOOL_ROLES else None) for role in roles}
    return len(roles) == len(values) and None not in speakers and {"user", "assistant"} <= speakers


def _content_key(messages: Sequence[Mapping[str, Any]], names: MessageNames) -> str | None:
    """Return the key of the text in messages that have a role and no usual key for it: a known one, or the only one."""
    spoken = [message for message in messages if names.has_role(message)]
    if not spoken or any(names.meaning_of(key, has_role=True) == "content" for message in spoken for key in message):
        return None
    texts = Counter(
        normalize_key(key)
        for message in spoken
        for key in names.unused_keys(message)
        if key.isprintable() and isinstance(message[key], str | list | dict) and not is_blank(message[key])
    )
    known = [name for name in CONTENT_KEYS if texts[name]]
    often = [name for name, count in texts.items() if 2 * count > len(spoken)]
    return known[0] if known else often[0] if len(often) == 1 else None
