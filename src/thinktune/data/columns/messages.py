"""Messages in every format that tools write, read as turns: roles, content parts, reasoning, weights."""

from dataclasses import replace
from typing import Any

from thinktune.data.columns.fields import FieldFault, read_steps, read_text, short_repr
from thinktune.data.columns.literals import read_literal
from thinktune.data.columns.message_names import (
    TOOL_ROLES,
    USUAL_NAMES,
    MessageNames,
    Speaker,
    as_messages,
    is_blank,
    normalize_key,
)
from thinktune.data.columns.modes import parse_mode
from thinktune.tokenization import Turn
from thinktune.tokenization.conversation import Mode, Role

# A turn, and the names of the fields that hold its content and its reasoning.
TurnWithFields = tuple[Turn, tuple[str, str]]


# Types of content parts. They are tuples because a row may hold anything as a type, and a list cannot be looked up in
# a set.
TOOL_PART_TYPES = (*TOOL_ROLES, "tool_calls", "tool_use")


MODE_OPTIONS = ("enable_thinking", "thinking")  # of chat templates: families name the same switch differently


TEXT_PART_TYPES = ("text", "input_text", "output_text")


REASONING_PART_TYPES = ("reasoning", "thinking")


TOOL_CALL_FAULT = "calls tools, which cannot be trained yet"


ROLE_ORDER: tuple[Role, ...] = ("system", "user", "assistant")


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
    """Return an object, also one written as text, as CSV files have it; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = read_literal(value)
    return value if isinstance(value, dict) else None


def read_messages(value: Any, field: str, names: MessageNames = USUAL_NAMES) -> list[TurnWithFields] | FieldFault:
    """Read messages as turns, in their order: a list, one message, pairs, texts in turn, or text that spells these."""
    messages = as_messages(value)
    if messages is None:
        if is_blank(value):
            return []
    elif not isinstance(messages, list):
        messages = None
    if messages is None:
        return FieldFault("not_text", f"{field}: is {short_repr(value)}, not a list of messages")
    if messages and _are_texts(messages):
        return _read_texts_in_turn(messages, field)
    pairs = [pair for pair in messages if isinstance(pair, list) and pair]
    firsts = {names.speaker_of(pair[0]) for pair in pairs if isinstance(pair[0], str)}
    turns: list[TurnWithFields] = []
    for index, message in enumerate(messages):
        # A value that is one message has no list around it.
        message_field = field if message is value else f"{field}[{index}]"
        if isinstance(message, list):
            with_roles = firsts <= {"system", "user", "assistant"} and {"user", "assistant"} <= firsts
            found = _read_pair(message, message_field, names, with_roles)
        elif isinstance(message, dict):
            found = _read_message(message, message_field, names)
        else:
            return FieldFault("not_text", f"{message_field}: is {short_repr(message)}, not a message")
        if isinstance(found, FieldFault):
            return found
        turns += found
    return turns


def read_history(value: Any, name: str, names: MessageNames = USUAL_NAMES) -> list[TurnWithFields] | FieldFault:
    """Read the turns before the question: pairs of texts, messages, or texts in turn, also written as text."""
    if is_blank(value):
        return []
    if isinstance(value, str) and read_literal(value) is None:
        return FieldFault("not_text", f"{name}: is {short_repr(value)}, not a list of pairs or messages")
    return read_messages(value, name, names)


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _read_texts_in_turn(texts: list[str], field: str) -> list[TurnWithFields] | FieldFault:
    """Read a list of texts as a user's and an assistant's, in turn."""
    if len(texts) % 2:
        what = f"is a list of {len(texts)} texts; it is only clear who speaks where a reply follows every question"
        return FieldFault("not_text", f"{field}: {what}")
    turns: list[TurnWithFields] = []
    for index in range(0, len(texts), 2):
        fields = f"{field}[{index}]", f"{field}[{index + 1}]"
        pair = _read_question_and_reply(texts[index], texts[index + 1], fields)
        if isinstance(pair, FieldFault):
            return pair
        turns += pair
    return turns


def _read_pair(pair: list[Any], field: str, names: MessageNames, with_role: bool) -> list[TurnWithFields] | FieldFault:
    """Read two texts, which are a question and its reply, or a role and its text."""
    if len(pair) != 2:
        return FieldFault("not_text", f"{field}: is {short_repr(pair)}, not a pair of a question and a reply")
    role, content = pair
    if with_role:
        return _read_message({"role": role, "content": content}, field, names)
    return _read_question_and_reply(role, content, (f"{field}[0]", f"{field}[1]"))


def _read_question_and_reply(question: Any, reply: Any, fields: tuple[str, str]) -> list[TurnWithFields] | FieldFault:
    texts = read_text(question, fields[0]), read_text(reply, fields[1])
    if isinstance(texts[0], FieldFault):
        return texts[0]
    if isinstance(texts[1], FieldFault):
        return texts[1]
    return [(Turn("user", texts[0]), (fields[0], "")), assistant_turn(texts[1], "", (fields[1], fields[1]))]


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


def _read_message(message: dict[str, Any], field: str, names: MessageNames) -> list[TurnWithFields] | FieldFault:
    """Read one message; it may hold the turns of several roles, each under a key of its own."""
    fields = _fields_by_meaning(message, field, names)
    if isinstance(fields, FieldFault):
        return fields
    if not is_blank(fields.get("tools", ("", None))[1]):
        return FieldFault("role", f"{field}: {TOOL_CALL_FAULT}")
    if "role" in fields:
        speaker = _read_speaker(fields, field, names)
        if isinstance(speaker, FieldFault):
            return speaker
        turn = _read_turn(speaker, fields.get("content", ("content", None)), fields, field)
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


def _read_speaker(fields: dict[str, tuple[str, Any]], field: str, names: MessageNames) -> Speaker | FieldFault:
    """Read who speaks, by the role and, for an assistant, by the channel."""
    value = fields["role"][1]
    if isinstance(value, dict):  # as in {"author": {"role": "user"}}
        value = value.get("role")
    speaker = names.speaker_of(value) if isinstance(value, str) else None
    if speaker is None:
        is_tool = isinstance(value, str) and normalize_key(value) in TOOL_ROLES
        unknown = (
            f"has the role {short_repr(value)}; use system, user or assistant, or say who it is in data.columns.roles"
        )
        return FieldFault("role", f"{field}: {TOOL_CALL_FAULT if is_tool else unknown}")
    key, channel = fields.get("channel", ("", None))
    if speaker != "assistant" or is_blank(channel) or channel == "final":
        return speaker
    if channel == "analysis":
        return "reasoning"
    return FieldFault("role", f"{field}.{key}: is {short_repr(channel)}; only analysis and final can be trained")


def _fields_by_meaning(
    message: dict[str, Any], field: str, names: MessageNames
) -> dict[str, tuple[str, Any]] | FieldFault:
    """Map each meaning of a key to a message's key and value; keys of one meaning must agree."""
    fields: dict[str, tuple[str, Any]] = {}
    has_role = names.has_role(message)
    for key, value in message.items():
        meaning = names.meaning_of(key, has_role)
        if meaning is None:
            continue
        earlier = fields.get(meaning)
        if earlier is None or is_blank(earlier[1]):
            fields[meaning] = key, value
        elif not is_blank(value) and (isinstance(value, list | dict) or value != earlier[1]):
            if not (meaning == "user" and normalize_key(earlier[0]) == "instruction" and normalize_key(key) == "input"):
                return FieldFault("unreadable", f"{field}: {earlier[0]} and {key} mean the same but differ")
            fields[meaning] = f"{earlier[0]} + {key}", [f"{earlier[1]}\n", value]
    return fields


def _read_turn(
    speaker: Speaker, key_and_content: tuple[str, Any], fields: dict[str, tuple[str, Any]], field: str
) -> TurnWithFields | FieldFault:
    """Read a turn from its content and from the message's fields of reasoning and weight."""
    content_key, value = key_and_content
    content_field = reasoning_field = f"{field}.{content_key}"
    parts = _read_content(value, content_field)
    if isinstance(parts, FieldFault):
        return parts
    content, reasoning = parts
    if speaker == "reasoning":
        speaker, content, reasoning = "assistant", "", content or reasoning
    if "reasoning" in fields:
        key, value = fields["reasoning"]
        own_reasoning = read_steps(value, f"{field}.{key}")
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
    if speaker != "assistant":
        if not is_blank(reasoning):
            return FieldFault("role", f"{reasoning_field}: is reasoning, which only the assistant can have")
        if mode:
            return FieldFault("role", f"{field}.{mode_key}: is the mode of a reply; move it to the assistant's message")
        return Turn(speaker, content), (content_field, "")
    key, weight = fields.get("weight", ("", None))
    if not is_blank(weight) and not (isinstance(weight, int | float) and weight >= 0):
        return FieldFault("role", f"{field}.{key}: is {short_repr(weight)}; use 1 (trained) or 0 (not trained)")
    turn, names = assistant_turn(content, reasoning, (content_field, reasoning_field), is_blank(weight) or weight > 0)
    return replace(turn, mode=mode), names


def _read_content(value: Any, field: str) -> tuple[str, str] | FieldFault:
    """Read a message's content, a text or a list of typed parts, as its text and its reasoning."""
    if isinstance(value, dict):
        value = value["parts"] if isinstance(value.get("parts"), list) else [value]
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
