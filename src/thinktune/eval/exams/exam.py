"""A set of an exam, ready to be asked: its drawn questions, and the facts that the report shows of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinktune.errors import UserError
from thinktune.eval.exams.catalogue import Hub, find_sets
from thinktune.eval.exams.fetching import FetchedSet, fetch_set
from thinktune.eval.exams.reading import ExamQuestions, draw_questions, read_questions
from thinktune.eval.exams.records import read_run_record, write_run_record
from thinktune.eval.tasks import Task
from thinktune.progress import Say


@dataclass(frozen=True, slots=True)
class Exam:
    """A set's name, its questions that are asked, and its facts: plain values, as in `settings.json`."""

    name: str
    tasks: tuple[Task, ...]
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExamRequest:
    """Which exams or sets are asked, how many questions of each set (0: all), and the hub that is asked first."""

    names: tuple[str, ...]
    questions: int
    hub: Hub | None = None


def prepare_exams(request: ExamRequest, record_file: Path, system: str | None, say: Say) -> list[Exam]:
    """Fetch and read the sets of exams, held to the run's record, which is written anew with what was fetched first.

    Raises UserError with every set that cannot be had or read.
    """
    held = read_run_record(record_file)
    exams: list[Exam] = []
    records = dict(held)
    faults: list[str] = []
    for name, exam_set in find_sets(request.names).items():
        try:
            fetched = fetch_set(name, exam_set, request.hub, held.get(name), say)
            every = read_questions(name, exam_set, fetched, system, say)
        except UserError as error:
            faults += error.faults
            continue
        asked = draw_questions(every, request.questions)
        facts = {"name": name, **exam_set.model_dump(include={"title", "language", "split"})}
        facts |= _facts(fetched, exam_set.licence, every, asked)
        records[name] = fetched.record
        exams.append(Exam(name, asked.tasks, facts))
        say(describe_exam(facts))
    if faults:
        raise UserError(faults)
    if records != held:
        write_run_record(record_file, records)
    return exams


def describe_exam(facts: dict[str, Any]) -> str:
    """Say in one line what is asked of a set, where it is from, and under which licence."""
    licence = facts["licence"] or "its card names none"
    if facts["licence_elsewhere"] and facts["licence_elsewhere"] != facts["licence"]:
        licence += f" (others say {facts['licence_elsewhere']})"
    return (
        f"{facts['name']}: {facts['asked']:,} of {facts['available']:,} {facts['split']} questions, zero-shot, from "
        f"{facts['repository']} on {facts['hub']}, revision {facts['revision'][:12]}; licence: {licence}"
    )


def _facts(fetched: FetchedSet, licence: str, every: ExamQuestions, asked: ExamQuestions) -> dict[str, Any]:
    record = fetched.record
    return {
        "hub": record.hub,
        "repository": record.repository,
        "revision": record.revision,
        "files": {name: digest.sha256 for name, digest in record.files.items()},
        "licence": record.licence,
        "licence_elsewhere": licence,
        "asked": len(asked.tasks),
        "available": every.available,
        "left_out": every.left_out,
        "shots": 0,
    }


def exam_tasks(exams: Sequence[Exam]) -> list[Task]:
    """Return the questions of all sets."""
    return [task for exam in exams for task in exam.tasks]
