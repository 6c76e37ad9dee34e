"""Files of tasks: JSON lines, JSON, CSV or Parquet, in our own layout or in a public one that a mapping describes."""

import csv
import io
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from thinktune.errors import UserError, brief
from thinktune.find import SUFFIXES
from thinktune.rows import read_rows
from thinktune.tasks import Task, make_task

MOST_FAULTS = 20
OWN = {"grader", "rules", "kind", "think"}  # columns of our own layout that need no mapping


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
    layout, records = _laid_out(file)
    made: list[Task] = []
    faults: list[str] = []
    for source, record in records:
        try:
            made.append(make_task(_mapped(record, layout), file.stem, source, layout.system or system))
        except UserError as error:
            faults += error.faults
    if faults:
        more = [f"{file}: {len(faults) - MOST_FAULTS} further mistakes"] if len(faults) > MOST_FAULTS else []
        raise UserError([*faults[:MOST_FAULTS], *more])
    if not made:
        raise UserError(f"{file}: holds no task; give rows with question and answer")
    return made


def _laid_out(file: Path) -> tuple[TaskLayout, list[tuple[str, dict[str, Any]]]]:
    """The layout of a file, and its rows as column to value with their sources."""
    beside = file.with_name(f"{file.name}.yaml")
    own = _own_layout(beside) if beside.is_file() else None
    if file.suffix.lower() == ".csv":
        return _table(file, own)
    records = list(_rows(file))
    return own or _first_fitting(file, set().union(*(record for _, record in records))), records


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    faults: list[str] = []
    for row in read_rows(file, file.name, repair_encoding=True):
        if row.columns is None:
            faults += [finding.sentence for finding in row.findings if finding.action != "repaired"]
        else:
            yield row.source, row.columns
    if faults:
        raise UserError([f"{fault}; mend the row" for fault in faults[:MOST_FAULTS]])


def _table(file: Path, own: TaskLayout | None) -> tuple[TaskLayout, list[tuple[str, dict[str, Any]]]]:
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
    headless = [layout for layout in _known() if layout.header and len(layout.header) == len(first)]
    fits = own or next((layout for layout in _known() if not layout.header and _fits(layout, set(first))), None)
    if fits is None and headless and first[-1].strip() in "ABCD":
        fits = headless[0]
    layout = fits or _first_fitting(file, set(first))
    names, body = (list(layout.header), lines) if layout.header else (first, lines[1:])
    uneven = [
        f"{file.name}:{line}: has {len(cells)} columns, not {len(names)}"
        for line, cells in body
        if len(cells) != len(names)
    ]
    if uneven:
        raise UserError(uneven[:MOST_FAULTS])
    return layout, [(f"{file.name}:{line}", dict(zip(names, cells, strict=True))) for line, cells in body]


def _mapped(record: dict[str, Any], layout: TaskLayout) -> dict[str, Any]:
    """A row under our own names."""
    columns = layout.columns
    row = {key: record[key] for key in OWN if key in record}
    row |= {"question": record.get(columns.question), "answer": record.get(columns.answer or "")}
    if isinstance(columns.choices, str):
        row["choices"] = record.get(columns.choices)
    elif columns.choices:
        row["choices"] = [record[name] for name in columns.choices if str(record.get(name) or "").strip()]
    row["keypoints"] = record.get(columns.keypoints or "")
    return row | ({"grader": layout.grader} if layout.grader else {})


def _own_layout(file: Path) -> TaskLayout:
    try:
        return TaskLayout.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: is no mapping of columns ({brief(error)}); see docs/evaluation.md") from None


def _first_fitting(file: Path, names: set[str]) -> TaskLayout:
    for layout in _known():
        if not layout.header and _fits(layout, names):
            return layout
    raise UserError(
        f"{file}: no known layout has its columns ({', '.join(sorted(names)) or 'none'}); rename them to question, "
        f"answer, choices or keypoints, or write {file.name}.yaml beside it, as docs/evaluation.md shows"
    )


def _fits(layout: TaskLayout, names: set[str]) -> bool:
    columns = layout.columns
    options: Sequence[str] = (columns.choices,) if isinstance(columns.choices, str) else columns.choices or ()
    wanted = {columns.question, *options, *filter(None, (columns.answer, columns.keypoints))}
    return wanted <= names


@cache
def _known() -> tuple[TaskLayout, ...]:
    text = files("thinktune.bundled").joinpath("task_layouts.yaml").read_text(encoding="utf-8")
    return tuple(TaskLayout.model_validate(layout) for layout in yaml.safe_load(text))
