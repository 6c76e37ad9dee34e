"""Values that are not text where text belongs, and have one sure spelling as text."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from thinktune.data.columns.mapping import ColumnMapping, names_of
from thinktune.data.columns.message_names import MESSAGE_KEYS, normalize_key
from thinktune.data.columns.messages import short_repr
from thinktune.data.types import Finding, RawRow

_TEXT_PARTS = ("question", "input", "reasoning", "answer")


def spell_values(row: RawRow, mapping: ColumnMapping) -> tuple[RawRow, Finding | None]:
    """Spell numbers and truth values of a row's text columns as text, and take the text of a list of one.

    Returns the row and the finding of what was changed, the same row and None where nothing was. A truth value is text
    only as an answer; reasoning that is one is a mode.
    """
    changed = dict[str, Any]()
    sentences = list[str]()
    columns = row.columns or {}
    for part, name in () if mapping.message_columns else _text_columns(mapping):
        if name in columns and (text := as_text(columns[name], truth=part == "answer")) is not None:
            changed[name] = text
            sentences.append(_sentence(name, columns[name], text))
    for name in mapping.message_columns:
        messages, found = _spell_messages(columns.get(name), name)
        if found:
            changed[name] = messages
            sentences += found
    if not changed:
        return row, None
    more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
    finding = Finding("not_text", f"{row.source}: {sentences[0]}{more}", "repaired")
    return replace(row, columns={**columns, **changed}), finding


def _text_columns(mapping: ColumnMapping) -> Iterator[tuple[str, str]]:
    for part in _TEXT_PARTS:
        for name in names_of(getattr(mapping, part)):
            yield part, name


def as_text(value: Any, truth: bool = False) -> str | None:
    """Spell a value as text where there is one way to do so; None for texts, and for all else."""
    if isinstance(value, list) and len(value) == 1:
        return value[0] if isinstance(value[0], str) else as_text(value[0], truth)
    if isinstance(value, bool):
        return str(value).lower() if truth else None
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else None
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return str(value) if isinstance(value, int | Decimal) else None


def _sentence(field: str, value: Any, text: str) -> str:
    return f"{field}: is {short_repr(value)}, not text; it is read as {text[:40]!r}"


def _spell_messages(messages: Any, name: str) -> tuple[Any, list[str]]:
    """Spell the contents of messages; other values of a message, such as weights and modes, are none."""
    if not isinstance(messages, list):
        return messages, []
    spelled, sentences = list[Any](messages), list[str]()
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        for key, text in _contents(message):
            spelled[index] = {**spelled[index], key: text}
            sentences.append(_sentence(f"{name}[{index}].{key}", message[key], text))
    return spelled, sentences


def _contents(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in message.items():
        meaning = MESSAGE_KEYS.get(normalize_key(key))
        # A list of one is how a content of typed parts is written.
        if meaning in ("content", "user", "assistant") and not isinstance(value, str | list):
            text = as_text(value, truth=True)
            if text is not None:
                yield key, text
