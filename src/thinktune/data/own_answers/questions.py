"""Questions that the base answers itself: the conversations of a source's rows, up to their last reply."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thinktune.config import DataConfig, Recipe
from thinktune.data.columns.mapping import COLUMN_ALIASES, ColumnMapping, UncheckedExample, names_of, to_example
from thinktune.data.columns.message_names import normalize_key
from thinktune.data.columns.modes import has_thinking_switch
from thinktune.data.reading import sources
from thinktune.data.reading.readers import MAX_ROW_BYTES, read_rows
from thinktune.data.reading.sources import RowFile
from thinktune.data.sample import detect_form, read_sample
from thinktune.data.types import MAX_STOP_SENTENCES, RawRow
from thinktune.data.worker import Chunk, check_row, check_rules
from thinktune.errors import UserError
from thinktune.files import name_path
from thinktune.tokenization import ChatTokenizer, Turn

STAND_IN = "The base answers this itself."  # in place of a row's own answer, which is not trained
ANSWERED = (*COLUMN_ALIASES["answer"], *COLUMN_ALIASES["messages"])
# A message by which a conversation ends with the user, and the reply after it: keys and values of role and text.
OPEN_ENDS = (("role", "user", "assistant", "content"), ("from", "human", "gpt", "value"))


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation up to the reply that the base is to write, the mode it is asked in, and its `file:line`."""

    turns: tuple[Turn, ...]
    thinking: bool
    source: str


@dataclass(frozen=True, slots=True)
class Questions:
    """What a source asks: each question once in each mode, and how many rows are left out by which fault."""

    asked: tuple[Asked, ...]
    count: int
    left_out: dict[str, int]


def read_questions(recipe: Recipe, tokenizer: ChatTokenizer) -> Questions:
    """Read the questions of a recipe's `data`, checked as rows are; their own answers may be missing.

    A question is asked with thinking and without, where the chat template has both; one whose row names its own mode,
    in that alone. Raises UserError where a file cannot be read or understood, or none is left.
    """
    settings = recipe.data
    both = (True, False) if has_thinking_switch(tokenizer) else (True,)
    asked: dict[tuple[tuple[Turn, ...], bool], Asked] = {}
    questions: set[tuple[Turn, ...]] = set()
    left_out: dict[str, int] = {}
    stops: list[str] = []
    for file in sources.find_files(recipe):
        for turns, found in _read_file(file, settings, tokenizer):
            if turns is None:
                fault, sentence, stopping = found
                left_out[fault] = left_out.get(fault, 0) + 1
                stops += [f"{sentence}; fix the row, or write data.faults: {{{fault}: drop}}"] * stopping
                continue
            *history, reply = turns
            # Only the last reply is the base's; those before it are given, and never trained.
            given = tuple(replace(turn, trained=False) if turn.role == "assistant" else turn for turn in history)
            questions.add(given)
            for thinking in both if reply.mode is None or len(both) == 1 else (reply.mode == "thinking",):
                asked.setdefault((given, thinking), Asked(given, thinking, found[1]))
    if stops:
        raise UserError(stops[:MAX_STOP_SENTENCES])
    if not asked:
        raise UserError(f"data.name: {settings.name} has no question that the base could answer; use another file")
    return Questions(tuple(asked.values()), len(questions), left_out)


def _read_file(
    file: RowFile, settings: DataConfig, tokenizer: ChatTokenizer
) -> Iterator[tuple[tuple[Turn, ...] | None, tuple[str, str, bool]]]:
    """Yield the turns of each row with its place, or None with its fault, a sentence, and whether that stops."""
    repair = settings.faults["encoding"] == "repair"
    with name_path(file.path):
        rows = list(
            read_rows(
                file.path,
                file.display_name,
                repair_encoding=repair,
                max_row_bytes=MAX_ROW_BYTES,
                rows_key=settings.rows,
            )
        )
    lenient = settings.model_copy(update={"faults": settings.faults | {"no_reasoning": "silent"}})
    rows = _with_answers(rows, settings)
    form = detect_form(read_sample(file.display_name, rows), lenient)
    mapping = replace(form.mapping, reasoning=None) if _is_pair(form.mapping) else form.mapping
    chunk = Chunk(0, rows, mapping, form.habits)
    rules = check_rules(chunk, lenient, tokenizer)
    for raw in rows:
        row = _without_answer(raw, mapping)
        checked = check_row(row, mapping, lenient, rules, tokenizer)
        if checked.example is None:
            finding = checked.findings[-1]
            yield None, (finding.fault, finding.sentence, finding.action == "stops")
            continue
        turns = checked.example.turns
        last = max(place for place, turn in enumerate(turns) if turn.role == "assistant")
        read = to_example(row, mapping)  # as the row itself says: without reasoning it was made silent by now
        own = read.example.turns[-1].mode if isinstance(read, UncheckedExample) else None
        yield (*turns[:last], replace(turns[last], mode=own)), ("", row.source, False)


def _is_pair(mapping: ColumnMapping) -> bool:
    return mapping.messages is None and not mapping.conversational


def _with_answers(rows: Sequence[RawRow], settings: DataConfig) -> list[RawRow]:
    """Return rows with a stand-in for the answer where a file has questions alone, or a conversation ends with one."""
    named = {normalize_key(name) for row in rows for name in row.columns or ()}
    if settings.columns.answer or settings.columns.messages or named.intersection(ANSWERED):
        return [row if row.columns is None else replace(row, columns=_closed(row.columns)) for row in rows]
    return [row if row.columns is None else replace(row, columns=row.columns | {"answer": STAND_IN}) for row in rows]


def _closed(columns: dict[str, Any]) -> dict[str, Any]:
    """Return a row's columns with a stand-in for the reply after conversations that end with the user."""
    closed = dict(columns)
    for name, value in columns.items():
        last = value[-1] if isinstance(value, list) and value else None
        for role, user, reply, text in OPEN_ENDS:
            if isinstance(last, dict) and last.get(role) == user and isinstance(value, list):
                closed[name] = [*value, {role: reply, text: STAND_IN}]
    return closed


def _without_answer(row: RawRow, mapping: ColumnMapping) -> RawRow:
    """Return a row with a stand-in for its own answer, whose faults are nobody's here."""
    if row.columns is None or not _is_pair(mapping):
        return row
    answer: dict[str, Any] = {name: STAND_IN for name in names_of(mapping.answer)[:1] if name in row.columns}
    return replace(row, columns=row.columns | answer)
