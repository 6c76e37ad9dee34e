"""Texts of a row's fields, or why a field cannot be read."""

import re
import reprlib
from dataclasses import dataclass
from typing import Any

from thinktune.data.columns.literals import read_literal
from thinktune.data.columns.message_names import is_blank


@dataclass(frozen=True, slots=True)
class FieldFault:
    """A fault in a field of a row: its name in `data.faults`, and a sentence `field: what is wrong`.

    Functions that read rows return what they read, or the first fault, which ends the reading of the row.
    """

    fault: str
    sentence: str


_STEP_KEY = re.compile(r"(?:step|步骤|第)?[\s_-]*\d{1,3}\s*步?", re.IGNORECASE)


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


def read_steps(value: Any, field: str) -> str | FieldFault:
    """Read reasoning: a text, or a list of steps, joined by lines; also a list that is written as text."""
    steps = read_literal(value) if isinstance(value, str) else value
    if isinstance(steps, dict) and steps and (len(steps) == 1 or all(map(_STEP_KEY.fullmatch, steps))):
        steps = list(steps.values())
    texts = list(map(_step_text, steps)) if isinstance(steps, list) else [None]
    if None not in texts:
        return read_text("\n".join(text for text in texts if text), field)
    if isinstance(value, list | dict) and value:
        return FieldFault("not_text", f"{field}: is {short_repr(value)}, not a text or a list of steps")
    return read_text(value, field)


def _step_text(step: Any) -> str | None:
    """Return a step's text, or None where it is none; a step that is an object holds its texts under its keys."""
    if is_blank(step):
        return ""
    if isinstance(step, str):
        return step
    if not isinstance(step, dict):
        return None
    texts = [value for value in step.values() if isinstance(value, str) and not is_blank(value)]
    others = [value for value in step.values() if isinstance(value, list | dict) and value]
    return None if others or not texts else "\n".join(texts)
