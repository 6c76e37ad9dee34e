"""Messages in every form that tools write them, to turns: roles, parts, reasoning, weights, each with its place."""

import reprlib
from functools import lru_cache
from typing import Any

from thinktune.data.types import Role, Turn

# A turn, and the names of the fields that hold its content and its reasoning.
TurnWithFields = tuple[Turn, tuple[str, str]]


# What is wrong in a row: the fault, and `field: what is wrong`. Reading goes on with a blank; the first one counts.
FaultList = list[tuple[str, str]]


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


# What programs write where a value was missing; a whole field of it is one.
NULL_SPELLINGS = frozenset(("None", "null", "Null", "NULL", "nan", "NaN", "NAN", "N/A", "n/a", "<NA>"))


TOOL_ROLES = ("tool", "tools", "tool_call", "tool_response", "tool_result", "function", "function_call", "observation")


# Kinds of parts; tuples, since a row may hold anything as a kind, and a set cannot be asked for a list.
TOOL_PART_TYPES = (*TOOL_ROLES, "tool_calls", "tool_use")


TEXT_PART_TYPES = ("text", "input_text", "output_text")


REASONING_PART_TYPES = ("reasoning", "thinking")


TOOL_CALL_FAULT = "calls tools, which is not trained yet"


ROLE_ORDER: tuple[Role, ...] = ("system", "user", "assistant")


# What the keys of a message mean; one message may hold a user's and an assistant's text, as in {human, assistant}.
MESSAGE_KEYS = {
    **dict.fromkeys(("role", "from"), "role"),
    **dict.fromkeys(("content", "value"), "content"),
    **dict.fromkeys(REASONING_KEYS, "reasoning"),
    **dict.fromkeys(("loss_weight", "weight", "loss", "loss_scale", "train"), "weight"),
    **dict.fromkeys(("tool_calls", "tool_call", "function_call"), "tools"),
    **{"human": "user", "user": "user", "assistant": "assistant", "system": "system"},
}


@lru_cache(maxsize=4096)
def normalize_key(name: str) -> str:
    """A name without the differences that mean nothing: case, and `-` or a space for `_`."""
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def is_blank(value: Any) -> bool:
    """Whether a value says nothing: null, or one written as text, white space, an empty list or object."""
    if isinstance(value, str):
        return not value or value.isspace() or value.strip() in NULL_SPELLINGS
    return value is None or value == [] or value == {} or value != value  # as NaN alone is


def short_repr(value: Any) -> str:
    """A value, shortened for a sentence; no depth and no size of it is too much."""
    return reprlib.repr(value)[:60]


def read_text(value: Any, place: str, faults: FaultList) -> str:
    """A text that can be trained, and null as blank; anything else is noted and gives blank."""
    if value is None or value != value:
        return ""
    if not isinstance(value, str):
        faults.append(("not_text", f"{place}: is {short_repr(value)}, not text"))
        return ""
    try:
        # JSON can spell half of a surrogate pair, which no UTF-8 file and no tokenizer can hold.
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError:
        faults.append(("unreadable", f"{place}: holds half a character (a lone surrogate)"))
        return ""
    return value


def assistant_turn(content: str, reasoning: str, field_names: tuple[str, str], trained: bool = True) -> TurnWithFields:
    """The assistant's turn; where its reasoning stands nowhere else, a think block before the answer is split off."""
    if is_blank(reasoning):
        if split := split_reasoning(content):
            return Turn("assistant", split[1], split[0], trained), (field_names[0], field_names[0])
        reasoning = ""
    return Turn("assistant", content, reasoning, trained), field_names


def split_reasoning(content: str) -> tuple[str, str] | None:
    """Reasoning and answer of `<think>T</think>A` or `T</think>A` (some tools cut the opening tag), else none.

    White space around the tags belongs to the format. Other tags are left where they are, for whoever judges the row.
    """
    if content.count("</think>") != 1:
        return None
    before, _, after = content.partition("</think>")
    before = before.strip()
    if content.count("<think>") == before.startswith("<think>"):
        return before.removeprefix("<think>").strip(), after.lstrip()
    return None


def read_messages(value: Any, place: str, faults: FaultList) -> list[TurnWithFields]:
    """The turns of a list of messages, in its order."""
    if value is None:
        return []
    if not isinstance(value, list):
        faults.append(("not_text", f"{place}: is {short_repr(value)}, not a list of messages"))
        return []
    placed: list[TurnWithFields] = []
    for number, message in enumerate(value):
        here = f"{place}[{number}]"
        if isinstance(message, dict):
            placed += _read_message(message, here, faults)
        else:
            faults.append(("not_text", f"{here}: is {short_repr(message)}, not a message"))
    return placed


def read_history(pairs: Any, name: str, faults: FaultList) -> list[TurnWithFields]:
    """The turns before the question, as pairs of texts."""
    if is_blank(pairs):
        return []
    placed: list[TurnWithFields] = []
    for number, pair in enumerate(pairs if isinstance(pairs, list) else [pairs]):
        here = f"{name}[{number}]" if isinstance(pairs, list) else name
        if isinstance(pair, list) and len(pair) == 2:
            placed.append((Turn("user", read_text(pair[0], f"{here}[0]", faults)), (f"{here}[0]", "")))
            placed.append(assistant_turn(read_text(pair[1], f"{here}[1]", faults), "", (f"{here}[1]", f"{here}[1]")))
        else:
            faults.append(("not_text", f"{here}: is {short_repr(pair)}, not a pair of a question and a reply"))
    return placed


def with_row_system_prompt(
    placed: list[TurnWithFields], own: str, name: str, faults: FaultList
) -> list[TurnWithFields]:
    """The turns with the row's own system prompt before them, wherever it stands; none where it is blank."""
    if placed and placed[0][0].role == "system":
        first = placed[0][0].content
        if not is_blank(first):
            if not is_blank(own) and own != first:
                faults.append(("role", f"{name}: is another system prompt than {placed[0][1][0]}"))
            return placed
        placed = placed[1:]
    return placed if is_blank(own) else [(Turn("system", own), (name, "")), *placed]


def with_default_system_prompt(turns: tuple[Turn, ...], default: str | None) -> tuple[Turn, ...]:
    """The turns, under the system prompt of all rows where they have none of their own, or an empty one."""
    if turns[0].role == "system":
        if not is_blank(turns[0].content):
            return turns
        turns = turns[1:]
    return turns if default is None else (Turn("system", default), *turns)


def turn_order_faults(placed: list[TurnWithFields]) -> FaultList:
    """What is wrong with the turns as a whole: after an optional system prompt, user and assistant alternate."""
    expected: Role = "user"
    for number, (turn, (place, _)) in enumerate(placed):
        if turn.role == "system" and number == 0:
            continue
        if turn.role != expected:
            return [("role", f"{place}: is the {turn.role}'s, where the {expected}'s turn belongs")]
        expected = "assistant" if expected == "user" else "user"
    replies = [turn.trained for turn, _ in placed if turn.role == "assistant"]
    if any(replies):
        return []
    return [("blank", "has no reply that is trained: the weight of each is 0" if replies else "has no reply")]


def _read_message(message: dict[str, Any], here: str, faults: FaultList) -> list[TurnWithFields]:
    fields = _fields_by_meaning(message, here, faults)
    if not is_blank(fields.get("tools", ("", None))[1]):
        faults.append(("role", f"{here}: {TOOL_CALL_FAULT}"))
    if "role" not in fields:
        pair: list[Role] = [role for role in ROLE_ORDER if role in fields]
        if not pair or "content" in fields:
            faults.append(("role", f"{here}: has no role"))
            return []
        return [_read_turn(role, fields[role], fields if role == "assistant" else {}, here, faults) for role in pair]
    value = fields["role"][1]
    name = normalize_key(value) if isinstance(value, str) else ""
    if name in ROLE_ALIASES:
        return [_read_turn(ROLE_ALIASES[name], fields.get("content", ("content", None)), fields, here, faults)]
    known = f"has the role {short_repr(value)}; known are system, user and assistant"
    faults.append(("role", f"{here}: {TOOL_CALL_FAULT if name in TOOL_ROLES else known}"))
    return []


def _fields_by_meaning(message: dict[str, Any], here: str, faults: FaultList) -> dict[str, tuple[str, Any]]:
    """What a message holds, by meaning, each with its key; two keys of one meaning may not differ."""
    fields: dict[str, tuple[str, Any]] = {}
    for key, value in message.items():
        meaning = MESSAGE_KEYS.get(normalize_key(key))
        if meaning is None:
            continue
        held = fields.get(meaning)
        if held is None or is_blank(held[1]):
            fields[meaning] = key, value
        elif not is_blank(value) and (isinstance(value, list | dict) or value != held[1]):
            faults.append(("unreadable", f"{here}: {held[0]} and {key} mean the same and differ"))
    return fields


def _read_turn(
    role: Role, held: tuple[str, Any], fields: dict[str, tuple[str, Any]], here: str, faults: FaultList
) -> TurnWithFields:
    content_at = reasoning_at = f"{here}.{held[0]}"
    content, reasoning = _read_content(held[1], content_at, faults)
    if "reasoning" in fields:
        key, value = fields["reasoning"]
        apart = read_text(value, f"{here}.{key}", faults)
        if not is_blank(reasoning) and not is_blank(apart) and apart != reasoning:
            faults.append(("unreadable", f"{here}: {held[0]} and {key} hold different reasoning"))
        elif is_blank(reasoning):
            reasoning, reasoning_at = apart, f"{here}.{key}"
    if role != "assistant":
        if not is_blank(reasoning):
            faults.append(("role", f"{reasoning_at}: is reasoning, which only the assistant can have"))
        return Turn(role, content), (content_at, "")
    key, weight = fields.get("weight", ("", None))
    if not is_blank(weight) and weight not in (0, 1):
        faults.append(
            ("role", f"{here}.{key}: is {short_repr(weight)}; only 1 (trained) and 0 (not trained) are known")
        )
    return assistant_turn(content, reasoning, (content_at, reasoning_at), is_blank(weight) or weight == 1)


def _read_content(value: Any, place: str, faults: FaultList) -> tuple[str, str]:
    """Text and reasoning of a message's content: a text, or a list of typed parts."""
    if not isinstance(value, list):
        return read_text(value, place, faults), ""
    words = thoughts = ""
    for number, part in enumerate(value):
        here = f"{place}[{number}]"
        thought, found = _read_content_part(part, here, faults)
        if not thought:
            words += found
        elif is_blank(words):
            thoughts += found
        else:
            faults.append(("role", f"{here}: is reasoning after the answer has begun"))
    return words, thoughts


def _read_content_part(part: Any, here: str, faults: FaultList) -> tuple[bool, str]:
    """Whether a part of a content is reasoning, and its text."""
    if not isinstance(part, dict):
        return False, read_text(part, here, faults)
    kind = part.get("type") or "text"
    if kind in TOOL_PART_TYPES:
        faults.append(("role", f"{here}: {TOOL_CALL_FAULT}"))
    elif kind not in TEXT_PART_TYPES and kind not in REASONING_PART_TYPES:
        faults.append(("not_text", f"{here}: is of type {short_repr(kind)}, not text"))
    else:
        key = next((key for key in ("text", "value", "content", kind) if not is_blank(part.get(key))), "text")
        return kind in REASONING_PART_TYPES, read_text(part.get(key), f"{here}.{key}", faults)
    return False, ""
