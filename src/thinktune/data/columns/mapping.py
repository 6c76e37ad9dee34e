"""Detect what a file's columns mean, and read a raw row as an example by that mapping."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.messages import (
    MESSAGE_KEYS,
    REASONING_KEYS,
    FieldFault,
    TurnWithFields,
    assistant_turn,
    find_turn_order_fault,
    is_blank,
    normalize_key,
    read_history,
    read_messages,
    read_mode,
    read_text,
    with_row_system_prompt,
)
from thinktune.data.columns.modes import parse_mode, set_modes
from thinktune.data.types import Finding, RawRow, suggest_policy
from thinktune.errors import UserError
from thinktune.tokenization import Example, Turn

SAMPLE_ROWS = 200  # of each file, from which its columns are detected


# Columns with these names hold a row's own mode, thinking or silent, whatever is in them.
MODE_NAMES = ("chat_template_kwargs", "enable_thinking", "thinking_mode", "reasoning_mode", "think_mode", "思考模式")


# Usual column names of each part, preferred names first; a column with such a name is never left out silently.
COLUMN_ALIASES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "对话"),
    "question": (
        *("question", "query", "prompt", "problem", "instruction", "input", "user", "human"),
        *("问题", "提问", "指令", "输入"),
    ),
    "input": ("input", "输入"),
    "history": ("history", "历史"),
    "reasoning": REASONING_KEYS,
    "answer": (
        *("answer", "response", "output", "completion", "assistant", "solution", "reply"),
        *("答案", "回答", "回复", "输出"),
    ),
    "system": ("system", "system_prompt", "system_message", "系统", "系统提示", "系统提示词"),
    "keypoint": ("keypoint", "key_point"),
    "tools": ("tools", "functions"),
    # The others are also names of other things, so only what is in them makes them a mode.
    "mode": (*MODE_NAMES, "mode", "use_thinking", "use_reasoning", *REASONING_KEYS),
}


PART_OF_COLUMN = {
    name: part for part, names in COLUMN_ALIASES.items() for name in (MODE_NAMES if part == "mode" else names)
}


INSTRUCTION_NAMES = ("instruction", "指令")  # only such a question is joined with an input column


CONVERSATION_PARTS = ("messages", "system", "keypoint", "mode")


PAIR_PARTS = ("question", "input", "history", "reasoning", "answer", "system", "keypoint", "mode")


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """The column of a file that holds each part, or None.

    `conversational`: question and answer are lists of messages; `message_format`: the messages' keys, for people.
    """

    question: str | None = None
    input: str | None = None
    history: str | None = None
    reasoning: str | None = None
    answer: str | None = None
    messages: str | None = None
    system: str | None = None
    keypoint: str | None = None
    mode: str | None = None
    conversational: bool = False
    message_format: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def used_columns(self) -> tuple[str | None, ...]:
        """All columns that are read; None for parts without a column."""
        pair = (self.question, self.reasoning, self.answer, self.input, self.history)
        return (*pair, self.messages, self.system, self.keypoint, self.mode)

    @property
    def message_columns(self) -> tuple[str, ...]:
        """Columns that hold lists of messages."""
        names = (self.messages, *((self.question, self.answer) if self.conversational else ()))
        return tuple(name for name in names if name is not None)

    @property
    def as_recipe_value(self) -> str:
        """The value of `data.columns` that gives this mapping."""
        return to_flow_yaml(
            {part: name for part in ColumnsConfig.model_fields if (name := getattr(self, part)) is not None}
        )

    def describe(self) -> str:
        """Describe in one line which part is read from which column."""
        question = " + ".join(name for name in (self.question, self.input) if name)
        more = [
            f"{part} = {name}" for part in ("system", "history", "keypoint", "mode") if (name := getattr(self, part))
        ]
        if self.message_columns:
            head = f"messages: {' + '.join(self.message_columns)}" + (
                f" ({self.message_format})" if self.message_format else ""
            )
        else:
            alpaca = normalize_key(self.question or "") in INSTRUCTION_NAMES and normalize_key(self.answer or "") in (
                "output",
                "输出",
            )
            head = f"{'alpaca' if alpaca else 'columns'}: question = {question}"
            reasoning = [f"reasoning = {self.reasoning}"] if self.reasoning else []
            inside = "" if reasoning else " (reasoning inside think tags)"
            more = [*reasoning, f"answer = {self.answer}{inside}", *more]
        return ", ".join((head, *more)) + (f"; ignored: {', '.join(self.ignored)}" if self.ignored else "")


@dataclass(frozen=True, slots=True)
class UncheckedExample:
    """An example before the row checks, and for each turn the names of its content and reasoning fields."""

    example: Example
    field_names: tuple[tuple[str, str], ...]


def detect_columns(rows: Sequence[RawRow], columns: ColumnsConfig, ignore: Collection[str], file: str) -> ColumnMapping:
    """Detect the columns of a file from sample rows; the recipe's `columns` take precedence.

    A column that appears only after the sample counts as unused, so the sample should contain every set of columns.
    Raises UserError with every mistake and the mapping to write.
    """
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in (row.columns or {}).items():
            values.setdefault(name, []).append(value)
    if not values:
        raise UserError(_nothing_read(rows, file))
    given = columns.model_dump(exclude_none=True)
    searched = (
        f"none of the first {len(rows):,} rows of {file} has" if len(rows) >= SAMPLE_ROWS else f"no row of {file} has"
    )
    if mistakes := list(_mapping_mistakes(given, values, ignore, searched)):
        raise UserError(mistakes)
    names: dict[str, Any]
    free = {name: sample for name, sample in values.items() if name not in ignore and name not in given.values()}
    given_pair = any(part in given for part in ("question", "reasoning", "answer"))
    if "messages" in given or (not given_pair and _find_column("messages", free)):
        names = {part: given.get(part) or _find_column(part, free) for part in CONVERSATION_PARTS}
        return ColumnMapping(**names, message_format=_message_format(values[names["messages"]]), ignored=tuple(ignore))
    names = {part: given.get(part) or _find_column(part, free) for part in PAIR_PARTS}
    question, answer = names["question"], names["answer"]
    if question is None or answer is None:
        missing = [part for part in ("question", "answer") if names[part] is None]
        reasoning = ("reasoning",) if names["reasoning"] else ()
        wanted = {part: names[part] or "…" for part in ("question", *reasoning, "answer")}
        raise UserError(
            f"data.columns: {file} has the columns {_join_names(values)} and none is recognized as "
            f"the {' or the '.join(missing)}; write data.columns: {to_flow_yaml(wanted)}"
        )
    if all(any(isinstance(value, list) for value in values[name]) for name in (question, answer)):
        names |= {"reasoning": None, "input": None, "history": None}
        return ColumnMapping(
            **names, conversational=True, message_format=_message_format(values[answer]), ignored=tuple(ignore)
        )
    if normalize_key(question) not in INSTRUCTION_NAMES:
        names["input"] = None
    return ColumnMapping(**names, ignored=tuple(ignore))


def to_example(row: RawRow, mapping: ColumnMapping) -> UncheckedExample | Finding:
    """Read a row as an example, with its own system prompt if it has one; or return why it cannot be read."""
    columns = row.columns
    if columns is None:
        return row.findings[0] if row.findings else Finding("unreadable", f"{row.source}: cannot be read")
    read = _read_row(columns, mapping)
    if isinstance(read, FieldFault):
        return Finding(read.fault, f"{row.source}: {read.sentence}")
    turns_with_fields, keypoint = read
    turns, field_names = zip(*turns_with_fields, strict=True)
    return UncheckedExample(Example(turns, row.source, keypoint), field_names)


def _read_row(columns: dict[str, Any], mapping: ColumnMapping) -> tuple[list[TurnWithFields], str | None] | FieldFault:
    """Read a row's turns and its keypoint."""
    needed = (mapping.messages,) if mapping.messages is not None else (mapping.question, mapping.answer)
    for name in needed:
        if name not in columns:
            return FieldFault("unreadable", f"{name}: the row has no such column")
    turns = _conversation_turns(columns, mapping) if mapping.message_columns else _pair_turns(columns, mapping)
    if isinstance(turns, FieldFault):
        return turns
    system = _column_text(columns, mapping.system)
    if isinstance(system, FieldFault):
        return system
    turns = with_row_system_prompt(turns, system, mapping.system or "")
    if isinstance(turns, FieldFault):
        return turns
    keypoint = _keypoint(columns, mapping.keypoint)
    if isinstance(keypoint, FieldFault):
        return keypoint
    mode = read_mode(columns.get(mapping.mode), mapping.mode) if mapping.mode else None
    if isinstance(mode, FieldFault):
        return mode
    return find_turn_order_fault(turns) or (set_modes(turns, mode), keypoint)


def _nothing_read(rows: Sequence[RawRow], file: str) -> str:
    findings = [finding for row in rows[:3] for finding in row.findings[:1]]
    reasons = "; ".join(finding.sentence for finding in findings) or "all are empty"
    ways = "".join(f", or {suggest_policy(fault)}" for fault in sorted({finding.fault for finding in findings}))
    return f"{file}: no row can be read ({reasons}); fix the file{ways}"


def _mapping_mistakes(
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
    are_modes = bool(named) and all(parse_mode(value) is not None for value in named)
    if part == "mode" or (part == "reasoning" and are_modes):
        return part == "mode" and are_modes
    kind = list if part in ("messages", "history") else str
    return any(isinstance(value, kind) for value in values) or (part != "messages" and all(map(is_blank, values)))


def _conversation_turns(columns: dict[str, Any], mapping: ColumnMapping) -> list[TurnWithFields] | FieldFault:
    turns: list[TurnWithFields] = []
    for name in mapping.message_columns:
        # Of a prompt and its completion, both lists of messages, only the completion is trained.
        turns = [(replace(turn, trained=False), field_names) for turn, field_names in turns]
        found = read_messages(columns[name], name)
        if isinstance(found, FieldFault):
            return found
        turns += found
    return turns


def _pair_turns(columns: dict[str, Any], mapping: ColumnMapping) -> list[TurnWithFields] | FieldFault:
    """Read a question and its answer as two turns, after the history if there is one."""
    question_name, answer_name = mapping.question or "", mapping.answer or ""
    history = read_history(columns.get(mapping.history), mapping.history) if mapping.history else []
    if isinstance(history, FieldFault):
        return history
    question = read_text(columns[question_name], question_name)
    if isinstance(question, FieldFault):
        return question
    joined = _column_text(columns, mapping.input)
    if isinstance(joined, FieldFault):
        return joined
    if not is_blank(joined):
        question, question_name = f"{question}\n{joined}", f"{question_name} + {mapping.input}"
    reasoning = _column_text(columns, mapping.reasoning)
    if isinstance(reasoning, FieldFault):
        return reasoning
    answer = read_text(columns[answer_name], answer_name)
    if isinstance(answer, FieldFault):
        return answer
    reply = assistant_turn(answer, reasoning, (answer_name, mapping.reasoning or answer_name))
    return [*history, (Turn("user", question), (question_name, "")), reply]


def _column_text(columns: dict[str, Any], name: str | None) -> str | FieldFault:
    """Read the text of a column that the file or the row may lack."""
    return "" if name is None else read_text(columns.get(name), name)


def _keypoint(columns: dict[str, Any], name: str | None) -> str | FieldFault | None:
    value = columns.get(name) if name is not None else None
    if value is None or name is None:
        return None
    return read_text(value if isinstance(value, str | list | dict) else str(value), name)


def _message_format(values: list[Any]) -> str:
    """Describe for people how messages are written: their keys of role and content."""
    message = next(
        (value[0] for value in values if isinstance(value, list) and value and isinstance(value[0], dict)), {}
    )
    return " / ".join(
        key for key in message if MESSAGE_KEYS.get(normalize_key(key)) in ("role", "content", "user", "assistant")
    )


def _join_names(names: Collection[str]) -> str:
    """Join the first twenty names for a sentence, shortened and printable."""
    shortened = [name[:40].encode("utf-8", "backslashreplace").decode() for name in list(names)[:20]]
    return ", ".join(shortened) + (", …" if len(names) > 20 else "")


def to_flow_yaml(value: Any) -> str:
    """Write a value as a recipe does, on one line."""
    return yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf")
    ).strip()


TEXT_HEAVY_CHARACTERS = 20  # a column longer than this on average is prose that someone may have meant to train


@dataclass(slots=True)
class UnusedColumns:
    """Text in columns, and in keys of messages, that are neither used nor ignored.

    `counts` holds, for each column or `column.key`, the rows with text in it and the characters of these texts.
    """

    counts: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    def add_row(self, row: RawRow, mapping: ColumnMapping) -> None:
        """Count a row's texts."""
        used, conversations = mapping.used_columns, mapping.message_columns
        for name, value in (row.columns or {}).items():
            if name in conversations:
                for message in value if isinstance(value, list) else ():
                    for key in message if isinstance(message, dict) else ():
                        if normalize_key(key) not in MESSAGE_KEYS and f"{name}.{key}" not in mapping.ignored:
                            self._add_value(f"{name}.{key}", message[key])
            elif name not in used and name not in mapping.ignored:
                self._add_value(name, value)

    def merge(self, other: "UnusedColumns") -> None:
        """Add the counts of other rows of the same file."""
        for name, (rows, characters) in other.counts.items():
            self._add(name, rows, characters)

    def refuse(self, mapping: ColumnMapping, file: str) -> None:
        """Raise UserError, with the mapping to write, if prose or a column with a usual name would be left out."""
        refused = sorted(name for name in self.counts if self._is_prose(name) or normalize_key(name) in PART_OF_COLUMN)
        if not refused:
            return
        faults = [f"data.ignore: column {name!r} of {file} {self._remedy(name, mapping)}" for name in refused]
        remedy = f"if that is right, write it and data.ignore: {to_flow_yaml([*mapping.ignored, *refused])}"
        raise UserError([*faults, f"data.columns: {file} is read as data.columns: {mapping.as_recipe_value}; {remedy}"])

    def _add_value(self, name: str, value: Any) -> None:
        if _may_be_text(name, value) and not is_blank(value):
            self._add(name, 1, len(value))

    def _add(self, name: str, rows: int, characters: int) -> None:
        old_rows, old_characters = self.counts.get(name, (0, 0))
        self.counts[name] = old_rows + rows, old_characters + characters

    def _is_prose(self, name: str) -> bool:
        rows, characters = self.counts[name]
        return characters > TEXT_HEAVY_CHARACTERS * rows

    def _remedy(self, name: str, mapping: ColumnMapping) -> str:
        ignore, part = f"data.ignore: {to_flow_yaml([name])}", PART_OF_COLUMN.get(normalize_key(name))
        if mapping.message_columns or part in ("input", "history", "tools"):
            remedy = f"write {ignore} to leave it out"
        elif part is None:
            remedy = f"name it under data.columns to train it or write {ignore}"
        else:
            remedy = f"write data.columns: {to_flow_yaml({part: name})} to train it or {ignore}"
        return f"{'is full of text' if self._is_prose(name) else 'contains text'} and is not used; {remedy}"


def _may_be_text(name: str, value: Any) -> bool:
    """Return True for text, and under a usual column name for lists and objects as well.

    Elsewhere a list or object is data about the row, and a single ASCII word an identifier.
    """
    if normalize_key(name) in PART_OF_COLUMN:
        return isinstance(value, str | list | dict)
    return isinstance(value, str) and (not value.isascii() or len(value.split(None, 1)) > 1)
