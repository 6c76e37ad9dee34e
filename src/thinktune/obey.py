"""Does an answer keep to the form that its question asks for? Rules as plain data, each decided exactly."""

import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from thinktune.grade import IDEOGRAPHS, normalise, words


class Rules(BaseModel):
    """What an answer must keep to; every rule given must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    lines: int | None = None
    """So many lines that are not blank."""
    words: int | None = None
    """So many words, a Chinese character being one."""
    most_words: int | None = None
    """At most so many words."""
    json_keys: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """A JSON object with exactly these keys, in a code fence or not."""
    begins: str | None = None
    """Begins with this text."""
    ends: str | None = None
    """Ends with this text."""
    holds: tuple[str, ...] = ()
    """Holds each of these texts."""
    without: tuple[str, ...] = ()
    """Holds none of these texts."""
    numbered: int | None = None
    """A list numbered 1 to this."""
    one_of: tuple[str, ...] = ()
    """Is one of these texts, but for punctuation at its ends."""
    capitals: bool = False
    """All its Latin letters are capitals."""
    pattern: str | None = None
    """Matches this regular expression as a whole."""


def obeys(answer: str, rules: Rules) -> bool:
    """Whether an answer that is not blank keeps to every rule."""
    text = answer.strip()
    plain = normalise(text)
    count = len(words(text))
    checks = (
        rules.lines is None or len([line for line in text.splitlines() if line.strip()]) == rules.lines,
        rules.words is None or count == rules.words,
        rules.most_words is None or count <= rules.most_words,
        rules.json_keys is None or _keys(text) == sorted(rules.json_keys),
        rules.begins is None or plain.startswith(normalise(rules.begins)),
        rules.ends is None or plain.endswith(normalise(rules.ends)),
        all(normalise(piece) in plain for piece in rules.holds),
        not any(normalise(piece) in plain for piece in rules.without),
        rules.numbered is None or _numbers(text) == list(range(1, rules.numbered + 1)),
        not rules.one_of or plain.strip(" .。!！\"'“”") in {normalise(piece) for piece in rules.one_of},
        not rules.capitals or (text == text.upper() and text != text.lower()),
        rules.pattern is None or re.fullmatch(rules.pattern, text) is not None,
    )
    return bool(text) and all(checks)


def _keys(text: str) -> list[str] | None:
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        value: Any = json.loads(fenced[1] if fenced else text)
    except ValueError:
        return None
    return sorted(value) if isinstance(value, dict) else None


def _numbers(text: str) -> list[int]:
    return [
        int(found) for found in re.findall(rf"^\s*(\d{{1,3}})\s*[.)、．](?=\s|[{IDEOGRAPHS}]|\w)", text, re.MULTILINE)
    ]
