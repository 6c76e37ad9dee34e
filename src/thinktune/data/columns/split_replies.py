"""Replies that come in parts: reasoning in a message or a column of its own, and weights that are not 0 or 1."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from thinktune.data.columns.fields import FieldFault, short_repr
from thinktune.data.columns.message_names import MessageNames, as_messages, is_blank
from thinktune.data.columns.messages import TurnWithFields


def merge_split_replies(turns: Sequence[TurnWithFields]) -> list[TurnWithFields]:
    """Merge a message that is only reasoning with the assistant's message after it, into one reply.

    Its answer decides whether the reply is trained.
    """
    merged: list[TurnWithFields] = []
    for turn, fields in turns:
        before, before_fields = merged[-1] if merged else (None, ("", ""))
        if (
            before is not None
            and before.role == turn.role == "assistant"
            and before.has_reasoning
            and is_blank(before.content)
            and not turn.has_reasoning
        ):
            whole = replace(turn, reasoning=before.reasoning, mode=turn.mode or before.mode)
            merged[-1] = whole, (fields[0], before_fields[1])
        else:
            merged.append((turn, fields))
    return merged


def with_last_reasoning(turns: list[TurnWithFields], reasoning: str, name: str) -> list[TurnWithFields] | FieldFault:
    """Give the last reply the reasoning that stands in column `name`; a blank one changes nothing.

    Returns a fault where that reply has other reasoning of its own.
    """
    last = max((index for index, (turn, _) in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None or is_blank(reasoning):
        return turns
    turn, (content_field, reasoning_field) = turns[last]
    if turn.has_reasoning:
        if turn.reasoning.strip() == reasoning.strip():
            return turns
        return FieldFault("unreadable", f"{name}: differs from the reasoning in {reasoning_field}")
    changed = replace(turn, reasoning=reasoning), (content_field, name)
    return [*turns[:last], changed, *turns[last + 1 :]]


def describe_odd_weight(value: Any, field: str, names: MessageNames) -> str | None:
    """Describe the first weight in messages that is neither 0 nor 1, which training cannot follow; None without any."""
    found = as_messages(value)
    messages: list[Any] = found if isinstance(found, list) else []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        for key, weight in message.items():
            if names.meaning_of(key, True) == "weight" and not is_blank(weight) and weight not in (0, 1):
                what = f"is {short_repr(weight)}; all trained messages weigh the same"
                return f"{field}[{index}].{key}: {what}"
    return None
