"""Questions with their right answers, from held-out rows or from task files."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from thinktune.config.strict_yaml import read_values
from thinktune.data.faults.language import main_script
from thinktune.data.reading.readers import read_rows
from thinktune.data.reading.sources import SUFFIXES
from thinktune.errors import UserError, shorten_error
from thinktune.eval import grading
from thinktune.eval.answer_extraction import OPTION_LETTERS
from thinktune.eval.grading import FormatRules, Grader
from thinktune.tokenization import Example, Turn

MAX_FAULTS = 20  # of a file, named one by one; the rest is counted
OWN_COLUMNS = {"grader", "rules", "kind", "think"}  # columns of our own layout that need no mapping


@dataclass(frozen=True, slots=True)
class Task:
    """One question: its set, source (`file:line`) and prompt, its grader, and what that grader compares with.

    `references` are the accepted answers, or the letters of the right options; `rules` belong to the grader `format`.
    `may_reason` is false for a row that is silent: trained in the mode without thinking, it is asked in it.
    """

    set: str
    source: str
    turns: tuple[Turn, ...]
    grader: Grader
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    keypoints: tuple[str, ...] = ()
    rules: Mapping[str, Any] | None = None
    reasoning: str = ""
    kind: str = ""  # a group inside the set, such as the probe's arithmetic
    stem: str = ""  # the question without its options, where it has any
    may_reason: bool = True

    @property
    def question(self) -> str:
        """Text of the last user turn."""
        return self.turns[-1].content

    @property
    def key(self) -> str:
        """Hash of the prompt: the same for the same turns."""
        text = repr([(turn.role, turn.content, turn.reasoning) for turn in self.turns])
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


_TASK = TypeAdapter(Task)


def task_from_example(example: Example, name: str) -> Task:
    """Make a task of a held-out row: graded by its key point if it has one, else by its answer."""
    reply = example.turns[-1]
    points = (example.keypoint,) if example.keypoint else ()
    grader = "keypoints" if points else grading.pick_grader(reply.content)
    prompt = example.turns[:-1]
    return Task(
        name,
        example.source,
        prompt,
        grader,
        (reply.content,),
        keypoints=points,
        reasoning=reply.reasoning,
        may_reason=reply.thinks,
    )


_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Parsed(Generic[_Value]):
    """A field's value, and a sentence for each mistake in it."""

    value: _Value
    faults: tuple[str, ...] = ()


def make_task(row: Mapping[str, Any], name: str, source: str, system: str | None = None) -> Task:
    """Make a task from the fields question, answer, choices, keypoints, grader, rules and kind.

    Raises UserError with every mistake of the row at once.
    """
    question = _parse_question(row.get("question"), source)
    choices = _parse_choices(row.get("choices"), source)
    points = _parse_texts(row.get("keypoints"), f"{source}: keypoints")
    if choices.value:
        references = _parse_letters(row.get("answer"), choices.value, source)
    else:
        references = _parse_texts(row.get("answer"), f"{source}: answer")
    faults = [*question.faults, *choices.faults, *points.faults, *references.faults]
    rules = row.get("rules")
    grader = row.get("grader") or _default_grader(choices.value, points.value, references.value)
    if grader not in get_args(Grader):
        faults.append(f"{source}: grader: is {_short_repr(grader)}; choose one of {', '.join(get_args(Grader))}")
    elif not faults:
        needed = {"keypoints": points.value, "format": rules, "refusal": True}.get(grader, references.value)
        if not needed:
            faults.append(f"{source}: has nothing to grade by; give answer, choices with answer, or keypoints")
    faults += _rule_faults(rules, source)
    if faults:
        raise UserError(faults)
    user_turn = Turn("user", _prompt_text(question.value, choices.value))
    return Task(
        name,
        source,
        (Turn("system", system), user_turn) if system else (user_turn,),
        grader,
        references.value,
        choices.value,
        points.value,
        rules,
        reasoning=str(row.get("think") or ""),
        kind=str(row.get("kind") or ""),
        stem=question.value if choices.value else "",
    )


def grade_answer(task: Task, answer: str) -> dict[str, float]:
    """Score an answer's content, each measure from 0 to 1; which measures there are depends on the task alone."""
    match task.grader:
        case "choice":
            right: float = grading.matches_choice(answer, task.references[0], task.choices)
        case "number":
            right = any(grading.matches_number(answer, reference) for reference in task.references)
        case "short":
            right = grading.matches_short_answer(answer, task.references)
        case "refusal":
            right = grading.is_refusal(answer)
        case "format":
            right = grading.follows_rules(answer, FormatRules.model_validate(task.rules))
        case "keypoints":
            recall = grading.keypoint_recall(answer, task.keypoints)
            return {"right": float(recall == 1), "keypoint_recall": recall} | _similarity(task, answer)
        case "text":
            return _similarity(task, answer)
    return {"right": float(right)}


def task_to_record(task: Task) -> dict[str, Any]:
    """Convert a task to plain values, from which `task_from_record` makes an equal one."""
    record = asdict(task)
    return record | {"turns": [_rename_key(turn, "trained", "learned") for turn in record["turns"]]}


def task_from_record(record: Mapping[str, Any]) -> Task:
    """Make the task of a record that `task_to_record` returned."""
    turns = [_rename_key(turn, "learned", "trained") for turn in record["turns"]]
    return _TASK.validate_python({**record, "turns": turns})


def _rename_key(record: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    # Files of an evaluation say `learned`, as they always have; the code says `trained`.
    return {new if key == old else key: value for key, value in record.items()}


def _similarity(task: Task, answer: str) -> dict[str, float]:
    """Return chrF and ROUGE-L against the closest reference; nothing without references."""
    if not task.references:
        return {}
    return {"chrf": grading.chrf(answer, *task.references), "rouge_l": grading.rouge_l(answer, *task.references)}


def _default_grader(choices: Sequence[str], points: Sequence[str], references: Sequence[str]) -> Grader:
    if choices:
        return "choice"
    return "keypoints" if points else grading.pick_grader(references[0]) if references else "text"


def _prompt_text(question: str, choices: Sequence[str]) -> str:
    """Return the question as it is asked: followed by its options and how to answer, in its own language."""
    if not choices:
        return question
    chinese = main_script(question + "".join(choices)) == "Chinese" or any(
        "\u4e00" <= letter <= "\u9fff" for letter in question
    )
    ending = (
        "请在回答的最后写出正确选项的字母，如“答案：A”。"
        if chinese
        else 'End with the letter of the right option, as in "Answer: A".'
    )
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(OPTION_LETTERS, choices, strict=False))
    return f"{question.rstrip()}\n{options}\n\n{ending}"


def _parse_question(value: Any, source: str) -> _Parsed[str]:
    if isinstance(value, str) and value.strip():
        return _Parsed(value)
    return _Parsed("", (f"{source}: question: is {_short_repr(value)}; give the question as text",))


def _parse_choices(value: Any, source: str) -> _Parsed[tuple[str, ...]]:
    """Read options from a list, a mapping by letter, or a list of {key, value}."""
    if value is None:
        return _Parsed(())
    if isinstance(value, Mapping):
        value = [text for _, text in sorted(value.items()) if str(text or "").strip()]
    elif isinstance(value, list) and all(isinstance(option, Mapping) for option in value):
        value = [option.get("value", option.get("text")) for option in value]
    texts = _parse_texts(value, f"{source}: choices")
    if 2 <= len(texts.value) <= len(OPTION_LETTERS):
        return texts
    count = f"{source}: choices: has {len(texts.value)} options; give 2 to {len(OPTION_LETTERS)}"
    return _Parsed(texts.value, (*texts.faults, count))


def _parse_letters(value: Any, choices: Sequence[str], source: str) -> _Parsed[tuple[str, ...]]:
    """Read the letters of the right options, given as letters, as an index from 0, or as the option's own text."""
    known = OPTION_LETTERS[: len(choices)]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return _Parsed((known[value],))
    text = "".join(value) if isinstance(value, list) else str(value if value is not None else "").strip()
    if text in choices:
        return _Parsed((known[list(choices).index(text)],))
    letters = "".join(sorted(set(text.upper().replace(",", "").replace(" ", ""))))
    if letters and set(letters) <= set(known):
        return _Parsed((letters,))
    if text.isdigit() and int(text) < len(choices):
        return _Parsed((known[int(text)],))
    fault = f"{source}: answer: is {_short_repr(value)}, which is not an option; "
    return _Parsed((), (f"{fault}give a letter of {known}, an index from 0, or an option's text",))


def _parse_texts(value: Any, place: str) -> _Parsed[tuple[str, ...]]:
    if value is None or value == "":
        return _Parsed(())
    texts = value if isinstance(value, list | tuple) else [value]
    if any(not isinstance(text, str | int | float) or not str(text).strip() for text in texts):
        return _Parsed((), (f"{place}: holds {_short_repr(value)}; give texts that are not blank",))
    return _Parsed(tuple(str(text) for text in texts))


def _rule_faults(rules: Any, source: str) -> list[str]:
    try:
        if rules is not None:
            FormatRules.model_validate(rules)
    except ValueError as error:
        return [f"{source}: rules: {shorten_error(error, 200)}"]
    return []


def _short_repr(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]


class TaskColumns(BaseModel):
    """Names of the columns; several columns in `choices` hold one option each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    answer: str | None = None
    choices: str | tuple[str, ...] | None = None
    keypoints: str | None = None


class TaskLayout(BaseModel):
    """Layout of a task file.

    `header` names the columns of a table without a header row; `system` is the system prompt of every question.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    columns: TaskColumns
    header: tuple[str, ...] | None = None
    grader: str | None = None
    system: str | None = None


def read_tasks(file: Path, system: str | None = None) -> list[Task]:
    """Read all tasks of a file, in its order; their set is named after the file.

    The layout is read from FILE.yaml next to it, or is the first known one that fits. Raises UserError naming each row
    that cannot be used (the first 20), or what the file lacks.
    """
    if not file.is_file():
        raise UserError(f"--tasks: {str(file)!r} is not a file; give one that ends in {', '.join(SUFFIXES)}")
    layout, records = _read_with_layout(file)
    tasks: list[Task] = []
    faults: list[str] = []
    for source, record in records:
        try:
            tasks.append(make_task(_map_columns(record, layout), file.stem, source, layout.system or system))
        except UserError as error:
            faults += error.faults
    if faults:
        more = [f"{file}: {len(faults) - MAX_FAULTS} more mistakes"] if len(faults) > MAX_FAULTS else []
        raise UserError([*faults[:MAX_FAULTS], *more])
    if not tasks:
        raise UserError(f"{file}: holds no tasks; give rows with question and answer")
    return tasks


def _read_with_layout(file: Path) -> tuple[TaskLayout, list[tuple[str, dict[str, Any]]]]:
    """Return the layout of a file, and each row as its source and its values by column."""
    mapping = file.with_name(f"{file.name}.yaml")
    given = _read_layout(mapping) if mapping.is_file() else None
    if file.suffix.lower() == ".csv":
        return _read_table(file, given)
    records = list(_read_records(file))
    return given or _first_matching_layout(file, set().union(*(record for _, record in records))), records


def _read_records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    faults: list[str] = []
    for row in read_rows(file, file.name, repair_encoding=True):
        if row.columns is None:
            faults += [finding.sentence for finding in row.findings if finding.action != "repaired"]
        else:
            yield row.source, row.columns
    if faults:
        raise UserError([f"{fault}; fix the row" for fault in faults[:MAX_FAULTS]])


def _read_table(file: Path, given: TaskLayout | None) -> tuple[TaskLayout, list[tuple[str, dict[str, Any]]]]:
    """Read a CSV table. Unlike training rows, it may have a nameless column of row numbers, or no header at all."""
    lines = _read_csv(file)
    first = lines[0][1] if lines else []
    layout = given or _table_layout(file, first)
    names, body = (list(layout.header), lines) if layout.header else (first, lines[1:])
    uneven = [
        f"{file.name}:{line}: has {len(cells)} columns, not {len(names)}"
        for line, cells in body
        if len(cells) != len(names)
    ]
    if uneven:
        raise UserError(uneven[:MAX_FAULTS])
    return layout, [(f"{file.name}:{line}", dict(zip(names, cells, strict=True))) for line, cells in body]


def _read_csv(file: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that are not blank, each with the number of its first line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
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


def _table_layout(file: Path, first: Sequence[str]) -> TaskLayout:
    """Find the known layout of a table by its first row: a header, or else a row that ends in an option's letter."""
    headless = [layout for layout in _known_layouts() if layout.header and len(layout.header) == len(first)]
    named = any(_layout_matches(layout, set(first)) for layout in _known_layouts() if not layout.header)
    if headless and not named and first[-1].strip() in "ABCD":
        return headless[0]
    return _first_matching_layout(file, set(first))


def _map_columns(record: dict[str, Any], layout: TaskLayout) -> dict[str, Any]:
    """Rename a row's columns to the fields of `make_task`."""
    columns = layout.columns
    row = {key: record[key] for key in OWN_COLUMNS if key in record}
    row |= {"question": record.get(columns.question), "answer": record.get(columns.answer or "")}
    if isinstance(columns.choices, str):
        row["choices"] = record.get(columns.choices)
    elif columns.choices:
        row["choices"] = [record[name] for name in columns.choices if str(record.get(name) or "").strip()]
    row["keypoints"] = record.get(columns.keypoints or "")
    return row | ({"grader": layout.grader} if layout.grader else {})


def _read_layout(file: Path) -> TaskLayout:
    try:
        return TaskLayout.model_validate(read_values(file))
    except ValidationError as error:
        raise UserError(f"{file}: is not a column mapping ({shorten_error(error)}); see docs/evaluation.md") from None


def _first_matching_layout(file: Path, names: set[str]) -> TaskLayout:
    for layout in _known_layouts():
        if not layout.header and _layout_matches(layout, names):
            return layout
    raise UserError(
        f"{file}: its columns ({', '.join(sorted(names)) or 'none'}) match no known layout; rename them to question, "
        f"answer, choices or keypoints, or write {file.name}.yaml next to it, as docs/evaluation.md shows"
    )


def _layout_matches(layout: TaskLayout, names: set[str]) -> bool:
    columns = layout.columns
    options: Sequence[str] = (columns.choices,) if isinstance(columns.choices, str) else columns.choices or ()
    wanted = {columns.question, *options, *filter(None, (columns.answer, columns.keypoints))}
    return wanted <= names


@cache
def _known_layouts() -> tuple[TaskLayout, ...]:
    text = files("thinktune.eval").joinpath("task_layouts.yaml").read_text(encoding="utf-8")
    return tuple(TaskLayout.model_validate(layout) for layout in yaml.safe_load(text))
