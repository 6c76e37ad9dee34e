"""Texts of one part of a row that stand in several columns, lists or options, joined by lines."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from thinktune.data.columns.fields import FieldFault, read_steps, read_text, short_repr
from thinktune.data.columns.literals import read_literal
from thinktune.data.columns.message_names import is_blank, normalize_key
from thinktune.data.columns.paths import as_container, value_at

OPTION_NAMES = ("options", "choices", "option", "choice", "candidates", "opts", "选项", "候选项", "备选项")


_OPTION_COLUMN = re.compile(r"(?:(?:option|choice|opt|op|选项|ans)_?)?([a-z])|(?:option|choice|opt|选项)_?(\d{1,2})")


_LETTERED = re.compile(r"\s*[(（\[]?[A-Za-z0-9]{1,2}\s*[.．、:：)）\]](?!\d)")


def read_joined(columns: Mapping[str, Any], names: Sequence[str]) -> str | FieldFault:
    """Join the texts of a row's columns by lines; blank ones are left out.

    Lists of texts are joined by lines as well, and options get a letter each.
    """
    texts: list[str] = []
    lettered = options_among(names)
    for name in names:
        value = value_at(columns, name)
        if is_blank(value):
            continue
        leaf = normalize_key(name.rpartition(".")[2])
        if name in lettered:
            text = _option_text(value, name)
            text = text if isinstance(text, FieldFault) or _LETTERED.match(text) else f"{lettered[name]}. {text}"
        elif leaf in OPTION_NAMES:
            text = _read_options(value, name)
        else:
            text = read_steps(value, name)
        if isinstance(text, FieldFault):
            return text
        texts.append(text)
    return "\n".join(texts)


def options_among(names: Sequence[str]) -> dict[str, str]:
    """Return the letter of each column that holds one option (`A`, `option_b`, `choice3`); a single one is none."""
    found = {
        name: match for name in names if (match := _OPTION_COLUMN.fullmatch(normalize_key(name.rpartition(".")[2])))
    }
    numbers = [int(match[2]) for match in found.values() if match[2]]
    first = min(numbers, default=1)
    letters = {name: match[1].upper() if match[1] else chr(65 + int(match[2]) - first) for name, match in found.items()}
    return letters if {"A", "B"} <= set(letters.values()) else {}


def option_columns(values: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    """Return the columns of a file that hold the options of its questions: one for all, or one for each."""
    for name in values:
        if normalize_key(name) in OPTION_NAMES and any(_is_options(value) for value in values[name]):
            return (name,)
    letters = options_among([name for name in values if any(isinstance(value, str) for value in values[name])])
    return tuple(sorted(letters, key=lambda name: letters[name]))


def _is_options(value: Any) -> bool:
    found = as_container(value)
    return len(found) > 1 if isinstance(found, list | dict) else isinstance(found, str) and "\n" in found


def hold_options(texts: Sequence[Any], options: Sequence[Sequence[Any]]) -> bool:
    """Return True if most texts, such as questions, have their row's options in them already."""
    pairs = [
        (text, [part for value in row for part in _option_parts(value)])
        for text, row in zip(texts, options, strict=False)
        if isinstance(text, str)
    ]
    told = [all(part in text for part in parts) for text, parts in pairs if parts]
    return bool(told) and 2 * sum(told) > len(told)


def _option_parts(value: Any) -> list[str]:
    text = _read_options(value, "")
    return (
        [] if isinstance(text, FieldFault) else [_LETTERED.sub("", line, count=1).strip() for line in text.split("\n")]
    )


def _read_options(value: Any, field: str) -> str | FieldFault:
    """Read options as lines of a letter and a text each: from a list, an object, or a text, which is left as it is."""
    found = as_container(value)
    if isinstance(found, str):
        return read_text(found, field)
    labels: list[str] | None = None
    if isinstance(found, dict):
        text, label = found.get("text"), found.get("label")
        if isinstance(text, list) and isinstance(label, list) and len(text) == len(label):
            found, labels = text, list(map(str, label))
        else:
            labels, found = list(found), list(found.values())
    if not isinstance(found, list) or len(found) > 26:
        return FieldFault("not_text", f"{field}: is {short_repr(value)}, not a text or options")
    texts: list[str] = []
    for index, option in enumerate(found):
        text = "" if is_blank(option) else _option_text(option, f"{field}[{index}]")
        if isinstance(text, FieldFault):
            return text
        texts.append(text)
    if labels is None and all(_LETTERED.match(text) for text in texts if text):
        return "\n".join(filter(None, texts))
    letters = labels or [chr(65 + index) for index in range(len(texts))]
    return "\n".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True) if text)


def _option_text(option: Any, field: str) -> str | FieldFault:
    """Read one option: a text, a number, or an object with one text (and perhaps its letter)."""
    if isinstance(option, dict):
        letter = next((option[key] for key in option if normalize_key(key) in ("label", "key", "letter", "id")), None)
        texts = [inner for inner in option.values() if isinstance(inner, str) and inner != letter]
        if len(texts) != 1:
            return FieldFault("not_text", f"{field}: is {short_repr(option)}, not an option")
        return f"{letter}. {texts[0]}" if isinstance(letter, str) else texts[0]
    if isinstance(option, int | float) and not isinstance(option, bool):
        return str(option)
    return read_text(option, field)


def read_single(value: Any, field: str) -> str | FieldFault:
    """Read a question's or an answer's text; of a list, only one of one text is read, since several may be a choice."""
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], str):
            return read_text(value[0], f"{field}[0]")
        if len(value) > 1 and all(isinstance(element, str) for element in value):
            part = f"is a list of {len(value)} texts; to join them, write [{field}] in brackets under data.columns"
            return FieldFault("not_text", f"{field}: {part}")
    return read_text(value, field)


def is_text_list(value: Any) -> bool:
    """Return True for a list of texts, also one that is written as text."""
    found = read_literal(value) if isinstance(value, str) else value
    return isinstance(found, list) and len(found) > 0 and all(isinstance(element, str) for element in found)
