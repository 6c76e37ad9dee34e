"""Detect what a file's columns mean, from sample rows."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.mapping import (
    COLUMN_ALIASES,
    CONVERSATION_PARTS,
    INSTRUCTION_NAMES,
    MODE_NAMES,
    PAIR_PARTS,
    SAMPLE_ROWS,
    ColumnMapping,
    to_flow_yaml,
)
from thinktune.data.columns.messages import (
    MESSAGE_KEYS,
    is_blank,
    normalize_key,
)
from thinktune.data.columns.modes import parse_mode
from thinktune.data.columns.row_marks import truth_of
from thinktune.data.types import RawRow, gentler_policy
from thinktune.errors import UserError


def detect_columns(rows: Sequence[RawRow], columns: ColumnsConfig, ignore: Collection[str], file: str) -> ColumnMapping:
    """Detect the columns of a file from sample rows; the recipe's `columns` take precedence.

    A column that appears only after the sample counts as unused, so the sample should contain every set of columns.
    Raises UserError with every mistake and the mapping to write.
    """
    values = column_values(rows)
    if not values:
        raise UserError(_nothing_read(rows, file))
    given = columns.model_dump(exclude_none=True)
    searched = (
        f"none of the first {len(rows):,} rows of {file} has" if len(rows) >= SAMPLE_ROWS else f"no row of {file} has"
    )
    if mistakes := list(mapping_mistakes(given, values, ignore, searched)):
        raise UserError(mistakes)
    found = find_mapping(values, given, ignore)
    if isinstance(found, Undetected):
        raise UserError(
            f"{found.describe(file)}; write data.columns: {to_flow_yaml(found.wanted)} with the names of yours"
        )
    return found


@dataclass(frozen=True, slots=True)
class Undetected:
    """What the usual names of columns do not tell: the columns with their sample values, and the parts found or not."""

    values: Mapping[str, Sequence[Any]]
    names: Mapping[str, str | None]

    @property
    def missing(self) -> list[str]:
        """The parts that no column is recognized as."""
        return [part for part in ("question", "answer") if self.names[part] is None]

    @property
    def wanted(self) -> dict[str, str]:
        """A mapping with dots for the missing parts."""
        reasoning = ("reasoning",) if self.names["reasoning"] else ()
        return {part: self.names[part] or "…" for part in ("question", *reasoning, "answer")}

    @property
    def found(self) -> dict[str, str]:
        """The parts of a pair that are found."""
        return {part: name for part in ("question", "reasoning", "answer") if (name := self.names[part])}

    def describe(self, file: str) -> str:
        """Say which columns the file has and which parts are not recognized."""
        parts = " or the ".join(self.missing)
        return f"data.columns: {file} has the columns {_join_names(self.values)} and none is recognized as the {parts}"


def column_values(rows: Sequence[RawRow]) -> dict[str, list[Any]]:
    """Return the values of each column of sample rows."""
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in (row.columns or {}).items():
            values.setdefault(name, []).append(value)
    return values


def find_mapping(
    values: Mapping[str, list[Any]], given: Mapping[str, Any], ignore: Collection[str]
) -> ColumnMapping | Undetected:
    """Find the column of each part by the recipe's `given` names, else by usual names and what the columns hold."""
    names: dict[str, Any]
    free = {name: sample for name, sample in values.items() if name not in ignore and name not in given.values()}
    given_pair = any(part in given for part in ("question", "reasoning", "answer"))
    if "messages" in given or (not given_pair and _find_column("messages", free)):
        names = {part: given.get(part) or _find_column(part, free) for part in CONVERSATION_PARTS}
        return ColumnMapping(**names, message_format=_message_format(values[names["messages"]]), ignored=tuple(ignore))
    names = {part: given.get(part) or _find_column(part, free) for part in PAIR_PARTS}
    question, answer = names["question"], names["answer"]
    if question is None or answer is None:
        return Undetected({name: sample for name, sample in values.items() if name not in ignore}, names)
    if any(holds_messages(values[name]) for name in (question, answer)) or all(
        any(isinstance(value, list) for value in values[name]) for name in (question, answer)
    ):
        names |= {"reasoning": None, "input": None, "history": None}
        holder = answer if holds_messages(values[answer]) else question
        return ColumnMapping(
            **names, conversational=True, message_format=_message_format(values[holder]), ignored=tuple(ignore)
        )
    if normalize_key(question) not in INSTRUCTION_NAMES:
        names["input"] = None
    return ColumnMapping(**names, ignored=tuple(ignore))


def holds_messages(values: Sequence[Any]) -> bool:
    """Return True where a column's values are lists of messages, or single messages."""
    for value in values:
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict) and any(MESSAGE_KEYS.get(normalize_key(str(key))) == "role" for key in first):
            return True
    return False


def _nothing_read(rows: Sequence[RawRow], file: str) -> str:
    findings = [finding for row in rows[:3] for finding in row.findings[:1]]
    reasons = "; ".join(finding.sentence for finding in findings) or "all are empty"
    # Dropping what cannot be read leaves nothing, where nothing can be.
    repaired = sorted({finding.fault for finding in findings if gentler_policy(finding.fault) == "repair"})
    ways = "".join(f", or write data.faults: {{{fault}: repair}}" for fault in repaired)
    return f"{file}: no row can be read ({reasons}); fix the file{ways}"


def mapping_mistakes(
    given: dict[str, str], values: Collection[str], ignore: Collection[str], searched: str
) -> Iterator[str]:
    """Yield what is wrong with the column names that the recipe gives."""
    for part, name in given.items():
        if name not in values:
            yield f"data.columns.{part}: {searched} a column {name!r}; its columns are {_join_names(values)}"
        if name in ignore:
            yield f"data.columns.{part}: is {name!r}, which is also in data.ignore; remove it from one of them"
    if len(set(given.values())) < len(given):
        yield f"data.columns: {to_flow_yaml(given)} names a column twice; a column can be only one part"
    pair = [part for part in ("question", "reasoning", "answer") if part in given]
    if pair and "messages" in given:
        yield f"data.columns: messages holds whole conversations; remove {', '.join(pair)}, or messages"


def _find_column(part: str, free: dict[str, list[Any]]) -> str | None:
    """Find the column with the part's most preferred name whose values may be that part."""
    for spelling in COLUMN_ALIASES[part]:
        for name, sample in free.items():
            if normalize_key(name) == spelling and _may_hold(part, spelling, sample):
                return name
    return None


def _may_hold(part: str, name: str, values: list[Any]) -> bool:
    if part in ("question", "answer", "keypoint") or (part == "mode" and name in MODE_NAMES):
        return True
    named = [value for value in values if not is_blank(value)]
    if part == "label":
        return bool(named) and all(isinstance(value, bool | str) and truth_of(value) is not None for value in named)
    are_modes = bool(named) and all(parse_mode(value) is not None for value in named)
    if part == "mode" or (part == "reasoning" and are_modes):
        return part == "mode" and are_modes
    kind = list if part in ("messages", "history") else str
    return any(isinstance(value, kind) for value in values) or (part != "messages" and all(map(is_blank, values)))


def _message_format(values: list[Any]) -> str:
    """Describe for people how messages are written: their keys of role and content."""
    firsts = (value[0] if isinstance(value, list) and value else value for value in values)
    message = next((first for first in firsts if isinstance(first, dict)), {})
    return " / ".join(
        key for key in message if MESSAGE_KEYS.get(normalize_key(key)) in ("role", "content", "user", "assistant")
    )


def _join_names(names: Collection[str]) -> str:
    """Join the first twenty names for a sentence, shortened and printable."""
    shortened = [name[:40].encode("utf-8", "backslashreplace").decode() for name in list(names)[:20]]
    return ", ".join(shortened) + (", …" if len(names) > 20 else "")
