"""YAML read in one way: values by YAML 1.2, whatever a reader could take in two ways is a fault with its line."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from thinktune.errors import UserError

MAX_DEPTH = 20  # sections inside sections; a recipe has three
MAX_SHOWN_CHARACTERS = 40

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {spelling: word == "true" for word in ("true", "false") for spelling in (word, word.title(), word.upper())}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_OTHER_BASE = re.compile(r"[-+]?0[0-9_]+|[-+]?0[xXoObB][0-9a-fA-F_]+")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WITHOUT_SPACE = re.compile(r"(\s*(?:- +)?[A-Za-z_][\w.]*)(?::(?![:/\\\\])|\uff1a\s*)(\S.*)")  # \uff1a: a Chinese colon
_QUOTES = "put it in quotes if it is text"


class YamlSyntaxError(ValueError):
    """Text that is not YAML; `line` counts from 1 and is None where it is unknown."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


@dataclass(frozen=True, slots=True)
class YamlFault:
    """A place with two meanings: its line, its key path (`train.epochs`) and a sentence."""

    line: int
    key: str
    sentence: str


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Plain values of a document, the line of each key path, and what has two meanings."""

    value: Any
    lines: Mapping[str, int]
    faults: tuple[YamlFault, ...]


def parse_yaml(text: str) -> YamlDocument:
    """Parse one document; raises YamlSyntaxError where it is not YAML.

    Only `true` and `false` are booleans, numbers are decimal and finite, and everything else is a text: `yes`, `1:30`
    and `2026-01-01` as well. Faults are keys that stand twice, numbers of another base, numbers that are not finite,
    anchors, aliases, merge keys and tags.
    """
    try:
        return _Composer(text).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark and (missing := _missing_space(text, mark.line)):
            raise missing from None
        raise YamlSyntaxError(error.problem or error.context or "cannot be parsed", mark and mark.line + 1) from None
    except yaml.YAMLError as error:
        raise YamlSyntaxError(" ".join(str(error).split())[:200]) from None


def _missing_space(text: str, error_line: int) -> YamlSyntaxError | None:
    """Return an error that names the line whose colon lacks its space, if the text reads further with the space."""
    lines = text.split("\n")
    for number, line in enumerate(lines[: error_line + 1]):
        if not (spaced := with_space(line)):
            continue
        try:
            list(yaml.parse("\n".join((*lines[:number], spaced, *lines[number + 1 :])), Loader=yaml.SafeLoader))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            if not mark or mark.line <= error_line:
                continue
        except yaml.YAMLError:
            continue
        return YamlSyntaxError(
            f"a space is missing after a colon: write {spaced.strip()[:MAX_SHOWN_CHARACTERS]}", number + 1
        )
    return None


def with_space(line: str) -> str | None:
    """Return a line such as `epochs:10` as it was meant, with a colon and a space; None for any other line."""
    found = _WITHOUT_SPACE.fullmatch(line)
    return found and f"{found[1]}: {found[2]}"


def read_yaml(path: Path) -> YamlDocument:
    """Read a UTF-8 file; raises UserError where it is not YAML, OSError where it cannot be read."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not YAML in UTF-8 (byte {error.start + 1}); save it as UTF-8") from None
    except YamlSyntaxError as error:
        raise UserError(f"{path}{f':{error.line}' if error.line else ''}: is not YAML ({error}); correct it") from None


def read_values(path: Path) -> Any:
    """Read a file's values; raises UserError with every place that has two meanings, OSError where it is unreadable."""
    document = read_yaml(path)
    if document.faults:
        raise UserError([f"{path}:{fault.line}: {fault.sentence}" for fault in document.faults])
    return document.value


def is_text(plain: str) -> bool:
    """Return True if a value without quotes is read as that same text."""
    value, fault = _resolve(plain)
    return fault is None and value == plain


def _resolve(plain: str) -> tuple[Any, str | None]:
    """Return the value of an unquoted scalar, and what is wrong with it."""
    if plain in _NULLS:
        return None, None
    if plain in _BOOLEANS:
        return _BOOLEANS[plain], None
    if _NOT_FINITE.fullmatch(plain):
        return plain, f"is not a finite number; write one, or {_QUOTES}"
    if _OTHER_BASE.fullmatch(plain):
        return (
            plain,
            f"is not a decimal number, and YAML readers disagree on its base; write it in decimal, or {_QUOTES}",
        )
    if _INTEGER.fullmatch(plain) and len(plain) <= MAX_SHOWN_CHARACTERS:
        return int(plain), None
    if _FLOAT.fullmatch(plain):
        number = float(plain)
        if math.isinf(number):
            return plain, f"is too large for a number; write a smaller one, or {_QUOTES}"
        if not number and re.search("[1-9]", re.split("[eE]", plain)[0]):
            return plain, f"is too small for a number; write 0 or a larger one, or {_QUOTES}"
        return number, None
    return plain, None


@dataclass(slots=True)
class _Composer:
    """Builds values from the parser's events, so that depth is bounded and every key has a line."""

    REFUSED_MERGE: ClassVar = "is a merge key (<<); write those settings out"

    text: str
    lines: dict[str, int] = field(default_factory=dict[str, int])
    faults: list[YamlFault] = field(default_factory=list[YamlFault])

    def document(self) -> YamlDocument:
        events: Iterator[Any] = iter(yaml.parse(self.text, Loader=yaml.SafeLoader))
        value: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise YamlSyntaxError("a second document begins", event.start_mark.line + 1)
                value = self.node(next(events), events, "", 0)
        return YamlDocument(value, self.lines, tuple(self.faults))

    def node(self, event: Any, events: Iterator[Any], key: str, depth: int) -> Any:
        """Build the value that begins with an event."""
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise YamlSyntaxError(f"more than {MAX_DEPTH} sections or lists are inside each other", line)
        if isinstance(event, yaml.AliasEvent):
            self.fault(line, key, f"*{event.anchor}", f"is an alias; write the value out, or {_QUOTES}")
            return None
        if event.anchor is not None:
            self.fault(line, key, f"&{event.anchor}", f"is an anchor; leave it out, or {_QUOTES}")
        if event.tag is not None:
            self.fault(
                line, key, event.tag.replace("tag:yaml.org,2002:", "!!"), f"is a tag; leave it out, or {_QUOTES}"
            )
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(events, key, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(events, key, depth)
        return self.scalar(event, key)

    def mapping(self, events: Iterator[Any], key: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                self.node(event, events, key, depth + 1)
                self.fault(line, key, "", "has a key that is not text; write a name before the colon")
                self.node(next(events), events, key, depth + 1)
                continue
            name = event.value
            place = f"{key}.{name}" if key else name
            merges = name == "<<" and event.style is None
            meant = with_space(name) if event.style is None else None  # as in `{name:rows.jsonl}`
            if event.anchor is not None or event.tag is not None:
                self.fault(line, place, "", "has an anchor or a tag before it; leave it out")
            if merges:
                self.fault(line, place, "", self.REFUSED_MERGE)
            elif meant:
                place = f"{key}.{meant.partition(':')[0]}".removeprefix(".")
                self.fault(line, place, "", "has no space after its colon; write one")
            elif name in first:
                self.fault(line, place, "", f"appears twice, first in line {first[name]}; keep one")
            else:
                first[name] = line
                self.lines[place] = line
            value = self.node(next(events), events, place, depth + 1)
            if not merges and not meant:
                values.setdefault(name, value)
        return values

    def sequence(self, events: Iterator[Any], key: str, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            place = f"{key}.{len(values)}" if key else str(len(values))
            self.lines[place] = event.start_mark.line + 1
            values.append(self.node(event, events, place, depth + 1))
        return values

    def scalar(self, event: Any, key: str) -> Any:
        if event.style is not None:
            return event.value
        value, fault = _resolve(event.value)
        if fault:
            self.fault(event.start_mark.line + 1, key, event.value, fault)
        return value

    def fault(self, line: int, key: str, written: str, sentence: str) -> None:
        shown = written if len(written) <= MAX_SHOWN_CHARACTERS else f"{written[:MAX_SHOWN_CHARACTERS]}…"
        said = f"{shown} {sentence}".strip()
        self.faults.append(YamlFault(line, key, f"{key}: {said}" if key else said))
