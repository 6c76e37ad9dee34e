"""Read a raw row as an example, by the mapping of its file's columns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.fields import FieldFault, read_steps, read_text
from thinktune.data.columns.joining import read_joined, read_single
from thinktune.data.columns.message_names import (
    REASONING_KEYS,
    USUAL_NAMES,
    MessageNames,
    as_messages,
    is_blank,
    normalize_key,
)
from thinktune.data.columns.messages import (
    TurnWithFields,
    assistant_turn,
    find_turn_order_fault,
    read_history,
    read_messages,
    read_mode,
    with_row_system_prompt,
)
from thinktune.data.columns.modes import set_modes
from thinktune.data.columns.paths import as_container, has_path, value_at
from thinktune.data.columns.split_replies import describe_odd_weight, merge_split_replies, with_last_reasoning
from thinktune.data.types import Finding, RawRow
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
    # Only where all of its values are true or false, as in sets for KTO; else it is any other kind of label.
    "label": ("label", "kto_tag", "kto_label"),
    # The others are also names of other things, so only what is in them makes them a mode.
    "mode": (*MODE_NAMES, "mode", "use_thinking", "use_reasoning", *REASONING_KEYS),
}


PART_OF_COLUMN = {
    name: part
    for part, names in COLUMN_ALIASES.items()
    if part != "label"
    for name in (MODE_NAMES if part == "mode" else names)
}


INSTRUCTION_NAMES = ("instruction", "指令")  # only such a question is joined with an input column


CONVERSATION_PARTS = ("messages", "reasoning", "system", "keypoint", "mode", "label")


PAIR_PARTS = ("question", "input", "history", "reasoning", "answer", "system", "keypoint", "mode", "label")


ColumnNames = str | tuple[str, ...]  # a column, or columns that are joined by lines


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """The column of a file that holds each part, or None; a path such as `input.question` is inside a column.

    `conversational`: the columns of question and answer that hold messages; `message_format`: how messages are written,
    and `notes`: what else is done to read the parts, for people.
    """

    question: ColumnNames | None = None
    input: str | None = None
    history: str | None = None
    reasoning: ColumnNames | None = None
    answer: ColumnNames | None = None
    messages: str | None = None
    system: ColumnNames | None = None
    keypoint: str | None = None
    mode: str | None = None
    label: str | None = None
    conversational: tuple[str, ...] = ()
    message_names: MessageNames = USUAL_NAMES
    message_format: str = ""
    notes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def used_columns(self) -> tuple[str | None, ...]:
        """All columns, and paths inside of columns, that are read; None for parts without a column."""
        pair = (self.question, self.reasoning, self.answer, self.input, self.history)
        parts = (*pair, self.messages, self.system, self.keypoint, self.mode, self.label)
        return tuple(name for part in parts for name in ((part,) if part is None else names_of(part)))

    @property
    def message_columns(self) -> tuple[str, ...]:
        """Columns that hold messages."""
        return (*names_of(self.messages), *self.conversational)

    @property
    def reasoning_key(self) -> str | None:
        """The key of messages that the reasoning is read from, where it is no column of its own."""
        column, _, key = self.reasoning.rpartition(".") if isinstance(self.reasoning, str) else ("", "", "")
        return key if column and column in self.message_columns else None

    @property
    def as_recipe_value(self) -> str:
        """The value of `data.columns` that gives this mapping."""
        parts: dict[str, Any] = {}
        for part in ColumnsConfig.model_fields:
            if (name := getattr(self, part, None)) is not None:
                parts[part] = name if isinstance(name, str) else list(name)
        roles: dict[str, list[str]] = {}
        for name, speaker in self.message_names.roles.items():
            roles.setdefault(speaker, []).append(name)
        if roles:
            parts["roles"] = {speaker: names[0] if len(names) == 1 else names for speaker, names in roles.items()}
        return to_flow_yaml(parts)

    def describe(self) -> str:
        """Describe in one line which part is read from which column."""
        more = [
            f"{part} = {' + '.join(names_of(getattr(self, part)))}"
            for part in ("system", "history", "keypoint", "mode", "label")
            if getattr(self, part)
        ]
        reasoning = [f"reasoning = {' + '.join(names_of(self.reasoning))}"] if self.reasoning else []
        question = " + ".join((*names_of(self.question), *names_of(self.input)))
        answer = " + ".join(names_of(self.answer))
        if self.message_columns:
            columns = f"{question} + {answer}" if self.conversational else self.messages
            head = f"messages: {columns}" + (f" ({self.message_format})" if self.message_format else "")
            more = [*reasoning, *more]
        else:
            alpaca = normalize_key("".join(names_of(self.question))) in INSTRUCTION_NAMES and normalize_key(answer) in (
                "output",
                "输出",
            )
            head = f"{'alpaca' if alpaca else 'columns'}: question = {question}"
            inside = "" if reasoning else " (reasoning inside think tags)"
            more = [*reasoning, f"answer = {answer}{inside}", *more]
        ignored = f"; ignored: {', '.join(self.ignored)}" if self.ignored else ""
        return "; ".join((", ".join((head, *more)), *self.notes)) + ignored


@dataclass(frozen=True, slots=True)
class UncheckedExample:
    """An example before the row checks, and for each turn the names of its content and reasoning fields.

    `findings` are what reading it found and trains all the same.
    """

    example: Example
    field_names: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...] = ()


def names_of(part: ColumnNames | None) -> tuple[str, ...]:
    """Return the columns of a part."""
    return () if part is None else (part,) if isinstance(part, str) else part


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
    odd = (
        describe_odd_weight(value_at(columns, name), name, mapping.message_names) for name in mapping.message_columns
    )
    findings = tuple(Finding("loss_weight", f"{row.source}: {sentence}") for sentence in odd if sentence)[:1]
    return UncheckedExample(Example(turns, row.source, keypoint), field_names, findings)


def unused_values(columns: Mapping[str, Any], mapping: ColumnMapping) -> Iterator[tuple[str, Any]]:
    """Yield a row's values that are not read, with their names: columns, and paths inside of those that are read.

    Of a key of messages, `column.key`, the value is that of all messages, as a list where there are several.
    """
    used = {name for name in mapping.used_columns if name is not None}
    paths = [name for name in used if "." in name]
    opened = {path[:place] for path in paths for place, character in enumerate(path) if character == "."}
    conversations = mapping.message_columns
    waiting = list(columns.items())
    for name, value in waiting:  # which grows while it is read
        if name in conversations:
            yield from _unused_keys(value, name, mapping.message_names)
        elif name in used:
            continue
        elif name in opened and isinstance(inside := as_container(value), dict | list):
            elements = inside.items() if isinstance(inside, dict) else enumerate(inside)
            waiting += [(f"{name}.{key}", inner) for key, inner in elements]
        else:
            yield name, value


def _unused_keys(value: Any, name: str, names: MessageNames) -> Iterator[tuple[str, Any]]:
    found: dict[str, list[Any]] = {}
    messages = as_messages(value)
    for message in messages if isinstance(messages, list) else ():
        for key in names.unused_keys(message) if isinstance(message, dict) else ():
            if not is_blank(message[key]):
                found.setdefault(f"{name}.{key}", []).append(message[key])
    for key, values in found.items():
        yield key, values[0] if len(values) == 1 else values


def _read_row(columns: dict[str, Any], mapping: ColumnMapping) -> tuple[list[TurnWithFields], str | None] | FieldFault:
    """Read a row's turns and its keypoint."""
    needed = (mapping.messages,) if mapping.messages is not None else (mapping.question, mapping.answer)
    for part in needed:
        if not any(has_path(columns, name) for name in names_of(part)):
            return FieldFault("unreadable", f"{' + '.join(names_of(part))}: the row has no such column")
    turns = _conversation_turns(columns, mapping) if mapping.messages else _pair_turns(columns, mapping)
    if isinstance(turns, FieldFault):
        return turns
    system = _part_text(columns, mapping.system)
    if isinstance(system, FieldFault):
        return system
    turns = with_row_system_prompt(turns, system, " + ".join(names_of(mapping.system)))
    if isinstance(turns, FieldFault):
        return turns
    keypoint = _keypoint(columns, mapping.keypoint)
    if isinstance(keypoint, FieldFault):
        return keypoint
    mode = read_mode(value_at(columns, mapping.mode), mapping.mode) if mapping.mode else None
    if isinstance(mode, FieldFault):
        return mode
    return find_turn_order_fault(turns) or (set_modes(turns, mode), keypoint)


def _conversation_turns(columns: dict[str, Any], mapping: ColumnMapping) -> list[TurnWithFields] | FieldFault:
    """Read a column of messages, and the last reply's reasoning from a column beside it."""
    name = mapping.messages or ""
    turns = read_messages(value_at(columns, name), name, mapping.message_names)
    if isinstance(turns, FieldFault):
        return turns
    return _with_reasoning_column(merge_split_replies(turns), columns, mapping)


def _pair_turns(columns: dict[str, Any], mapping: ColumnMapping) -> list[TurnWithFields] | FieldFault:
    """Read a question and its answer, each a text or messages, after the history if there is one."""
    names = mapping.message_names
    history = read_history(value_at(columns, mapping.history), mapping.history, names) if mapping.history else []
    if isinstance(history, FieldFault):
        return history
    question = _question_turns(columns, mapping)
    if isinstance(question, FieldFault):
        return question
    answer = _answer_turns(columns, mapping)
    if isinstance(answer, FieldFault):
        return answer
    return [*history, *question, *answer]


def _question_turns(columns: dict[str, Any], mapping: ColumnMapping) -> list[TurnWithFields] | FieldFault:
    name = " + ".join(names_of(mapping.question))
    if name in mapping.conversational and not _is_text(value := value_at(columns, name)):
        asked = read_messages(value, name, mapping.message_names)
        if isinstance(asked, FieldFault):
            return asked
        # Of a prompt and its completion, both lists of messages, only the completion is trained.
        return [(replace(turn, trained=False), fields) for turn, fields in merge_split_replies(asked)]
    question = _part_text(columns, mapping.question)
    if isinstance(question, FieldFault):
        return question
    joined = _part_text(columns, mapping.input)
    if isinstance(joined, FieldFault):
        return joined
    if not is_blank(joined):
        question, name = f"{question}\n{joined}", f"{name} + {mapping.input}"
    return [(Turn("user", question), (name, ""))]


def _answer_turns(columns: dict[str, Any], mapping: ColumnMapping) -> list[TurnWithFields] | FieldFault:
    name = " + ".join(names_of(mapping.answer))
    if name in mapping.conversational and not _is_text(value := value_at(columns, name)):
        replies = read_messages(value, name, mapping.message_names)
        if isinstance(replies, FieldFault):
            return replies
        return _with_reasoning_column(merge_split_replies(replies), columns, mapping)
    reasoning = _part_text(columns, mapping.reasoning, is_reasoning=True)
    if isinstance(reasoning, FieldFault):
        return reasoning
    answer = _part_text(columns, mapping.answer)
    if isinstance(answer, FieldFault):
        return answer
    return [assistant_turn(answer, reasoning, (name, " + ".join(names_of(mapping.reasoning)) or name))]


def _with_reasoning_column(
    turns: list[TurnWithFields], columns: dict[str, Any], mapping: ColumnMapping
) -> list[TurnWithFields] | FieldFault:
    if mapping.reasoning_key is not None:
        return turns
    reasoning = _part_text(columns, mapping.reasoning, is_reasoning=True)
    if isinstance(reasoning, FieldFault):
        return reasoning
    return with_last_reasoning(turns, reasoning, " + ".join(names_of(mapping.reasoning)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(as_messages(value), list)


def _part_text(columns: dict[str, Any], part: ColumnNames | None, is_reasoning: bool = False) -> str | FieldFault:
    """Read the text of a part that the file or the row may lack."""
    if part is None:
        return ""
    if not isinstance(part, str):
        return read_joined(columns, part)
    return read_steps(value_at(columns, part), part) if is_reasoning else read_single(value_at(columns, part), part)


def _keypoint(columns: dict[str, Any], name: str | None) -> str | FieldFault | None:
    value = value_at(columns, name) if name is not None else None
    if value is None or name is None:
        return None
    return read_text(value if isinstance(value, str | list | dict) else str(value), name)


def to_flow_yaml(value: Any) -> str:
    """Write a value as a recipe does, on one line."""
    return yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf")
    ).strip()
