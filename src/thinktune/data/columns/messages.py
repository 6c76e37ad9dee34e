"""Messages in every format that tools write, read as turns: roles, content parts, reasoning, weights."""

import json
import reprlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from thinktune.data.columns.modes import parse_mode
from thinktune.tokenization import Turn
from thinktune.tokenization.conversation import Mode, Role

# A turn, and the names of the fields that hold its content and its reasoning.
TurnWithFields = tuple[Turn, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class FieldFault:
    """A fault in a field of a row: its name in `data.faults`, and a sentence `field: what is wrong`.

    Functions here return what they read, or the first fault that they meet, which ends the reading of the row.
    """

    fault: str
    sentence: str


REASONING_KEYS = (
    *("reasoning", "reasoning_content", "think", "thinking", "thought", "thoughts", "complex_cot", "cot"),
    *("chain_of_thought", "rationale", "thinking_content", "think_content", "thought_process", "reasoning_process"),
    *("思考", "思考过程", "推理", "推理过程", "思维链"),
)


ROLE_ALIASES: dict[str, Role] = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}


# What programs write for a missing value; only a whole field that says this counts as null.
NULL_SPELLINGS = frozenset(("None", "null", "Null", "NULL", "nan", "NaN", "NAN", "N/A", "n/a", "<NA>"))


TOOL_ROLES = ("tool", "tools", "tool_call", "tool_response", "tool_result", "function", "function_call", "observation")


# Types of content parts. They are tuples because a row may hold anything as a type, and a list cannot be looked up in
# a set.
TOOL_PART_TYPES = (*TOOL_ROLES, "tool_calls", "tool_use")


MODE_OPTIONS = ("enable_thinking", "thinking")  # of chat templates: families name the same switch differently


TEXT_PART_TYPES = ("text", "input_text", "output_text")


REASONING_PART_TYPES = ("reasoning", "thinking")


TOOL_CALL_FAULT = "calls tools, which cannot be trained yet"


ROLE_ORDER: tuple[Role, ...] = ("system", "user", "assistant")


# The meaning of a message's keys. One message may hold a user's and an assistant's text, as in {human, assistant}.
MESSAGE_KEYS = {
    **dict.fromkeys(("role", "from"), "role"),
    **dict.fromkeys(("content", "value"), "content"),
    **dict.fromkeys(REASONING_KEYS, "reasoning"),
    **dict.fromkeys(("loss_weight", "weight", "loss", "loss_scale", "train"), "weight"),
    **dict.fromkeys(("enable_thinking", "thinking_mode", "chat_template_kwargs"), "mode"),
    **dict.fromkeys(("tool_calls", "tool_call", "function_call"), "tools"),
    **{"human": "user", "user": "user", "assistant": "assistant", "system": "system"},
}


@lru_cache(maxsize=4096)
def normalize_key(name: str) -> str:
    """Return a key or column name in lower case, with `_` in place of `-` and spaces."""
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def is_blank(value: Any) -> bool:
    """Return True for null, null written as text, white space, NaN, and an empty list or object."""
    if isinstance(value, str):
        return not value or value.isspace() or value.strip() in NULL_SPELLINGS
    return value is None or value == [] or value == {} or value != value  # only NaN differs from itself


def short_repr(value: Any) -> str:
    """Shorten a value for a sentence; it may be of any size and depth."""
    return reprlib.repr(value)[:60]


def read_text(value: Any, field: str) -> str | FieldFault:
    """Read a text that can be trained; null is read as an empty text."""
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        return FieldFault("not_text", f"{field}: is {short_repr(value)}, not text")
    try:
        # JSON can spell half of a surrogate pair, which no UTF-8 file and no tokenizer can hold.
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError:
        return FieldFault("unreadable", f"{field}: contains half a character (a lone surrogate)")
    return value


def assistant_turn(content: str, reasoning: str, field_names: tuple[str, str], trained: bool = True) -> TurnWithFields:
    """Make the assistant's turn; without other reasoning, a think block before the answer becomes its reasoning."""
    if is_blank(reasoning):
        if split := split_reasoning(content):
            return Turn("assistant", split[1], split[0], trained), (field_names[0], field_names[0])
        reasoning = ""
    return Turn("assistant", content, reasoning, trained), field_names


def split_reasoning(content: str) -> tuple[str, str] | None:
    """Split `<think>T</think>A` or `T</think>A` (some tools cut the opening tag) into reasoning and answer, else None.

    White space around the tags belongs to the format. Other tags are left in place for the row checks.
    """
    if content.count("</think>") != 1:
        return None
    before, _, after = content.partition("</think>")
    before = before.strip()
    if content.count("<think>") == before.startswith("<think>"):
        return before.removeprefix("<think>").strip(), after.lstrip()
    return None


def read_mode(value: Any, field: str) -> Mode | FieldFault | None:
    """Read a row's own mode from a word, a truth value or an object of template options; None where it is blank."""
    if is_blank(value):
        return None
    options = _read_object(value)
    if options is None:
        mode = parse_mode(value)
        what = f"{field}: is {short_repr(value)}, which names no mode; write on or off, or leave it empty"
        return FieldFault("unreadable", what) if mode is None else mode
    modes: dict[str, Mode] = {}
    for name, option in options.items():
        if is_blank(option):
            continue
        if name not in MODE_OPTIONS:
            what = f"has {short_repr(name)}, which is not used; leave it out"
            return FieldFault("unreadable", f"{field}: {what}, or write data.ignore: [{field}]")
        mode = parse_mode(option)
        if mode is None:
            return FieldFault("unreadable", f"{field}.{name}: is {short_repr(option)}; write true or false")
        modes[name] = mode
    if len(set(modes.values())) > 1:
        return FieldFault("unreadable", f"{field}: {' and '.join(modes)} mean the same but differ")
    return next(iter(modes.values()), None)


def _read_object(value: Any) -> dict[str, Any] | None:
    """Return an object, also one written as JSON text, as CSV files have it; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def read_messages(value: Any, field: str) -> list[TurnWithFields] | FieldFault:
    """Read a list of messages as turns, in its order."""
    if value is None:
        return []
    if not isinstance(value, list):
        return FieldFault("not_text", f"{field}: is {short_repr(value)}, not a list of messages")
    turns: list[TurnWithFields] = []
    for index, message in enumerate(value):
        message_field = f"{field}[{index}]"
        if not isinstance(message, dict):
            return FieldFault("not_text", f"{message_field}: is {short_repr(message)}, not a message")
        found = _read_message(message, message_field)
        if isinstance(found, FieldFault):
            return found
        turns += found
    return turns


def read_history(pairs: Any, name: str) -> list[TurnWithFields] | FieldFault:
    """Read the turns before the question from a column of pairs of texts."""
    if is_blank(pairs):
        return []
    turns: list[TurnWithFields] = []
    for index, pair in enumerate(pairs if isinstance(pairs, list) else [pairs]):
        field = f"{name}[{index}]" if isinstance(pairs, list) else name
        if not isinstance(pair, list) or len(pair) != 2:
            return FieldFault("not_text", f"{field}: is {short_repr(pair)}, not a pair of a question and a reply")
        question, reply = read_text(pair[0], f"{field}[0]"), read_text(pair[1], f"{field}[1]")
        if isinstance(question, FieldFault):
            return question
        if isinstance(reply, FieldFault):
            return reply
        turns.append((Turn("user", question), (f"{field}[0]", "")))
        turns.append(assistant_turn(reply, "", (f"{field}[1]", f"{field}[1]")))
    return turns


def with_row_system_prompt(turns: list[TurnWithFields], system: str, name: str) -> list[TurnWithFields] | FieldFault:
    """Put the row's own system prompt, read from column `name`, before the turns; a blank one is left out.

    Returns a fault where the turns begin with another system prompt.
    """
    if turns and turns[0][0].role == "system":
        first = turns[0][0].content
        if not is_blank(first):
            if not is_blank(system) and system != first:
                return FieldFault("role", f"{name}: differs from the system prompt in {turns[0][1][0]}")
            return turns
        turns = turns[1:]
    return turns if is_blank(system) else [(Turn("system", system), (name, "")), *turns]


def with_default_system_prompt(turns: tuple[Turn, ...], default: str | None) -> tuple[Turn, ...]:
    """Put the recipe's system prompt before turns that have none of their own, or an empty one."""
    if turns[0].role == "system":
        if not is_blank(turns[0].content):
            return turns
        turns = turns[1:]
    return turns if default is None else (Turn("system", default), *turns)


def find_turn_order_fault(turns: list[TurnWithFields]) -> FieldFault | None:
    """Check that user and assistant alternate after an optional system prompt, and that some reply is trained."""
    expected: Role = "user"
    for index, (turn, (field, _)) in enumerate(turns):
        if turn.role == "system" and index == 0:
            continue
        if turn.role != expected:
            return FieldFault("role", f"{field}: is the {turn.role}'s turn where the {expected}'s is expected")
        expected = "assistant" if expected == "user" else "user"
    replies = [turn.trained for turn, _ in turns if turn.role == "assistant"]
    if any(replies):
        return None
    return FieldFault("blank", "has no trained reply: every weight is 0" if replies else "has no reply")


def _read_message(message: dict[str, Any], field: str) -> list[TurnWithFields] | FieldFault:
    """Read one message; it may hold the turns of several roles, each under a key of its own."""
    fields = _fields_by_meaning(message, field)
    if isinstance(fields, FieldFault):
        return fields
    if not is_blank(fields.get("tools", ("", None))[1]):
        return FieldFault("role", f"{field}: {TOOL_CALL_FAULT}")
    if "role" in fields:
        role = _read_role(fields["role"][1], field)
        if isinstance(role, FieldFault):
            return role
        turn = _read_turn(role, fields.get("content", ("content", None)), fields, field)
        return turn if isinstance(turn, FieldFault) else [turn]
    roles: list[Role] = [role for role in ROLE_ORDER if role in fields]
    if not roles or "content" in fields:
        return FieldFault("role", f"{field}: has no role")
    turns: list[TurnWithFields] = []
    for role in roles:
        turn = _read_turn(role, fields[role], fields if role == "assistant" else {}, field)
        if isinstance(turn, FieldFault):
            return turn
        turns.append(turn)
    return turns


def _read_role(value: Any, field: str) -> Role | FieldFault:
    name = normalize_key(value) if isinstance(value, str) else ""
    if name in ROLE_ALIASES:
        return ROLE_ALIASES[name]
    unknown = f"has the role {short_repr(value)}; use system, user or assistant"
    return FieldFault("role", f"{field}: {TOOL_CALL_FAULT if name in TOOL_ROLES else unknown}")


def _fields_by_meaning(message: dict[str, Any], field: str) -> dict[str, tuple[str, Any]] | FieldFault:
    """Map each meaning in `MESSAGE_KEYS` to a message's key and value; keys of one meaning must agree."""
    fields: dict[str, tuple[str, Any]] = {}
    for key, value in message.items():
        meaning = MESSAGE_KEYS.get(normalize_key(key))
        if meaning is None:
            continue
        earlier = fields.get(meaning)
        if earlier is None or is_blank(earlier[1]):
            fields[meaning] = key, value
        elif not is_blank(value) and (isinstance(value, list | dict) or value != earlier[1]):
            return FieldFault("unreadable", f"{field}: {earlier[0]} and {key} mean the same but differ")
    return fields


def _read_turn(
    role: Role, key_and_content: tuple[str, Any], fields: dict[str, tuple[str, Any]], field: str
) -> TurnWithFields | FieldFault:
    """Read a turn from its content and from the message's fields of reasoning and weight."""
    content_key, value = key_and_content
    content_field = reasoning_field = f"{field}.{content_key}"
    parts = _read_content(value, content_field)
    if isinstance(parts, FieldFault):
        return parts
    content, reasoning = parts
    if "reasoning" in fields:
        key, value = fields["reasoning"]
        own_reasoning = read_text(value, f"{field}.{key}")
        if isinstance(own_reasoning, FieldFault):
            return own_reasoning
        if is_blank(reasoning):
            reasoning, reasoning_field = own_reasoning, f"{field}.{key}"
        elif not is_blank(own_reasoning) and own_reasoning != reasoning:
            return FieldFault("unreadable", f"{field}: {content_key} and {key} hold different reasoning")
    mode_key, mode_value = fields.get("mode", ("", None))
    mode = read_mode(mode_value, f"{field}.{mode_key}")
    if isinstance(mode, FieldFault):
        return mode
    if role != "assistant":
        if not is_blank(reasoning):
            return FieldFault("role", f"{reasoning_field}: is reasoning, which only the assistant can have")
        if mode:
            return FieldFault("role", f"{field}.{mode_key}: is the mode of a reply; move it to the assistant's message")
        return Turn(role, content), (content_field, "")
    key, weight = fields.get("weight", ("", None))
    if not is_blank(weight) and weight not in (0, 1):
        return FieldFault("role", f"{field}.{key}: is {short_repr(weight)}; use 1 (trained) or 0 (not trained)")
    turn, names = assistant_turn(content, reasoning, (content_field, reasoning_field), is_blank(weight) or weight == 1)
    return replace(turn, mode=mode), names


def _read_content(value: Any, field: str) -> tuple[str, str] | FieldFault:
    """Read a message's content, a text or a list of typed parts, as its text and its reasoning."""
    if not isinstance(value, list):
        text = read_text(value, field)
        return text if isinstance(text, FieldFault) else (text, "")
    content = reasoning = ""
    for index, part in enumerate(value):
        part_field = f"{field}[{index}]"
        found = _read_content_part(part, part_field)
        if isinstance(found, FieldFault):
            return found
        is_reasoning, text = found
        if not is_reasoning:
            content += text
        elif is_blank(content):
            reasoning += text
        else:
            return FieldFault("role", f"{part_field}: is reasoning after the start of the answer")
    return content, reasoning


def _read_content_part(part: Any, field: str) -> tuple[bool, str] | FieldFault:
    """Read one part of a content: whether it is reasoning, and its text."""
    if not isinstance(part, dict):
        text = read_text(part, field)
        return text if isinstance(text, FieldFault) else (False, text)
    kind = part.get("type") or "text"
    if kind in TOOL_PART_TYPES:
        return FieldFault("role", f"{field}: {TOOL_CALL_FAULT}")
    if kind not in TEXT_PART_TYPES and kind not in REASONING_PART_TYPES:
        return FieldFault("not_text", f"{field}: is of type {short_repr(kind)}, not text")
    key = next((key for key in ("text", "value", "content", kind) if not is_blank(part.get(key))), "text")
    text = read_text(part.get(key), f"{field}.{key}")
    return text if isinstance(text, FieldFault) else (kind in REASONING_PART_TYPES, text)
