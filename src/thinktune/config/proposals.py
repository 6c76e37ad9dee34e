"""Changes of a recipe that a sentence proposes: what `check` says to write, read back as settings."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from thinktune.config.strict_yaml import YamlSyntaxError, parse_yaml

SECTIONS = ("data", "model", "train", "expert", "generate")
_CHANGE = re.compile(
    r"(?:(?<=write )|(?<=write it and )|(?<=, or )|(?<=or write )| and )(([a-z]+)\.(?:[0-9]+\.)?[a-z_]+): "
)


@dataclass(frozen=True, slots=True)
class Change:
    """Settings that a sentence proposes together."""

    values: Mapping[str, Any]
    sentence: str


def read_changes(sentence: str, sections: Collection[str] = SECTIONS) -> Iterator[Change]:
    """Read the changes of the recipe that a sentence proposes, as in `write data.ignore: [a] and data.columns: {…}`.

    Settings of other sections than those named are passed over.
    """
    values: dict[str, Any] = {}
    end = 0
    for found in _CHANGE.finditer(sentence):
        if found.start() < end or found[2] not in sections:
            continue  # inside the value before, or none of those asked for
        together = sentence[end : found.start(1)] == " and "
        if values and not together:
            yield Change(values, sentence)
            values = {}
        text, end = _value_at(sentence, found.end())
        try:
            values = {**values, found[1]: parse_yaml(text).value}
        except YamlSyntaxError:
            continue
    if values:
        yield Change(values, sentence)


def _value_at(sentence: str, start: int) -> tuple[str, int]:
    """Return the YAML value that begins at a place of a sentence, and where it ends."""
    depth, quote = 0, ""
    for place in range(start, len(sentence)):
        letter = sentence[place]
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (depth or place == start):
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
            if not depth:
                return sentence[start : place + 1], place + 1
        elif not depth and letter in " ,;)":
            return sentence[start:place], place
    return sentence[start:].rstrip("."), len(sentence)
