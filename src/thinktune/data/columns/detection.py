"""Detect what a file's columns mean, from sample rows."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.fields import FieldFault
from thinktune.data.columns.joining import hold_options, is_text_list, option_columns
from thinktune.data.columns.mapping import (
    COLUMN_ALIASES,
    CONVERSATION_PARTS,
    INSTRUCTION_NAMES,
    MODE_NAMES,
    PAIR_PARTS,
    SAMPLE_ROWS,
    ColumnMapping,
    names_of,
    to_flow_yaml,
)
from thinktune.data.columns.message_names import (
    MessageNames,
    as_messages,
    detect_message_names,
    holds_messages,
    is_blank,
    normalize_key,
    sample_messages,
    unknown_speakers,
)
from thinktune.data.columns.messages import read_messages
from thinktune.data.columns.modes import parse_mode
from thinktune.data.columns.paths import as_container, has_path, nested_columns, value_at
from thinktune.data.columns.row_marks import truth_of
from thinktune.data.types import RawRow, gentler_policy
from thinktune.errors import UserError

EFFORTS = frozenset(("none", "minimal", "low", "medium", "high", "xhigh", "max", "auto"))  # of reasoning, not reasoning


NESTED_PARTS = ("messages", "question", "reasoning", "answer", "system")  # looked for inside of objects as well


def detect_columns(rows: Sequence[RawRow], columns: ColumnsConfig, ignore: Collection[str], file: str) -> ColumnMapping:
    """Detect the columns of a file from sample rows; the recipe's `columns` take precedence.

    A column that appears only after the sample counts as unused, so the sample should contain every set of columns.
    Raises UserError with every mistake and the mapping to write.
    """
    values = column_values(rows)
    if not values:
        raise UserError(_nothing_read(rows, file))
    given = given_parts(columns)
    searched = (
        f"none of the first {len(rows):,} rows of {file} has" if len(rows) >= SAMPLE_ROWS else f"no row of {file} has"
    )
    if mistakes := list(mapping_mistakes(given, rows, ignore, searched)):
        raise UserError(mistakes)
    found = find_mapping(rows, columns, ignore)
    if isinstance(found, Undetected):
        raise UserError(
            f"{found.describe(file)}; write data.columns: {to_flow_yaml(found.wanted)} with the names of yours"
        )
    if unknown := _unknown_roles(rows, found, file):
        raise UserError(unknown)
    return found


@dataclass(frozen=True, slots=True)
class Undetected:
    """What the usual names of columns do not tell: the columns with their sample values, and the parts found or not."""

    values: Mapping[str, Sequence[Any]]
    names: Mapping[str, Any]

    @property
    def missing(self) -> list[str]:
        """The parts that no column is recognized as."""
        return [part for part in ("question", "answer") if self.names[part] is None]

    @property
    def wanted(self) -> dict[str, Any]:
        """A mapping with dots for the missing parts."""
        reasoning = ("reasoning",) if self.names["reasoning"] else ()
        return {part: self.names[part] or "…" for part in ("question", *reasoning, "answer")}

    @property
    def found(self) -> dict[str, Any]:
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


def given_parts(columns: ColumnsConfig) -> dict[str, Any]:
    """Return the columns that the recipe names, by part."""
    return columns.model_dump(exclude_none=True, exclude={"roles"})


def find_mapping(rows: Sequence[RawRow], columns: ColumnsConfig, ignore: Collection[str]) -> ColumnMapping | Undetected:
    """Find the column of each part by the names that the recipe gives, else by usual names and what columns hold."""
    values, given = column_values(rows), given_parts(columns)
    taken = {name for part in given.values() for name in names_of(part)}
    free = {name: sample for name, sample in values.items() if name not in ignore and name not in taken}
    names: dict[str, Any] = {part: given.get(part) or _find_column(part, free) for part in PAIR_PARTS}
    names["messages"] = given.get("messages")
    given_pair = any(part in given for part in ("question", "answer"))
    if names["messages"] is None and not given_pair:
        names["messages"] = _find_column("messages", free)
    if names["messages"] is None and (names["question"] is None or names["answer"] is None):
        names |= _find_nested(names, free, ignore, given_pair)
    asked = names["messages"] if "messages" not in given and names["answer"] is not None else None
    if asked is not None and all(map(_ends_on_user, _filled(rows, asked))):
        names["question"], names["messages"] = asked, None  # the reply stands beside the messages
    if names["messages"] is not None:
        kept = {part: names[part] for part in CONVERSATION_PARTS}
        return _with_messages(ColumnMapping(**kept, ignored=tuple(ignore)), rows, columns)
    names = {part: names[part] for part in PAIR_PARTS}
    if names["question"] is None or names["answer"] is None:
        return Undetected({name: sample for name, sample in values.items() if name not in ignore}, names)
    return _pair_mapping(names, rows, columns, ignore)


def _pair_mapping(
    names: dict[str, Any], rows: Sequence[RawRow], columns: ColumnsConfig, ignore: Collection[str]
) -> ColumnMapping:
    """Return the mapping of a question and an answer, which are texts or messages."""
    parts = [part for part in (names["question"], names["answer"]) if isinstance(part, str)]
    filled = {part: _filled(rows, part) for part in parts}
    conversational = tuple(part for part in parts if any(map(holds_messages, filled[part])))
    if (
        names["question"] in conversational
        or normalize_key("".join(names_of(names["question"]))) not in INSTRUCTION_NAMES
    ):
        names["input"] = None
    if names["question"] in conversational:
        names["history"] = None
    mapping = ColumnMapping(**names, conversational=conversational, ignored=tuple(ignore))
    if conversational:
        return _with_messages(mapping, rows, columns)
    if columns.question is None:
        mapping = _with_options(mapping, rows)
    return replace(mapping, notes=tuple(_notes(mapping, rows)))


def _with_messages(mapping: ColumnMapping, rows: Sequence[RawRow], columns: ColumnsConfig) -> ColumnMapping:
    """Return a mapping of messages with the names that are used in them."""
    samples = [value for name in mapping.message_columns for value in _filled(rows, name)]
    roles = {speaker: names_of(names) for speaker, names in columns.roles.items()}
    names = detect_message_names(samples, mapping.reasoning_key, roles)
    mapping = replace(mapping, message_names=names, message_format=_message_format(samples, names))
    if columns.reasoning is None and mapping.reasoning is not None and _replies_reason(mapping, rows):
        mapping = replace(mapping, reasoning=None)
    return replace(mapping, notes=tuple(_notes(mapping, rows)))


def _replies_reason(mapping: ColumnMapping, rows: Sequence[RawRow]) -> bool:
    """Return True if most last replies have reasoning of their own, so that a column beside them is something else."""
    name = names_of(mapping.messages)[:1] or mapping.conversational[-1:]
    read = [read_messages(value, name[0], mapping.message_names) for value in _filled(rows, name[0])]
    last = [turns[-1][0] for turns in read if not isinstance(turns, FieldFault) and turns]
    # A long sample is cut, and then its think tag is open.
    own = [turn.has_reasoning or turn.content.lstrip().startswith("<think>") for turn in last]
    return 2 * sum(own) > len(own)


def _with_options(mapping: ColumnMapping, rows: Sequence[RawRow]) -> ColumnMapping:
    """Return a mapping whose question is joined with its options, where the question does not hold them already."""
    used = {name for name in mapping.used_columns if name is not None}
    free = {name: sample for name, sample in column_values(rows).items() if name not in used | set(mapping.ignored)}
    options = option_columns(free)
    question = (*names_of(mapping.question), *names_of(mapping.input))
    if not options:
        return mapping
    asked = ["\n".join(str(value_at(row.columns or {}, name)) for name in question) for row in rows]
    if hold_options(asked, [[value_at(row.columns or {}, name) for name in options] for row in rows]):
        return mapping
    return replace(mapping, question=(*question, *options), input=None)


def _filled(rows: Sequence[RawRow], name: str) -> list[Any]:
    """Return the values of a column, or a path, that are not blank."""
    return [value for row in rows if not is_blank(value := value_at(row.columns or {}, name))]


def _ends_on_user(value: Any) -> bool:
    messages = as_messages(value)
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return False
    names = detect_message_names([messages])
    last: dict[str, Any] = messages[-1]
    role = next((inner for key, inner in last.items() if names.meaning_of(key, True) == "role"), None)
    return isinstance(role, str) and names.speaker_of(role) == "user"


def _find_nested(
    names: Mapping[str, Any], free: Mapping[str, list[Any]], ignore: Collection[str], given_pair: bool
) -> dict[str, str]:
    """Find the parts that no column holds inside of columns' objects.

    Of several paths that could be a part, none is taken, unless they are one message in different depths.
    """
    nested = {path: sample for path, sample in nested_columns(free).items() if path not in ignore}
    found: dict[str, str] = {}
    for part in NESTED_PARTS:
        if names.get(part) is not None or (part == "messages" and given_pair):
            continue
        paths = _paths_of(part, nested)
        if len(paths) == 1:
            found[part] = paths[0]
    message = _paths_of("reply", nested)
    if "answer" not in found and names["answer"] is None and len(message) == 1:
        found["answer"] = message[0]
        if found.get("reasoning", "").startswith(f"{message[0]}."):
            del found["reasoning"]
    return found


def _paths_of(part: str, nested: Mapping[str, list[Any]]) -> list[str]:
    if part == "reply":
        return [path for path, sample in nested.items() if all(map(_is_reply, sample))]
    for spelling in COLUMN_ALIASES[part]:
        paths = [
            path
            for path, sample in nested.items()
            if normalize_key(path.rpartition(".")[2]) == spelling and _may_hold(part, spelling, sample)
        ]
        if paths:
            return paths
    return []


def _is_reply(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") == "assistant" and "content" in value


def _nothing_read(rows: Sequence[RawRow], file: str) -> str:
    findings = [finding for row in rows[:3] for finding in row.findings[:1]]
    reasons = "; ".join(finding.sentence for finding in findings) or "all are empty"
    # To drop what cannot be read leaves nothing where that is every row.
    repairable = sorted({finding.fault for finding in findings if gentler_policy(finding.fault) == "repair"})
    ways = "".join(f", or write data.faults: {{{fault}: repair}}" for fault in repairable)
    return f"{file}: no row can be read ({reasons}); fix the file{ways}"


def mapping_mistakes(
    given: Mapping[str, Any], rows: Sequence[RawRow], ignore: Collection[str], searched: str
) -> Iterator[str]:
    """Yield what is wrong with the column names that the recipe gives."""
    values = column_values(rows)
    for part, names in given.items():
        for name in names_of(names):
            if not any(has_path(row.columns or {}, name) or _has_key(row.columns or {}, name) for row in rows):
                top = name.partition(".")[0]
                inside = f"; {top} holds {_join_names(inner)}" if (inner := _keys_inside(top, values)) else ""
                columns = inside or f"; its columns are {_join_names(values)}"
                yield f"data.columns.{part}: {searched} a column {name!r}{columns}"
            if name in ignore:
                yield f"data.columns.{part}: is {name!r}, which is also in data.ignore; remove it from one of them"
    given_names = [name for names in given.values() for name in names_of(names)]
    if len(set(given_names)) < len(given_names):
        shown = to_flow_yaml({part: names if isinstance(names, str) else list(names) for part, names in given.items()})
        yield f"data.columns: {shown} names a column twice; a column can be only one part"
    pair = [part for part in ("question", "answer") if part in given]
    if pair and "messages" in given:
        yield f"data.columns: messages holds whole conversations; remove {', '.join(pair)}, or messages"


def _has_key(columns: Mapping[str, Any], path: str) -> bool:
    """Return True if a path names a key of a row's messages."""
    column, _, key = path.rpartition(".")
    return any(key in message for message in sample_messages([value_at(columns, column)])) if column else False


def _keys_inside(name: str, values: Mapping[str, list[Any]]) -> list[str]:
    return list(nested_columns({name: values[name]})) if name in values else []


def _unknown_roles(rows: Sequence[RawRow], mapping: ColumnMapping, file: str) -> str | None:
    """Describe the roles of a file's messages where none of its conversations has both a user and an assistant."""
    if mapping.messages is None:
        return None
    found = unknown_speakers(_filled(rows, mapping.messages), mapping.message_names)
    if found is None:
        return None
    first, others = (names[:8] for names in found)
    roles = {"user": _one_or_all(first), "assistant": _one_or_all(others)}
    wanted = {"messages": mapping.messages, "roles": {role: names for role, names in roles.items() if names}}
    return (
        f"data.columns.roles: in {mapping.messages} of {file} speak {_join_names([*first, *others])}, and it is "
        f"unclear who asks and who answers; write data.columns: {to_flow_yaml(wanted)} if that is who they are"
    )


def _one_or_all(names: list[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else names


def _find_column(part: str, free: Mapping[str, list[Any]]) -> str | None:
    """Find the column with the part's most preferred name whose values may be that part."""
    for spelling in COLUMN_ALIASES[part]:
        for name, sample in free.items():
            if normalize_key(name) == spelling and _may_hold(part, spelling, sample):
                return name
    return None


def _may_hold(part: str, name: str, values: list[Any]) -> bool:
    if part in ("keypoint", "mode") and (part == "keypoint" or name in MODE_NAMES):
        return True
    filled = [value for value in values if not is_blank(value)]
    if part in ("question", "answer"):
        # An object is neither, unless it is a message; its keys may be.
        return not filled or not all(isinstance(value, dict) and not holds_messages(value) for value in filled)
    if part == "label":
        return bool(filled) and all(isinstance(value, bool | str) and truth_of(value) is not None for value in filled)
    are_modes = bool(filled) and all(parse_mode(value) is not None for value in filled)
    if part == "mode" or (part == "reasoning" and are_modes):
        return part == "mode" and are_modes
    if part == "messages":
        return any(_may_be_conversation(value) for value in filled)
    if not filled:
        return True
    if part == "reasoning":
        if all(isinstance(value, str) and value.strip().casefold() in EFFORTS for value in filled):
            return False
        return any(isinstance(value, str) or is_text_list(value) or _are_steps(value) for value in filled)
    if part == "history":
        return any(isinstance(as_container(value), list) for value in filled)
    return any(isinstance(value, str) for value in filled)


def _are_steps(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(step, dict) for step in value)


def _may_be_conversation(value: Any) -> bool:
    if isinstance(value, list):
        return True
    return isinstance(as_messages(value), list) and holds_messages(value)


def _message_format(samples: Sequence[Any], names: MessageNames) -> str:
    """Describe for people how messages are written: their keys of role and content."""
    if all(is_text_list(value) for value in samples) and samples:
        return "texts in turn"
    firsts = (found[0] for value in samples if isinstance(found := as_messages(value), list) and found)
    first = next((first for first in firsts if isinstance(first, dict)), None)
    if first is None:
        return "pairs" if samples else ""
    has_role = names.has_role(first)
    shown = ("role", "content", "system", "user", "reasoning", "assistant")
    return " / ".join(key for key in first if names.meaning_of(key, has_role) in shown)


def _notes(mapping: ColumnMapping, rows: Sequence[RawRow]) -> Iterator[str]:
    """Yield for people what is done to read the parts, beside taking them from their columns."""
    for name in mapping.message_columns:
        if any(isinstance(value, str) and holds_messages(value) for value in _filled(rows, name)):
            yield f"{name} is text that spells messages"
    if isinstance(mapping.reasoning, str) and any(
        is_text_list(value) or _are_steps(value) for value in _filled(rows, mapping.reasoning)
    ):
        yield f"the steps in {mapping.reasoning} are joined by lines"
    for speaker in ("user", "assistant", "system"):
        roles = _unusual_roles(mapping, rows, speaker)
        if roles:
            yield f"{', '.join(roles)} = {speaker}"


def _unusual_roles(mapping: ColumnMapping, rows: Sequence[RawRow], speaker: str) -> list[str]:
    """Return the names that speak as a role in the sample and are not its common ones."""
    common = {"user", "human", "assistant", "gpt", "chatgpt", "bot", "model", "system", "developer"}
    names = mapping.message_names
    found: dict[str, None] = {}
    for message in (
        message for column in mapping.message_columns for message in sample_messages(_filled(rows, column))
    ):
        has_role = names.has_role(message)
        for key, value in message.items():
            is_role = names.meaning_of(key, has_role) == "role"
            role = value if is_role else key if not has_role else None
            if not isinstance(role, str) or normalize_key(role) in common:
                continue
            if (names.speaker_of(role) if has_role else names.meaning_of(role, False)) == speaker:
                found[role] = None
    return list(found)[:6]


def _join_names(names: Collection[str]) -> str:
    """Join the first twenty names for a sentence, shortened and printable."""
    shortened = [name[:40].encode("utf-8", "backslashreplace").decode() for name in list(names)[:20]]
    return ", ".join(shortened) + (", …" if len(names) > 20 else "")
