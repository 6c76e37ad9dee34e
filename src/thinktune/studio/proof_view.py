"""The Proof screen: a run's evaluations as the report shows them, and their rows, found by outcome, set and words."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from thinktune.config.strict_yaml import read_values
from thinktune.errors import UserError
from thinktune.eval import find_measure
from thinktune.eval.comparison import format_figure_and_interval
from thinktune.eval.exams.catalogue import read_catalogue
from thinktune.eval.exams.exam import ExamRequest
from thinktune.eval.general_probe import PROBE_SET
from thinktune.eval.votes import count_votes
from thinktune.eval.workload import Asked, measure_workload
from thinktune.files import name_path
from thinktune.http import ApiError
from thinktune.http.security import read_body
from thinktune.report.evaluation_section import AGAIN, draw_interval, figure_values, read_reports
from thinktune.report.html import BilingualText
from thinktune.report.run_sections import evaluation_words
from thinktune.report.run_sections.advised_settings import advised_by_evaluation
from thinktune.run import EvaluationFolder, RunFolder
from thinktune.run.reading import AnyObject, read_lines, refuse_damage
from thinktune.studio.navigation import find_recipe_and_run
from thinktune.studio.studio import Studio
from thinktune.studio.verbs import EvalVerb, parse_verb

Outcome = Literal["all", "better", "worse", "same"]
Mode = Literal["thinking", "silent"]

SHOWN_CHARACTERS = 240  # of a question in the list; an opened row has all of it
MAX_ROWS = 200  # of one request
MAX_KEPT_FILES = 4  # of rows in memory
DEFAULT_EXAM_QUESTIONS = 400  # of each set, as the verb draws them if nothing is said
_OUTCOME_ORDER = {"worse": 0, "better": 1, "same": 2}
_ANSWERED_SETTINGS = ("sampling", "longest_trained_reply", "models", "versions", "made")


def read_proof(run: Path) -> dict[str, Any]:
    """Read all figures of a run's evaluations as JSON values: texts are `{en, zh}`, drawings SVG.

    Raises UserError where a report is damaged.
    """
    report = read_reports(run)
    silent = report.pop("silent", None)
    found: list[tuple[Mode, Any]] = [("thinking", report), ("silent", silent)]
    with refuse_damage(RunFolder(run).evaluation().report, AGAIN):
        modes = [_mode_values(run, mode, each) for mode, each in found if each and each.get("sets")]
        return {"modes": modes, "votes": count_votes(run), "exams": _offered_exams(), "has_model": _has_model(run)}


def _mode_values(run: Path, mode: Mode, report: Mapping[str, Any]) -> dict[str, Any]:
    rows = rows_of(evaluation_folder(run, mode)).rows
    values = figure_values(report)
    for one in values["sets"]:
        one["is_general"] = one["name"] == PROBE_SET
        one["group_lines"] = [
            _group_values(group) for groups in ("kinds", "languages") for group in one.get(groups) or []
        ]
    settings = {key: report["settings"].get(key) for key in _ANSWERED_SETTINGS}
    outcomes = ("worse", "better", "same")
    counts = {name: sum(row["outcome"] == name for row in rows) for name in outcomes}
    values["advised"] = [asdict(one) for one in advised_by_evaluation(report, _recipe_values(run))]
    return to_json(values | {"mode": mode, "settings": settings, "rows": len(rows), "counts": counts})


def _recipe_values(run: Path) -> dict[str, Any]:
    """Read the settings of a run; {} where its recipe is no longer YAML."""
    try:
        values = read_values(RunFolder(run).recipe)
    except (UserError, OSError):
        return {}
    return values if isinstance(values, dict) else {}


def _group_values(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the right answers of a kind of questions or of a language, with the interval of their difference."""
    change, right = group.get("difference"), find_measure("right")  # reports of earlier releases have no interval
    verdict = "" if change is None else "better" if change["low"] > 0 else "worse" if change["high"] < 0 else ""
    texts = change and evaluation_words.bilingual_interval(format_figure_and_interval(right, change, signed=True))
    return {
        "name": evaluation_words.group_words(str(group.get("kind", group.get("language")))),
        **{key: group[key] for key in ("rows", "base", "tuned")},
        "difference": texts,
        "verdict": verdict,
        "drawing": draw_interval(right, change, verdict) if change else "",
    }


def _offered_exams() -> list[dict[str, Any]]:
    """Return the exams that an evaluation can ask: their sets' titles, languages and licences as others name them."""
    catalogue = read_catalogue()
    return [
        {
            "name": name,
            "sets": [
                {"name": one, "title": catalogue.sets[one].title, "language": catalogue.sets[one].language}
                for one in names
            ],
        }
        for name, names in catalogue.exams.items()
    ]


def _has_model(run: Path) -> bool:
    return RunFolder(run).final.is_dir() or RunFolder(run).best.exists()


def evaluation_folder(run: Path, mode: Mode) -> EvaluationFolder:
    """Return the folder of the evaluation in a mode: `thinking` or `silent`."""
    return RunFolder(run).evaluation(thinking=mode != "silent")


@dataclass(frozen=True, slots=True)
class EvaluatedRows:
    """Rows of an evaluation, those that became worse first, and of each all its texts in small letters."""

    rows: Sequence[dict[str, Any]] = ()
    texts: Sequence[str] = ()

    def find(self, outcome: Outcome, named_set: str, search: str) -> list[int]:
        """Return the numbers of the rows with an outcome, of a set ("" is any), that hold every searched word."""
        words = search.lower().split()
        return [
            number
            for number, (row, text) in enumerate(zip(self.rows, self.texts, strict=True))
            if outcome in ("all", row["outcome"])
            and named_set in ("", row["set"])
            and all(word in text for word in words)
        ]


_kept: OrderedDict[tuple[Path, int, int], EvaluatedRows] = OrderedDict()
_keeping = Lock()


def rows_of(folder: EvaluationFolder) -> EvaluatedRows:
    """Read the rows of an evaluation; a file that has not changed since is not read again.

    Raises UserError where one is damaged.
    """
    if not folder.rows.is_file():
        return EvaluatedRows()
    with name_path(folder.rows):
        state = folder.rows.stat()
    key = (folder.rows.resolve(), state.st_mtime_ns, state.st_size)
    with _keeping:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    with refuse_damage(folder.rows, AGAIN):
        rows = sorted(read_lines(folder.rows, AnyObject, AGAIN), key=lambda row: _OUTCOME_ORDER.get(row["outcome"], 3))
        read = EvaluatedRows(rows, [_text_of(row) for row in rows])
    with _keeping:
        _kept[key] = read
        while len(_kept) > MAX_KEPT_FILES:
            _kept.popitem(last=False)
    return read


def _text_of(row: Mapping[str, Any]) -> str:
    written = [row[side].get(part) or "" for side in ("base", "tuned") for part in ("reasoning", "answer")]
    return "\n".join([row["question"], str(row["row"]), *(row.get("references") or []), *written]).lower()


def list_rows(
    found: EvaluatedRows, outcome: Outcome, named_set: str, search: str, start: int, count: int
) -> dict[str, Any]:
    """Return `count` of the rows that are looked for, from the `start`th one, and how many there are."""
    numbers = found.find(outcome, named_set, search)
    shown = numbers[start : start + min(count, MAX_ROWS)]
    return {
        "total": len(numbers),
        "from": start,
        "rows": [_row_summary(number, found.rows[number]) for number in shown],
    }


def _row_summary(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    question = " ".join(row["question"].split())
    cut = question[:SHOWN_CHARACTERS]
    return {
        "number": number,
        "question": cut + ("…" if len(cut) < len(question) else ""),
        "set": to_json(evaluation_words.set_words(str(row["set"]))),
        **{key: row[key] for key in ("row", "outcome", "apart")},
    }


def show_row(found: EvaluatedRows, number: int) -> dict[str, Any] | None:
    """Return all of a row: its question, references, and what both models wrote; None where there is no such row."""
    if not 0 <= number < len(found.rows):
        return None
    return _row_summary(number, found.rows[number]) | {
        key: value for key, value in found.rows[number].items() if key != "set"
    }


def workload_of(studio: Studio, verb: EvalVerb) -> dict[str, Any]:
    """Return what an evaluation would ask, and how long about, as JSON; raises ApiError where a file is not there."""
    run = studio.folder.find_run(verb.run)
    wanted = DEFAULT_EXAM_QUESTIONS if verb.exam_questions is None else verb.exam_questions
    exams = ExamRequest(tuple(verb.exam), wanted) if verb.exam else None
    files = tuple(studio.folder.resolve(one) for one in verb.tasks)
    others = (studio.folder.path / one for one in studio.folder.runs())
    found = asdict(measure_workload(run, Asked(files, exams, verb.probe, verb.thinking), others))
    for one in found["sets"]:
        name = one["name"]
        is_exam = one["kind"] == "exam"
        one["words"] = read_catalogue().sets[name].title if is_exam else evaluation_words.set_words(name)
    return to_json(found)


def add_proof_routes(app: FastAPI, studio: Studio) -> None:
    """Add the routes of the Proof screen: all figures of a run, its rows, and one row whole."""

    def show_proof(name: str) -> Response:
        recipe = find_recipe_and_run(studio.folder, name).recipe
        return JSONResponse(read_proof(studio.folder.find_run(name)) | {"recipe": recipe})

    def find_rows(  # noqa: PLR0913 (each parameter is one of the address)
        name: str,
        mode: Mode = "thinking",
        outcome: Outcome = "all",
        named_set: str = "",
        search: str = "",
        start: int = 0,
        count: int = 50,
    ) -> Response:
        found = rows_of(evaluation_folder(studio.folder.find_run(name), mode))
        return JSONResponse(list_rows(found, outcome, named_set, search, max(0, start), max(0, count)))

    async def show_workload(request: Request) -> Response:
        verb = parse_verb(await read_body(request, studio.limits))
        if not isinstance(verb, EvalVerb):
            raise ApiError(400, "verb: is no evaluation; send one of eval")
        return JSONResponse(await run_in_threadpool(workload_of, studio, verb))

    def show_one_row(name: str, number: int, mode: Mode = "thinking") -> Response:
        row = show_row(rows_of(evaluation_folder(studio.folder.find_run(name), mode)), number)
        if row is None:
            raise ApiError(404, f"there is no row {number}; the run was evaluated again since")
        return JSONResponse(row)

    app.add_api_route(
        "/studio/workload", show_workload, methods=["POST"], summary="Count what an evaluation would ask, and its time."
    )
    app.add_api_route("/studio/proof/{name:path}", show_proof, summary="Show the figures of a run's evaluations.")
    app.add_api_route("/studio/proof-rows/{name:path}", find_rows, summary="Find rows of an evaluation.")
    app.add_api_route("/studio/proof-row/{name:path}", show_one_row, summary="Show a row of an evaluation.")


def to_json(value: Any) -> Any:
    """Return a page's values as JSON: a text in two languages becomes `{en, zh}`, markup a string."""
    match value:
        case BilingualText():
            return {"en": value.en, "zh": value.zh}
        case str():
            return str(value)
        case Mapping():
            return {str(key): to_json(each) for key, each in value.items()}  # pyright: ignore
        case list() | tuple():
            return [to_json(each) for each in value]  # pyright: ignore
        case _:
            return value
