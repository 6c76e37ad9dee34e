"""Read a raw row as an example, by the mapping of its file's columns."""

from dataclasses import dataclass, replace
from typing import Any

import yaml

from thinktune.config.schema import ColumnsConfig
from thinktune.data.columns.messages import (
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
from thinktune.data.columns.modes import set_modes
from thinktune.data.types import Finding, RawRow
from thinktune.tokenization import Example, Turn
from thinktune.tokenization.conversation import Role

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


CONVERSATION_PARTS = ("messages", "system", "keypoint", "mode", "label")


PAIR_PARTS = ("question", "input", "history", "reasoning", "answer", "system", "keypoint", "mode", "label")


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
    label: str | None = None
    conversational: bool = False
    message_format: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def used_columns(self) -> tuple[str | None, ...]:
        """All columns that are read; None for parts without a column."""
        pair = (self.question, self.reasoning, self.answer, self.input, self.history)
        return (*pair, self.messages, self.system, self.keypoint, self.mode, self.label)

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
        others = ("system", "history", "keypoint", "mode", "label")
        more = [f"{part} = {name}" for part in others if (name := getattr(self, part))]
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


def _conversation_turns(columns: dict[str, Any], mapping: ColumnMapping) -> list[TurnWithFields] | FieldFault:
    turns: list[TurnWithFields] = []
    for name in mapping.message_columns:
        # Of a prompt and its completion, both lists of messages, only the completion is trained.
        turns = [(replace(turn, trained=False), field_names) for turn, field_names in turns]
        if name == mapping.messages:
            found = read_messages(columns[name], name)
        else:
            found = _column_messages(columns[name], name, "user" if name == mapping.question else "assistant")
        if isinstance(found, FieldFault):
            return found
        turns += found
    return turns


def _column_messages(value: Any, name: str, role: Role) -> list[TurnWithFields] | FieldFault:
    """Read messages from a list of them, from one message, or from a text that is the `role`'s turn."""
    if not isinstance(value, str):
        return read_messages([value] if isinstance(value, dict) else value, name)
    text = read_text(value, name)
    if isinstance(text, FieldFault):
        return text
    return [assistant_turn(text, "", (name, name)) if role == "assistant" else (Turn("user", text), (name, ""))]


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


def to_flow_yaml(value: Any) -> str:
    """Write a value as a recipe does, on one line."""
    return yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf")
    ).strip()
