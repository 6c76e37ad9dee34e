"""What a file's columns mean: detected, shown, never guessed in silence; and a raw row to an example."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from thinktune.config.schema import ColumnsConfig
from thinktune.data.messages import (
    MESSAGE_KEYS,
    REASONING_KEYS,
    FaultList,
    TurnWithFields,
    assistant_turn,
    is_blank,
    normalize_key,
    read_history,
    read_messages,
    read_text,
    turn_order_faults,
    with_row_system_prompt,
)
from thinktune.data.types import Example, Finding, RawRow, Turn, suggest_policy
from thinktune.errors import UserError

SAMPLE_ROWS = 200  # of each file, by which its layout is found


# The usual names of each part, the preferred first; a column of such a name is never left out in silence.
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
}


PART_OF_COLUMN = {name: part for part, names in COLUMN_ALIASES.items() for name in names}


INSTRUCTION_NAMES = ("instruction", "指令")  # the one question that an input column belongs to


CONVERSATION_PARTS = ("messages", "system", "keypoint")


PAIR_PARTS = ("question", "input", "history", "reasoning", "answer", "system", "keypoint")


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Which columns of a file hold what, by their names in the file; none where no column does.

    `conversational` says that question and answer are lists of messages; `message_format`, how messages are written, for people.
    """

    question: str | None = None
    input: str | None = None
    history: str | None = None
    reasoning: str | None = None
    answer: str | None = None
    messages: str | None = None
    system: str | None = None
    keypoint: str | None = None
    conversational: bool = False
    message_format: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def used_columns(self) -> tuple[str | None, ...]:
        """Every column that is read."""
        pair = (self.question, self.reasoning, self.answer, self.input, self.history)
        return (*pair, self.messages, self.system, self.keypoint)

    @property
    def message_columns(self) -> tuple[str, ...]:
        """The columns that hold lists of messages."""
        names = (self.messages, *((self.question, self.answer) if self.conversational else ()))
        return tuple(name for name in names if name is not None)

    @property
    def as_recipe_value(self) -> str:
        """What to write as `data.columns` so that a file is read just so."""
        return to_flow_yaml(
            {part: name for part in ColumnsConfig.model_fields if (name := getattr(self, part)) is not None}
        )

    def describe(self) -> str:
        """One line for people: what is read from where."""
        question = " + ".join(name for name in (self.question, self.input) if name)
        more = [f"{part} = {name}" for part in ("system", "history", "keypoint") if (name := getattr(self, part))]
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
    """An example not yet judged, and for each turn the names of the fields of its content and of its reasoning."""

    example: Example
    field_names: tuple[tuple[str, str], ...]


def detect_columns(rows: Sequence[RawRow], columns: ColumnsConfig, ignore: Collection[str], file: str) -> ColumnMapping:
    """The layout that sample rows of a file show; what the recipe says in `columns` is taken as said.

    A column that no sample row has counts as unused when it comes, so let the sample hold every set of columns there
    is. Raises UserError with every mistake and the mapping to write.
    """
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in (row.columns or {}).items():
            values.setdefault(name, []).append(value)
    if not values:
        raise UserError(_nothing_read(rows, file))
    given = columns.model_dump(exclude_none=True)
    looked_at = (
        f"none of the first {len(rows):,} rows of {file} has" if len(rows) >= SAMPLE_ROWS else f"no row of {file} has"
    )
    if mistakes := list(_mapping_mistakes(given, values, ignore, looked_at)):
        raise UserError(mistakes)
    names: dict[str, Any]
    free = {name: held for name, held in values.items() if name not in ignore and name not in given.values()}
    said = any(part in given for part in ("question", "reasoning", "answer"))
    if "messages" in given or (not said and _find_column("messages", free)):
        names = {part: given.get(part) or _find_column(part, free) for part in CONVERSATION_PARTS}
        return ColumnMapping(**names, message_format=_message_format(values[names["messages"]]), ignored=tuple(ignore))
    names = {part: given.get(part) or _find_column(part, free) for part in PAIR_PARTS}
    question, answer = names["question"], names["answer"]
    if question is None or answer is None:
        missing = [part for part in ("question", "answer") if names[part] is None]
        reasoning = ("reasoning",) if names["reasoning"] else ()
        wanted = {part: names[part] or "…" for part in ("question", *reasoning, "answer")}
        raise UserError(
            f"data.columns: {file} has the columns {_join_names(values)} and none is known as the "
            f"{' or the '.join(missing)}; write data.columns: {to_flow_yaml(wanted)}"
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
    """The example that a row holds, with its own system prompt where it has one, or why it holds none."""
    columns = row.columns
    if columns is None:
        return row.findings[0] if row.findings else Finding("unreadable", f"{row.source}: cannot be read")
    needed = (mapping.messages,) if mapping.messages is not None else (mapping.question, mapping.answer)
    wrong: FaultList = [("unreadable", f"{name}: the row has no such column") for name in needed if name not in columns]
    if not wrong:
        placed = (
            _conversation_turns(columns, mapping, wrong)
            if mapping.message_columns
            else _pair_turns(columns, mapping, wrong)
        )
        placed = with_row_system_prompt(
            placed, _column_text(columns, mapping.system, wrong), mapping.system or "", wrong
        )
        keypoint = _keypoint(columns, mapping.keypoint, wrong)
        wrong += turn_order_faults(placed) if not wrong else ()
        if not wrong:
            turns, places = zip(*placed, strict=True)
            return UncheckedExample(Example(turns, row.source, keypoint), places)
    fault, sentence = wrong[0]
    return Finding(fault, f"{row.source}: {sentence}")


def _nothing_read(rows: Sequence[RawRow], file: str) -> str:
    findings = [finding for row in rows[:3] for finding in row.findings[:1]]
    reasons = "; ".join(finding.sentence for finding in findings) or "all are empty"
    ways = "".join(f", or {suggest_policy(fault)}" for fault in sorted({finding.fault for finding in findings}))
    return f"{file}: holds no row that can be read ({reasons}); mend it{ways}"


def _mapping_mistakes(
    given: dict[str, str], values: Collection[str], ignore: Collection[str], looked_at: str
) -> Iterator[str]:
    """What is wrong with the names that the recipe gives."""
    for part, name in given.items():
        if name not in values:
            yield f"data.columns.{part}: {looked_at} a column {name!r}; its columns are {_join_names(values)}"
        if name in ignore:
            yield f"data.columns.{part}: is {name!r}, which data.ignore names as well; take it out of one of them"
    if len(set(given.values())) < len(given):
        yield f"data.columns: {to_flow_yaml(given)} names a column twice; a column holds one part"
    pair = [part for part in ("question", "reasoning", "answer") if part in given]
    if pair and "messages" in given:
        yield f"data.columns: messages is a whole conversation; leave out {', '.join(pair)}, or messages"


def _find_column(part: str, free: dict[str, list[Any]]) -> str | None:
    """The column of the part's best spelling whose values may be what the part is."""
    for spelling in COLUMN_ALIASES[part]:
        for name, held in free.items():
            if normalize_key(name) == spelling and _may_hold(part, held):
                return name
    return None


def _may_hold(part: str, held: list[Any]) -> bool:
    if part in ("question", "answer", "keypoint"):
        return True
    kind = list if part in ("messages", "history") else str
    return any(isinstance(value, kind) for value in held) or (part != "messages" and all(map(is_blank, held)))


def _conversation_turns(columns: dict[str, Any], mapping: ColumnMapping, faults: FaultList) -> list[TurnWithFields]:
    placed: list[TurnWithFields] = []
    for name in mapping.message_columns:
        # Of a prompt and its completion, all lists of messages, the completion alone is learned.
        placed = [(replace(turn, trained=False), places) for turn, places in placed]
        placed += read_messages(columns[name], name, faults)
    return placed


def _pair_turns(columns: dict[str, Any], mapping: ColumnMapping, faults: FaultList) -> list[TurnWithFields]:
    question, answer, reasoning = mapping.question or "", mapping.answer or "", mapping.reasoning
    placed = read_history(columns.get(mapping.history), mapping.history, faults) if mapping.history else []
    asked, place = read_text(columns[question], question, faults), question
    joined = _column_text(columns, mapping.input, faults)
    if not is_blank(joined):
        asked, place = f"{asked}\n{joined}", f"{question} + {mapping.input}"
    placed.append((Turn("user", asked), (place, "")))
    thought = _column_text(columns, reasoning, faults)
    placed.append(assistant_turn(read_text(columns[answer], answer, faults), thought, (answer, reasoning or answer)))
    return placed


def _column_text(columns: dict[str, Any], name: str | None, faults: FaultList) -> str:
    """The text of a column that a row may lack."""
    return "" if name is None else read_text(columns.get(name), name, faults)


def _keypoint(columns: dict[str, Any], name: str | None, faults: FaultList) -> str | None:
    value = columns.get(name) if name is not None else None
    if value is None or name is None:
        return None
    return read_text(value if isinstance(value, str | list | dict) else str(value), name, faults)


def _message_format(held: list[Any]) -> str:
    """How messages are written, for people: the keys that say who speaks and what."""
    message = next((value[0] for value in held if isinstance(value, list) and value and isinstance(value[0], dict)), {})
    return " / ".join(
        key for key in message if MESSAGE_KEYS.get(normalize_key(key)) in ("role", "content", "user", "assistant")
    )


def _join_names(names: Collection[str]) -> str:
    """Names for a sentence: the first twenty, shortened, with nothing in them that cannot be printed."""
    shortened = [name[:40].encode("utf-8", "backslashreplace").decode() for name in list(names)[:20]]
    return ", ".join(shortened) + (", …" if len(names) > 20 else "")


def to_flow_yaml(value: Any) -> str:
    """A value as it is written in a recipe, on one line."""
    return yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf")
    ).strip()


TEXT_HEAVY_CHARACTERS = 20  # a column longer than this on average is prose that someone may have meant to train


# Of each column that is not used: the rows in which it holds text, and the characters of these.
UnusedColumns = dict[str, list[int]]


def count_unused_columns(row: RawRow, mapping: ColumnMapping, counts: UnusedColumns) -> None:
    """Add a row's texts in columns, and in keys of its messages, that are neither used nor ignored."""
    used, conversations = mapping.used_columns, mapping.message_columns
    for name, value in (row.columns or {}).items():
        if name in conversations:
            for message in value if isinstance(value, list) else ():
                for key in message if isinstance(message, dict) else ():
                    if normalize_key(key) not in MESSAGE_KEYS and f"{name}.{key}" not in mapping.ignored:
                        _count_text(f"{name}.{key}", message[key], counts)
        elif name not in used and name not in mapping.ignored:
            _count_text(name, value, counts)


def refuse_unused_columns(counts: UnusedColumns, mapping: ColumnMapping, file: str) -> None:
    """Raise UserError where a column of prose or of a known name would be left out, with the mapping to write."""
    refused = sorted(
        name
        for name, (rows, characters) in counts.items()
        if characters > TEXT_HEAVY_CHARACTERS * rows or normalize_key(name) in PART_OF_COLUMN
    )
    if not refused:
        return
    faults = [f"data.ignore: column {name!r} of {file} {_remedy(name, counts[name], mapping)}" for name in refused]
    remedy = f"where that is right, write it and data.ignore: {to_flow_yaml([*mapping.ignored, *refused])}"
    raise UserError([*faults, f"data.columns: {file} is read as data.columns: {mapping.as_recipe_value}; {remedy}"])


def _count_text(name: str, value: Any, counts: UnusedColumns) -> None:
    if _is_text(name, value) and not is_blank(value):
        rows, characters = counts.get(name, (0, 0))
        counts[name] = [rows + 1, characters + len(value)]


def _is_text(name: str, value: Any) -> bool:
    """A list or object is data about the row, and one word of ASCII an identifier, unless its name says more."""
    if normalize_key(name) in PART_OF_COLUMN:
        return isinstance(value, str | list | dict)
    return isinstance(value, str) and (not value.isascii() or len(value.split(None, 1)) > 1)


def _remedy(name: str, count: list[int], mapping: ColumnMapping) -> str:
    full = "is full of text" if count[1] > TEXT_HEAVY_CHARACTERS * count[0] else "holds text"
    ignore, part = f"data.ignore: {to_flow_yaml([name])}", PART_OF_COLUMN.get(normalize_key(name))
    if mapping.message_columns or part in ("input", "history", "tools"):
        remedy = f"write {ignore} to leave it out"
    elif part is None:
        remedy = f"name it under data.columns to train it or write {ignore}"
    else:
        remedy = f"write data.columns: {to_flow_yaml({part: name})} to train it or {ignore}"
    return f"{full} and is not used; {remedy}"
