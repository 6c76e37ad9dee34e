"""Questions with what a right answer is: the noun of an evaluation, from held-out rows or from files of tasks."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from thinktune.data import Example, Turn
from thinktune.data.language import main_script
from thinktune.data.readers import read_rows
from thinktune.data.sources import SUFFIXES
from thinktune.errors import UserError, shorten_error
from thinktune.eval import grading as grade
from thinktune.eval.answer_extraction import OPTION_LETTERS
from thinktune.eval.grading import FormatRules, Grader, follows_rules


@dataclass(frozen=True, slots=True)
class Task:
    """One question: its set, where it stands (`file:line`), its prompt, and by which grader it is right when.

    `references` are the accepted answers, for a choice its letters; `rules` are those of the grader `format`.
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

    @property
    def question(self) -> str:
        """What the last user turn asks."""
        return self.turns[-1].content

    @property
    def key(self) -> str:
        """What the prompt is known by: the same for the same turns."""
        said = repr([(turn.role, turn.content, turn.reasoning) for turn in self.turns])
        return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


_TASK = TypeAdapter(Task)


def task_from_example(example: Example, name: str) -> Task:
    """A held-out row as a task: by its key points where it has any, else by its answer."""
    reply = example.turns[-1]
    points = (example.keypoint,) if example.keypoint else ()
    grader = "keypoints" if points else grade.pick_grader(reply.content)
    prompt = example.turns[:-1]
    return Task(name, example.source, prompt, grader, (reply.content,), keypoints=points, reasoning=reply.reasoning)


def make_task(row: Mapping[str, Any], name: str, source: str, system: str | None = None) -> Task:
    """A task from the fields question, answer, choices, keypoints, grader, rules and kind.

    Raises UserError with every mistake of the row at once.
    """
    faults: list[str] = []
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        faults.append(f"{source}: question: is {_short_repr(question)}; write the text that is asked")
    choices = _parse_choices(row.get("choices"), source, faults)
    points = _parse_texts(row.get("keypoints"), f"{source}: keypoints", faults)
    if choices:
        references = _parse_letters(row.get("answer"), choices, source, faults)
    else:
        references = _parse_texts(row.get("answer"), f"{source}: answer", faults)
    grader, rules = row.get("grader") or _default_grader(choices, points, references), row.get("rules")
    if grader not in get_args(Grader):
        faults.append(f"{source}: grader: is {_short_repr(grader)}; known are {', '.join(get_args(Grader))}")
    needed = {"keypoints": points, "format": rules, "refusal": True}.get(grader, references)
    if not needed and not faults:
        faults.append(f"{source}: has nothing to grade by; give answer, choices with answer, or keypoints")
    if rules is not None:
        rules = _parse_rules(rules, source, faults)
    if faults:
        raise UserError(faults)
    return Task(
        name,
        source,
        (*([Turn("system", system)] if system else []), Turn("user", _prompt_text(str(question), choices))),
        grader,
        references,
        choices,
        points,
        rules,
        reasoning=str(row.get("think") or ""),
        kind=str(row.get("kind") or ""),
        stem=str(question) if choices else "",
    )


def grade_answer(task: Task, answer: str) -> dict[str, float]:
    """The measures of an answer's substance, each 0 to 1; which ones there are depends on the task alone."""
    match task.grader:
        case "choice":
            right: float = grade.matches_choice(answer, task.references[0], task.choices)
        case "number":
            right = any(grade.matches_number(answer, reference) for reference in task.references)
        case "short":
            right = grade.matches_short_answer(answer, task.references)
        case "refusal":
            right = grade.is_refusal(answer)
        case "format":
            right = follows_rules(answer, FormatRules.model_validate(task.rules))
        case "keypoints":
            recalled = grade.keypoint_recall(answer, task.keypoints)
            return {"right": float(recalled == 1), "keypoint_recall": recalled} | _similarity(task, answer)
        case "text":
            return _similarity(task, answer)
    return {"right": float(right)}


def task_to_record(task: Task) -> dict[str, Any]:
    """A task as plain values, which `task_from_record` reads back equal."""
    return asdict(task)


def task_from_record(record: Mapping[str, Any]) -> Task:
    """The task of a record that `task_to_record` made."""
    return _TASK.validate_python(dict(record))


def _similarity(task: Task, answer: str) -> dict[str, float]:
    if not task.references:
        return {}
    pairs = [(grade.chrf(answer, wanted), grade.rouge_l(answer, wanted)) for wanted in task.references]
    return {"chrf": max(pair[0] for pair in pairs), "rouge_l": max(pair[1] for pair in pairs)}


def _default_grader(choices: Sequence[str], points: Sequence[str], references: Sequence[str]) -> Grader:
    if choices:
        return "choice"
    return "keypoints" if points else grade.pick_grader(references[0]) if references else "text"


def _prompt_text(question: str, choices: Sequence[str]) -> str:
    """The question as it is put: with its options under it, and how to answer in its own language."""
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


def _parse_choices(value: Any, source: str, faults: list[str]) -> tuple[str, ...]:
    """Options as a list of texts, from a list, a mapping by letter, or a list of {key, value}."""
    if value is None:
        return ()
    if isinstance(value, Mapping):
        value = [text for _, text in sorted(value.items()) if str(text or "").strip()]
    elif isinstance(value, list) and all(isinstance(option, Mapping) for option in value):
        value = [option.get("value", option.get("text")) for option in value]
    texts = _parse_texts(value, f"{source}: choices", faults)
    if not 2 <= len(texts) <= len(OPTION_LETTERS):
        faults.append(f"{source}: choices: are {len(texts)}; give 2 to {len(OPTION_LETTERS)}")
    return texts


def _parse_letters(value: Any, choices: Sequence[str], source: str, faults: list[str]) -> tuple[str, ...]:
    """The letters of the right options: from letters, an index from 0, or the option's own text."""
    known = OPTION_LETTERS[: len(choices)]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(choices):
        return (known[value],)
    text = "".join(value) if isinstance(value, list) else str(value if value is not None else "").strip()
    if text in choices:
        return (known[list(choices).index(text)],)
    plain = "".join(sorted(set(text.upper().replace(",", "").replace(" ", ""))))
    if plain and set(plain) <= set(known):
        return (plain,)
    if text.isdigit() and int(text) < len(choices):
        return (known[int(text)],)
    faults.append(
        f"{source}: answer: is {_short_repr(value)}, no option; give a letter of {known}, an index from 0, or an option"
    )
    return ()


def _parse_texts(value: Any, place: str, faults: list[str]) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    texts = value if isinstance(value, list | tuple) else [value]
    if any(not isinstance(text, str | int | float) or not str(text).strip() for text in texts):
        faults.append(f"{place}: holds {_short_repr(value)}; give texts")
        return ()
    return tuple(str(text) for text in texts)


def _parse_rules(value: Any, source: str, faults: list[str]) -> dict[str, Any] | None:
    try:
        FormatRules.model_validate(value)
    except ValueError as error:
        faults.append(f"{source}: rules: {' '.join(str(error).split())[:200]}")
    return value


def _short_repr(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]


MAX_FAULTS = 20


OWN_COLUMNS = {"grader", "rules", "kind", "think"}  # columns of our own layout that need no mapping


class TaskColumns(BaseModel):
    """Which column holds what; a list of columns holds one option each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str
    answer: str | None = None
    choices: str | tuple[str, ...] | None = None
    keypoints: str | None = None


class TaskLayout(BaseModel):
    """How a file of tasks is read; `header` names the columns of a table that does not, `system` goes before each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    columns: TaskColumns
    header: tuple[str, ...] | None = None
    grader: str | None = None
    system: str | None = None


def read_tasks(file: Path, system: str | None = None) -> list[Task]:
    """All tasks of a file, in its order, under the name of the file.

    The layout stands in FILE.yaml beside it, or is the first known one that fits. Raises UserError naming every row
    that cannot be used (the first 20), or what the file lacks.
    """
    if not file.is_file():
        raise UserError(f"--tasks: {str(file)!r} is no file here; name one of {', '.join(SUFFIXES)}")
    layout, records = _read_with_layout(file)
    made: list[Task] = []
    faults: list[str] = []
    for source, record in records:
        try:
            made.append(make_task(_map_columns(record, layout), file.stem, source, layout.system or system))
        except UserError as error:
            faults += error.faults
    if faults:
        more = [f"{file}: {len(faults) - MAX_FAULTS} further mistakes"] if len(faults) > MAX_FAULTS else []
        raise UserError([*faults[:MAX_FAULTS], *more])
    if not made:
        raise UserError(f"{file}: holds no task; give rows with question and answer")
    return made


def _read_with_layout(file: Path) -> tuple[TaskLayout, list[tuple[str, dict[str, Any]]]]:
    """The layout of a file, and its rows as column to value with their sources."""
    beside = file.with_name(f"{file.name}.yaml")
    own = _read_layout(beside) if beside.is_file() else None
    if file.suffix.lower() == ".csv":
        return _read_table(file, own)
    records = list(_read_records(file))
    return own or _first_matching_layout(file, set().union(*(record for _, record in records))), records


def _read_records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    faults: list[str] = []
    for row in read_rows(file, file.name, repair_encoding=True):
        if row.columns is None:
            faults += [finding.sentence for finding in row.findings if finding.action != "repaired"]
        else:
            yield row.source, row.columns
    if faults:
        raise UserError([f"{fault}; mend the row" for fault in faults[:MAX_FAULTS]])


def _read_table(file: Path, own: TaskLayout | None) -> tuple[TaskLayout, list[tuple[str, dict[str, Any]]]]:
    """A CSV table. Unlike rows to train on, it may have a nameless column of row numbers, or no header at all."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8; save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[tuple[int, list[str]]] = []
    begun = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((begun, cells))
            begun = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}:{begun}: is no CSV ({error}); mend the row that begins here") from None
    first = lines[0][1] if lines else []
    headless = [layout for layout in _known_layouts() if layout.header and len(layout.header) == len(first)]
    fits = own or next(
        (layout for layout in _known_layouts() if not layout.header and _layout_matches(layout, set(first))), None
    )
    if fits is None and headless and first[-1].strip() in "ABCD":
        fits = headless[0]
    layout = fits or _first_matching_layout(file, set(first))
    names, body = (list(layout.header), lines) if layout.header else (first, lines[1:])
    uneven = [
        f"{file.name}:{line}: has {len(cells)} columns, not {len(names)}"
        for line, cells in body
        if len(cells) != len(names)
    ]
    if uneven:
        raise UserError(uneven[:MAX_FAULTS])
    return layout, [(f"{file.name}:{line}", dict(zip(names, cells, strict=True))) for line, cells in body]


def _map_columns(record: dict[str, Any], layout: TaskLayout) -> dict[str, Any]:
    """A row under our own names."""
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
        return TaskLayout.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: is no mapping of columns ({shorten_error(error)}); see docs/evaluation.md") from None


def _first_matching_layout(file: Path, names: set[str]) -> TaskLayout:
    for layout in _known_layouts():
        if not layout.header and _layout_matches(layout, names):
            return layout
    raise UserError(
        f"{file}: no known layout has its columns ({', '.join(sorted(names)) or 'none'}); rename them to question, "
        f"answer, choices or keypoints, or write {file.name}.yaml beside it, as docs/evaluation.md shows"
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
