"""Questions of fetched sets as tasks, by the machinery of task files: all of them read, a fixed draw of them asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from thinktune.data.reading.containers import members, open_zip
from thinktune.errors import UserError
from thinktune.eval.exams.catalogue import ExamFile, ExamSet, match_subjects
from thinktune.eval.exams.fetching import FetchedSet
from thinktune.eval.task_files import SetPart, read_task_file
from thinktune.eval.tasks import Task
from thinktune.progress import Say

MAX_KINDS = 12  # subjects of a set whose answers are counted apart


@dataclass(frozen=True, slots=True)
class ExamQuestions:
    """The questions that are asked of a set, how many it has, and how many rows cannot be questions."""

    tasks: tuple[Task, ...]
    available: int
    left_out: int


def read_questions(name: str, exam_set: ExamSet, fetched: FetchedSet, system: str | None, say: Say) -> ExamQuestions:
    """Read all questions of a set, in the order of its files; their sources are `path/in/repository:line`.

    Raises UserError, naming the file, where one cannot be read.
    """
    tasks: list[Task] = []
    left_out: list[str] = []
    for file in _unpacked(name, exam_set, fetched):
        path = f"{file.name}/{file.part}" if file.part else file.name
        kinds = exam_set.subjects if exam_set.kind_column else ()
        part = SetPart(name, path, exam_set.layout, exam_set.kind_column, kinds, exam_set.several)
        read = read_task_file(fetched.folder / path, system, part)
        tasks += [replace(task, kind=task.kind or file.subject, language=exam_set.language) for task in read.tasks]
        left_out += read.left_out
    if left_out:
        say(f"{name}: {len(left_out):,} rows cannot be asked and are left out; the first: {left_out[0]}")
    if len({task.kind for task in tasks}) > MAX_KINDS:
        tasks = [replace(task, kind="") for task in tasks]
    unique = {task.key: task for task in reversed(tasks)}  # the first of the same questions
    kept = [task for task in tasks if unique[task.key] is task]
    return ExamQuestions(tuple(kept), len(kept), len(left_out))


def draw_questions(questions: ExamQuestions, count: int) -> ExamQuestions:
    """Draw so many questions by the hash of each, in their order: the same for every model, machine and file order.

    `count` 0 takes all of them.
    """
    if not count or count >= len(questions.tasks):
        return questions
    keys = {task.key for task in sorted(questions.tasks, key=_rank)[:count]}
    return replace(questions, tasks=tuple(task for task in questions.tasks if task.key in keys))


def _rank(task: Task) -> bytes:
    """Return the hash of a question's text and options, apart from how it is asked."""
    text = "\0".join((task.stem or task.question, *task.choices))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _unpacked(name: str, exam_set: ExamSet, fetched: FetchedSet) -> Sequence[ExamFile]:
    """Return the files of a set, an archive as its parts that hold questions."""
    files: list[ExamFile] = []
    for file in fetched.files:
        files += _parts(name, exam_set, fetched.folder / file.name, file) if file.part else [file]
    return files


def _parts(name: str, exam_set: ExamSet, path: Path, file: ExamFile) -> list[ExamFile]:
    with open_zip(path) as archive:
        names = sorted(member for member, _ in members(archive, path))
    found = match_subjects(file.part, names, exam_set.subjects)
    if not found:
        raise UserError(
            f"--exam: {name}: {file.name} has no parts like {file.part} for every subject, so it has changed since "
            "thinktune's catalogue was written; give its questions with --tasks"
        )
    return [ExamFile(file.name, part, subject) for part, subject in found.items()]
