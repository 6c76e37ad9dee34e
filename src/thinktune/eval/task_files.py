"""Read a task file: each row as a task, what cannot be one left out and named, and what the file's columns are."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from thinktune.config.strict_yaml import read_values
from thinktune.data.columns.messages import FieldFault, is_blank, read_messages
from thinktune.data.reading.containers import locate_part, open_bytes
from thinktune.data.reading.readers import read_rows
from thinktune.errors import UserError, shorten_error
from thinktune.eval.task_layouts import (
    OWN_COLUMNS,
    TaskLayout,
    find_layout,
    gather_choices,
    known_layouts,
    unused_choices,
    value_of,
)
from thinktune.eval.task_options import read_options
from thinktune.eval.tasks import Task, TaskReading, make_task
from thinktune.files import ROW_FILE_ENDINGS
from thinktune.progress import Say
from thinktune.tokenization import Turn

MAX_FAULTS = 20  # of a file, named one by one; the rest is counted
MAX_NAMED_COLUMNS = 12

Records = list[tuple[str, dict[str, Any]]]  # of each row, its `file:line` and its values by column


@dataclass(frozen=True, slots=True)
class SetPart:
    """A file as a part of a set of questions: the set's name, the file's name in sources, and how it is read.

    `layout` None is found by the columns. `kind_column` holds each row's kind, and of `kinds`, if there are any, other
    rows are not part of it. `several` is whether more than one option may be right.
    """

    set: str
    shown: str
    layout: TaskLayout | None = None
    kind_column: str | None = None
    kinds: tuple[str, ...] = ()
    several: bool = False


@dataclass(frozen=True, slots=True)
class TaskFile:
    """Tasks of a file in its order; a sentence for each row that is left out; and notes on how it was read."""

    tasks: tuple[Task, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def tell(self, say: Say) -> None:
        """Say how the file was read and which rows are left out."""
        for note in self.notes:
            say(note)
        for sentence in _at_most(self.left_out, "more rows are left out"):
            say(f"left out: {sentence}")


def read_tasks(file: Path, system: str | None = None) -> list[Task]:
    """Read the tasks of a file as `read_task_file` does."""
    return list(read_task_file(file, system).tasks)


def read_task_file(file: Path, system: str | None = None, part: SetPart | None = None) -> TaskFile:
    """Read the tasks of a file, in its order; their set is named after the file, unless it is a `part` of one.

    The layout is read from FILE.yaml next to it, or found by the names of the columns and by what they hold. A row that
    cannot be a task is left out. Raises UserError with what is wrong with each row if none is left, or what the file
    lacks.
    """
    if not locate_part(file).file.is_file():
        raise UserError(f"--tasks: {str(file)!r} is not a file; give one that ends in {', '.join(ROW_FILE_ENDINGS)}")
    mapping = file.with_name(f"{file.name}.yaml")
    given = _read_layout(mapping) if part is None and mapping.is_file() else None
    part = part or SetPart(file.stem, file.name, given)
    layout, records, unread = _read_with_layout(file, part)
    if part.kinds:
        records = [(source, row) for source, row in records if value_of(row, part.kind_column) in part.kinds]
    rows = [row for _, row in records]
    reading = replace(_read_habits(layout, rows), several=part.several)
    tasks: list[Task] = []
    left_out = list(unread)
    for source, row in records:
        try:
            fields = _map_columns(row, layout, source)
            if part.kind_column:
                fields["kind"] = value_of(row, part.kind_column)
            tasks.append(make_task(fields, part.set, source, layout.system or system, reading))
        except UserError as error:
            left_out.append("; ".join(error.faults))
    if not tasks:
        raise UserError(
            _at_most(left_out, "more mistakes") or f"{file}: holds no tasks; give rows with question and answer"
        )
    return TaskFile(tuple(tasks), tuple(left_out), tuple(_notes(file, layout, rows, tasks, reading)))


def _at_most(sentences: Sequence[str], rest: str) -> list[str]:
    more = len(sentences) - MAX_FAULTS
    return [*sentences[:MAX_FAULTS], *([f"{more:,} {rest}"] if more > 0 else [])]


def _notes(
    file: Path, layout: TaskLayout, rows: Sequence[Mapping[str, Any]], tasks: Sequence[Task], reading: TaskReading
) -> Iterator[str]:
    graders = {
        name: sum(task.grader == name for task in tasks) for name in dict.fromkeys(each.grader for each in tasks)
    }
    counted = ", ".join(f"{count:,} by {name}" for name, count in graders.items())
    yield f"{file.name}: {len(tasks):,} task{'s' if len(tasks) > 1 else ''} (graded {counted}), {layout.describe()}"
    names = dict.fromkeys(name for row in rows for name in row)
    unused = [name for name in names if name not in layout.columns.used and name not in OWN_COLUMNS]
    if unused:
        more = ", …" if len(unused) > MAX_NAMED_COLUMNS else ""
        yield f"{file.name}: not used: {', '.join(unused[:MAX_NAMED_COLUMNS])}{more}"
    if forgotten := unused_choices(layout, rows):
        yield (
            f"{file.name}: asked without options, although {', '.join(forgotten)} contain some; to ask with them, "
            f"write choices: [{', '.join(forgotten)}] in {file.name}.yaml"
        )
    if reading.index_from:
        yield f"{file.name}: answers are numbers from {reading.index_from}: the first option is {reading.index_from}"
    if reading.may_lack_answers:
        yield f"{file.name}: has no answers, so replies are not graded, only compared by the judge, format and length"
    if layout.columns.messages == "turns":
        yield f"{file.name}: only the first turn of each row is asked; the later ones need the model's own reply"


def _read_habits(layout: TaskLayout, rows: Sequence[Mapping[str, Any]]) -> TaskReading:
    """Find what holds for all rows of a file."""
    columns = layout.columns
    answers = any(not is_blank(value_of(row, name)) for row in rows for name in (columns.answer, columns.keypoints))
    return TaskReading(
        index_from=_first_index(layout, rows) if columns.choices else 0,
        shuffled=isinstance(columns.choices, tuple) and columns.answer in columns.choices,
        may_lack_answers=not answers and (columns.messages == "turns" or layout.grader == "text"),
        instructed=len(columns.question_columns) > 1,
    )


def _first_index(layout: TaskLayout, rows: Sequence[Mapping[str, Any]]) -> int:
    """Return 1 where answers that are numbers count options from 1: one is the last option's, and none is 0."""
    reaches_last = False
    for row in rows:
        answer: Any = value_of(row, layout.columns.answer)
        if isinstance(answer, bool) or not re.fullmatch("[0-9]{1,2}", str(answer)):
            continue
        options = read_options(gather_choices(row, layout.columns.choices or ()))
        if options and str(answer) not in (*options.labels, *options.texts):
            if int(answer) == 0:
                return 0
            reaches_last |= int(answer) == len(options)
    return int(reaches_last)


def _map_columns(row: Mapping[str, Any], layout: TaskLayout, source: str) -> dict[str, Any]:
    """Rename a row's columns to the fields of `make_task`."""
    columns = layout.columns
    fields: dict[str, Any] = {key: row[key] for key in OWN_COLUMNS if key in row}
    fields["answer"] = value_of(row, columns.answer)
    if columns.messages:
        fields |= _read_conversation(row.get(columns.messages), columns.messages, source, fields["answer"])
    else:
        texts = [value_of(row, name) for name in columns.question_columns]
        fields["question"] = _join(texts) if len(texts) > 1 else texts[0] if texts else None
    if columns.choices:
        fields["choices"] = gather_choices(row, columns.choices)
    fields["keypoints"] = value_of(row, columns.keypoints)
    fields["system"] = fields.get("system") or (row.get(columns.system) if columns.system else None)
    return fields | ({"grader": layout.grader} if layout.grader else {})


def _join(texts: Sequence[Any]) -> Any:
    """Join the filled texts line by line; the question itself, the last, must be one of them."""
    if not isinstance(texts[0], str) and not isinstance(texts[-1], str):
        return texts[-1]
    return "\n".join(text for text in texts if isinstance(text, str) and text.strip())


def _read_conversation(value: Any, column: str, source: str, answer: Any) -> dict[str, Any]:
    """Read a conversation as the turns before a question, the question, and the answer if the assistant has the end."""
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):  # questions of one dialogue
        return {"question": value[0], "answer": answer[0] if isinstance(answer, list) and answer else answer}
    read = read_messages(value, column)
    if isinstance(read, FieldFault):
        raise UserError(f"{source}: {read.sentence}")
    turns = [Turn(turn.role, turn.content, turn.reasoning) for turn, _ in read]
    if turns and turns[-1].role == "assistant":
        reply = turns.pop()
        answer = reply.content if answer is None else answer
    system = turns.pop(0).content if turns and turns[0].role == "system" else None
    if not turns or turns[-1].role != "user":
        raise UserError(
            f"{source}: {column}: does not end with a question from the user; add one, or leave the row out"
        )
    return {"question": turns[-1].content, "history": tuple(turns[:-1]), "answer": answer, "system": system}


def _read_with_layout(file: Path, part: SetPart) -> tuple[TaskLayout, Records, list[str]]:
    """Return the layout of a file, its rows, and a sentence for each that cannot be read."""
    if file.suffix.lower() == ".csv":
        return _read_table(file, part)
    records: Records = []
    unread: list[str] = []
    for row in read_rows(file, part.shown, repair_encoding=True):
        if row.columns is None:
            unread += [f"{each.sentence}; fix the row" for each in row.findings if each.action != "repaired"]
        else:
            records.append((row.source, row.columns))
    if not records and unread:
        raise UserError(_at_most(unread, "more mistakes"))
    return part.layout or _found_layout(file, records), records, unread


def _read_table(file: Path, part: SetPart) -> tuple[TaskLayout, Records, list[str]]:
    """Read a CSV table. Unlike training rows, it may have a nameless column of row numbers, or no header at all."""
    lines = _read_csv(file)
    first = lines[0][1] if lines else []
    layout = part.layout or _headless_layout(first)
    names, body = (list(layout.header), lines) if layout and layout.header else (first, lines[1:])
    uneven = [
        f"{part.shown}:{line}: has {len(cells)} columns, not {len(names)}; fix the row"
        for line, cells in body
        if len(cells) != len(names)
    ]
    records = [
        (f"{part.shown}:{line}", {name: cell for name, cell in zip(names, cells, strict=True) if name.strip()})
        for line, cells in body
        if len(cells) == len(names)
    ]
    if uneven and not records:
        raise UserError(_at_most(uneven, "more mistakes"))
    if not body:
        records = [("", dict.fromkeys(names))]
    return layout or _found_layout(file, records), records if body else [], uneven


def _read_csv(file: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that are not blank, each with the number of its first line."""
    try:
        with open_bytes(file) as opened:
            text = io.TextIOWrapper(io.BytesIO(opened.read()), encoding="utf-8-sig").read()
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8; save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    first_line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((first_line, cells))
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}:{first_line}: is not valid CSV ({error}); fix the row that starts here") from None
    return rows


def _headless_layout(first: Sequence[str]) -> TaskLayout | None:
    """Find the known layout of a table without a header by its first row, which ends in an option's letter."""
    headless = [layout for layout in known_layouts() if layout.header and len(layout.header) == len(first)]
    named = find_layout([dict.fromkeys(first, "?")]) is not None
    return headless[0] if headless and not named and first[-1].strip() in "ABCD" else None


def _found_layout(file: Path, records: Records) -> TaskLayout:
    rows = [row for _, row in records]
    names = sorted({name for row in rows for name in row})
    layout = find_layout(rows)
    if layout is None:
        raise UserError(
            f"{file}: its columns ({', '.join(names) or 'none'}) match no known layout; rename them to question, "
            f"answer, choices or keypoints, or write {file.name}.yaml next to it, as docs/evaluation.md shows"
        )
    if _lacks_answers(layout, names):
        question = ", ".join(layout.columns.question_columns) or layout.columns.messages
        raise UserError(
            f"{file}: none of its columns ({', '.join(names)}) is known to hold the answer to {question}; write "
            f"{file.name}.yaml next to it with columns: {{question: {question}, answer: …}}, or "
            "with grader: text and no answer if replies should only be compared"
        )
    return layout


def _lacks_answers(layout: TaskLayout, names: Sequence[str]) -> bool:
    columns = layout.columns
    graded = columns.answer or columns.keypoints or columns.messages
    return not graded and not {"grader", "rules"} & {*names}


def _read_layout(file: Path) -> TaskLayout:
    try:
        return TaskLayout.model_validate(read_values(file))
    except ValidationError as error:
        raise UserError(f"{file}: is not a column mapping ({shorten_error(error)}); see docs/evaluation.md") from None
