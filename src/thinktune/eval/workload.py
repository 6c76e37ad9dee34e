"""Workload of an evaluation before it begins: how many questions of which kind, in which modes, and how long about.

Nothing is loaded or prepared for it: counts are those of the run's own files, times those of an earlier evaluation.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from thinktune.checkpoint import resolve_model_folder
from thinktune.config import load_recipe
from thinktune.errors import UserError
from thinktune.eval.averaging.questions import count_choosing
from thinktune.eval.completion_store import model_fingerprint, read_completions
from thinktune.eval.exams.catalogue import find_sets
from thinktune.eval.exams.exam import ExamRequest
from thinktune.eval.general_probe import PROBE_SET, probe_tasks
from thinktune.eval.scoring import HELD_OUT_SET
from thinktune.eval.settings import SIDES, EvalSettings, asked_modes, find_lacking, settings_from_record
from thinktune.eval.task_files import read_task_file
from thinktune.eval.tasks import Task, task_from_record
from thinktune.files import read_json
from thinktune.run import EvaluationFolder, RunFolder
from thinktune.run.reading import AnyObject, read_lines, refuse_damage

AGAIN = "run thinktune eval again: saved replies are not generated again"
SetKind = Literal["held-out", "file", "exam", "general"]


@dataclass(frozen=True, slots=True)
class AskedSet:
    """A set of questions and how many it has: of an exam at most so many, as only a hub knows; None where unknown."""

    kind: SetKind
    name: str
    questions: int | None


@dataclass(frozen=True, slots=True)
class Workload:
    """What an evaluation asks both models, in each of `modes` (True: with thinking).

    `replies` is how many at most are not saved yet, and `seconds` about how long these take, without loading the
    models; exams are in neither. Both are None where it is not known.
    """

    sets: tuple[AskedSet, ...]
    modes: tuple[bool, ...]
    replies: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What an evaluation is asked for, as in `EvalOptions`."""

    tasks: tuple[Path, ...] = ()
    exams: ExamRequest | None = None
    probe: bool = True
    thinking: bool | None = None


def measure_workload(run: Path, asked: Asked, others: Iterable[Path] = ()) -> Workload:
    """Count what an evaluation of a run would ask; `others` are runs whose speed serves where this one has none.

    Raises UserError where the run's recipe or a task file cannot be read.
    """
    recipe, rows = load_recipe(RunFolder(run).recipe), _object(RunFolder(run).data_summary)
    held_out = rows.get("validation_rows")
    if held_out is not None:
        held_out = min(recipe.generate.evaluate_questions, held_out - count_choosing(recipe, held_out))
    from_files = {file.stem: read_task_file(file, recipe.data.system).tasks for file in asked.tasks}
    general = probe_tasks(recipe.data.system) if asked.probe else []
    exam_sets = find_sets(asked.exams.names) if asked.exams else {}
    exam_questions = (asked.exams.questions or None) if asked.exams else None
    sets = (
        AskedSet("held-out", HELD_OUT_SET, held_out),
        *(AskedSet("file", name, len(tasks)) for name, tasks in from_files.items()),
        *(AskedSet("exam", name, exam_questions) for name in exam_sets),
        *([AskedSet("general", PROBE_SET, len(general))] if general else []),
    )
    modes = asked_modes(asked.thinking, has_switch=bool(rows.get("has_thinking_switch", True)))
    if held_out is None:
        return Workload(sets, modes, None, None)
    known = [*(task for tasks in from_files.values() for task in tasks), *general]
    lacking = _count_lacking(run, known, held_out, modes)
    return Workload(sets, modes, sum(lacking.values()), _estimate_seconds(run, lacking, others))


def _count_lacking(
    run: Path, known: Sequence[Task], held_out: int, modes: Sequence[bool]
) -> dict[tuple[bool, str], int]:
    """Return for each mode and side how many replies are not saved; at most, where this was never evaluated."""
    folders = [RunFolder(run).evaluation(thinking=mode) for mode in (True, False)]
    found = ((settings, folder) for folder in folders if (settings := _saved_settings(run, folder)))
    settings, folder = next(found, (None, None))
    if settings is None or folder is None:
        questions = held_out + len({task.key for task in known})
        return {(mode, side): questions for mode in modes for side in SIDES}
    tasks = [*_saved_questions(folder), *known]
    asked = [(replace(settings, sampling=replace(settings.sampling, thinking=mode)), tasks) for mode in modes]
    lacking: dict[tuple[bool, str], int] = {}
    for side in SIDES:
        saved = (key for mode in modes for key in read_completions(folders[not mode].completions(side)))
        for mode, each in zip(modes, find_lacking(asked, side, saved), strict=True):
            lacking[mode, side] = len(each)
    return lacking


def _saved_settings(run: Path, folder: EvaluationFolder) -> EvalSettings | None:
    """Return the settings of the last evaluation, greedy and for the model as it is now; None where there was none."""
    with suppress(OSError, UserError, ValueError, KeyError, TypeError):
        settings = settings_from_record(read_json(folder.settings))
        now = replace(settings.models["tuned"], print=model_fingerprint(resolve_model_folder(run)))
        sampling = replace(settings.sampling, temperature=0.0, seed=0)
        return replace(settings, models={**settings.models, "tuned": now}, sampling=sampling)
    return None


def _saved_questions(folder: EvaluationFolder) -> list[Task]:
    """Return the held-out questions of the last evaluation, which are those of the next one."""
    records = read_lines(folder.tasks, AnyObject, AGAIN) if folder.tasks.is_file() else []
    with refuse_damage(folder.tasks, AGAIN):
        return [task_from_record(record) for record in records if record.get("set") == HELD_OUT_SET]


def _estimate_seconds(run: Path, lacking: dict[tuple[bool, str], int], others: Iterable[Path]) -> float | None:
    """Return about how long the replies take that are not saved, by the last speed of each side; None without one."""
    seconds = 0.0
    like_it = None
    for (mode, side), replies in lacking.items():
        if not replies:
            continue
        speed = _seconds_per_reply(run, mode, side)
        if speed is None:
            like_it = [one for one in others if _is_alike(one, run)] if like_it is None else like_it
            speed = next((found for one in like_it if (found := _seconds_per_reply(one, mode, side)) is not None), None)
        if speed is None:
            return None
        seconds += replies * speed
    return seconds


def _seconds_per_reply(run: Path, mode: bool, side: str) -> float | None:
    """Return how long a reply of a side took, in this mode or, if it was not asked, in the other one."""
    for each in (mode, not mode):
        speed = _object(RunFolder(run).evaluation(thinking=each).speed(side))
        with suppress(KeyError, TypeError, ZeroDivisionError):
            return speed["seconds"] / speed["replies"]
    return None


def _is_alike(one: Path, run: Path) -> bool:
    """Return True if another run is of the same base model and device."""
    told = [_object(RunFolder(each).environment) for each in (one, run)]
    return one != run and all(told[0].get(key) == told[1].get(key) is not None for key in ("model", "device_name"))


def _object(file: Path) -> dict[str, Any]:
    """Read an object; {} where there is none, or a damaged one."""
    with suppress(OSError, ValueError, RecursionError):
        held = read_json(file)
        return held if isinstance(held, dict) else {}
    return {}
