"""Score saved replies and write the report: the part of an evaluation that needs no model and can be repeated."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thinktune.errors import UserError, shorten_error
from thinktune.eval import llm_judge
from thinktune.eval.comparison import (
    Scores,
    compare,
    forgetting_verdict,
    row_outcome,
    set_verdict,
    sort_measures,
    switch_verdict,
    ungraded_note,
)
from thinktune.eval.completion_store import read_completions, read_records
from thinktune.eval.exams.budgets import budget_key, read_budget_answers
from thinktune.eval.exams.scoring import ExamRow, score_exams
from thinktune.eval.general_probe import PROBE_SET
from thinktune.eval.grading import format_metrics
from thinktune.eval.settings import SIDES, EvalSettings, settings_from_record
from thinktune.eval.statistics import paired_difference
from thinktune.eval.tasks import Task, grade_answer, task_from_record
from thinktune.files import write_json, write_json_lines
from thinktune.run import EvaluationFolder
from thinktune.run.reading import AnyObject, read_lines, read_object, refuse_damage
from thinktune.run.sample_questions import HELD_OUT_SET
from thinktune.tokenization.tags import Tags

AGAIN = "run thinktune eval without --regrade: saved replies are not generated again"
LOSS_KEYS = ("loss", "reasoning_loss", "answer_loss", "end_loss")


@dataclass(frozen=True, slots=True)
class _ScoredTask:
    """A task, both sides' replies to it, their scores, and the judge's verdict if there is one.

    `grader_errors` says why an answer could not be graded; then neither side's is compared.
    """

    task: Task
    replies: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, Scores]
    grader_errors: Mapping[str, str]
    judgement: llm_judge.Judgement | None
    excluded: bool  # the training rows ask the same
    thinking: bool  # the mode that both models were asked in


def score_completions(folder: EvaluationFolder, warning: str | None = None) -> dict[str, Any]:
    """Score the saved replies of an evaluation's folder, write its report.json and rows.jsonl, and return the report.

    The same folder gives the same report, byte for byte. A warning about the model stands before the verdicts. Raises
    UserError if nothing was evaluated or replies are missing.
    """
    if not folder.settings.is_file() or not folder.tasks.is_file():
        raise UserError(f"{folder.path}: holds no saved replies; run thinktune eval without --regrade first")
    record = read_object(folder.settings, AnyObject, AGAIN)
    with refuse_damage(folder.settings, AGAIN):
        settings = settings_from_record(record)
    rows = _score_replies(folder, settings)
    judgements = [row.judgement for row in rows if row.judgement is not None]
    sets = [_score_set(folder, name, rows) for name in dict.fromkeys(row.task.set for row in rows)]
    switches = _score_switches(rows)
    report = {
        "format": 2,
        "verdicts": [
            *([warning] if warning else []),
            *(scored["verdict"] for scored in sets if scored["rows"]),
            *map(switch_verdict, switches),
        ],
        "sets": sets,
        "switches": switches,
        **({"exams": _score_exams(folder, settings, rows, sets)} if settings.exams else {}),
        **({"judge": llm_judge.summarize_judgements(settings.judge, judgements)} if settings.judge else {}),
        "settings": record,
    }
    write_json_lines(folder.rows, map(_row_record, rows))
    write_json(folder.report, report)
    return report


def _score_exams(
    folder: EvaluationFolder, settings: EvalSettings, rows: Sequence[_ScoredTask], sets: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Score the exams' sets; raises UserError where answers within budgets are missing."""
    counted = [
        ExamRow(row.task, {side: row.scores[side].get("right", 0.0) for side in SIDES})
        for row in rows
        if row.task.set in {facts["name"] for facts in settings.exams} and not row.excluded
    ]
    answers = {side: read_budget_answers(folder.budget_answers(side)) for side in SIDES}
    for side in SIDES:
        keys = [settings.completion_key(row.task, side) for row in counted]
        needed = {budget_key(key, budget) for key in keys for budget in settings.reasoning_budgets}
        if missing := len(needed - answers[side].keys()):
            file = folder.budget_answers(side)
            raise UserError(f"{file}: {missing} of {len(needed)} answers are missing; run eval without --regrade")
    return score_exams(settings, counted, {scored["name"]: scored["measures"] for scored in sets}, answers)


def answer_pair(task: Task, base: str, tuned: str) -> llm_judge.AnswerPair:
    """Make the pair of answers that the judge compares."""
    reference = task.references[0] if task.references else ""
    return llm_judge.AnswerPair(task.stem or task.question, reference, base, tuned)


def _score_replies(folder: EvaluationFolder, settings: EvalSettings) -> list[_ScoredTask]:
    records = read_lines(folder.tasks, AnyObject, AGAIN)
    with refuse_damage(folder.tasks, AGAIN):
        tasks = [task_from_record(record) for record in records]
    saved = {side: _saved_replies(folder, side, settings, tasks) for side in SIDES}
    judgements = read_records(folder.judgements) if settings.judge else {}
    excluded = {(each.set, each.row) for each in settings.apart}
    rows: list[_ScoredTask] = []
    for index, task in enumerate(tasks):
        replies = {side: saved[side][index] for side in SIDES}
        scores, grader_errors = _score_sides(task, replies, settings.thinks(task), Tags(*settings.think_tags))
        judgement = None
        if settings.judge and task.set != PROBE_SET:
            pair = answer_pair(task, replies["base"]["answer"], replies["tuned"]["answer"])
            judgement = llm_judge.combine_orders(pair, settings.judge, judgements)
        if judgement is not None and judgement.preferred is not None:
            scores["tuned"]["preferred"] = judgement.preferred
            scores["base"]["preferred"] = 1 - judgement.preferred
        is_excluded = (task.set, task.source) in excluded
        thinking = settings.thinks(task)
        rows.append(_ScoredTask(task, replies, scores, grader_errors, judgement, is_excluded, thinking))
    return rows


def _saved_replies(
    folder: EvaluationFolder, side: str, settings: EvalSettings, tasks: Sequence[Task]
) -> list[dict[str, Any]]:
    file = folder.completions(side)
    saved = read_completions(file)
    keys = [settings.completion_key(task, side) for task in tasks]
    if missing := sum(key not in saved for key in keys):
        raise UserError(f"{file}: {missing} of {len(keys)} replies are missing; run eval without --regrade")
    return [saved[key] for key in keys]


def _score_sides(
    task: Task, replies: Mapping[str, Mapping[str, Any]], thinking: bool, think_tags: Tags
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Score both sides' replies to a task, and say for each whose answer could not be graded why.

    Replies are saved, so a grader that raised would end every later evaluation of them, too: it costs its row instead.
    """
    measures: dict[str, dict[str, float]] = {side: {} for side in SIDES}
    graded: dict[str, dict[str, float]] = {}
    errors: dict[str, str] = {}
    for side in SIDES:
        try:
            measures[side] = format_metrics(task.question, replies[side], thinking, think_tags)
            graded[side] = grade_answer(task, str(replies[side]["answer"]))
        except Exception as error:  # whatever it is
            errors[side] = f"{type(error).__name__}: {shorten_error(error)}"
    if not errors:
        measures = {side: measures[side] | graded[side] for side in SIDES}
    scores = {side: {name: float(value) for name, value in measures[side].items()} for side in SIDES}
    return scores, errors


def _score_set(folder: EvaluationFolder, name: str, rows: Sequence[_ScoredTask]) -> dict[str, Any]:
    """Compare both sides on one set's rows that are not excluded."""
    all_rows = [row for row in rows if row.task.set == name]
    counted = [row for row in all_rows if not row.excluded]
    measures = compare([row.scores["base"] for row in counted], [row.scores["tuned"] for row in counted])
    if name == HELD_OUT_SET and folder.losses("base").is_file():
        measures += compare(*(saved_losses(folder.losses(side)) for side in SIDES))
    graded = [row for row in counted if not row.grader_errors]
    verdict = forgetting_verdict(measures) if name == PROBE_SET else set_verdict(name, measures)
    if ungraded := len(counted) - len(graded):
        verdict += f"; {ungraded_note(ungraded)}"
    return {
        "name": name,
        "rows": len(counted),
        "apart": len(all_rows) - len(counted),
        "ungraded": ungraded,
        "measures": sort_measures(measures),
        "verdict": verdict,
        "kinds": _score_groups("kind", [(row.task.kind, row.scores) for row in graded]),
        "languages": _score_groups("language", [(row.task.language, row.scores) for row in graded]),
    }


def _score_switches(rows: Sequence[_ScoredTask]) -> list[dict[str, Any]]:
    """Compare how often both models obeyed the switch that they were asked under, for each mode that was asked in."""
    switches: list[dict[str, Any]] = []
    for mode, thinking in (("thinking", True), ("silent", False)):
        asked = [row for row in rows if row.thinking == thinking and not row.excluded]
        base, tuned = ([_obeyed(row, side) for row in asked] for side in SIDES)
        switches += [{"mode": mode, **figure} for figure in compare(base, tuned)]
    return switches


def _obeyed(row: _ScoredTask, side: str) -> Scores:
    """Score whether a reply reasons where it was asked to, and has neither reasoning nor a tag where it was not."""
    obeyed = (
        bool(str(row.replies[side]["reasoning"]).strip()) if row.thinking else row.scores[side].get("well_formed", 0)
    )
    return {"obeyed": float(obeyed)}


def saved_losses(file: Path) -> list[dict[str, float]]:
    """Read a side's losses, a row each, such that their plain mean is the loss per token."""
    record = read_object(file, AnyObject, AGAIN)
    with refuse_damage(file, AGAIN):
        return _linearized_losses(record["rows"])


def _score_groups(name: str, rows: Sequence[tuple[str, Mapping[str, Scores]]]) -> list[dict[str, Any]]:
    """Count the correct answers of each group of rows that has a name, with the interval of their paired difference."""
    groups: list[dict[str, Any]] = []
    for group in sorted({group for group, _ in rows} - {""}):
        scores = [each for own, each in rows if own == group]
        right = {side: [each[side].get("right", 0.0) for each in scores] for side in SIDES}
        change = paired_difference(right["base"], right["tuned"], bounded=True)
        counts = {side: int(sum(right[side])) for side in SIDES}
        groups.append({name: group, "rows": len(scores), **counts, "difference": asdict(change)})
    return groups


def _linearized_losses(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return a loss for each row such that their plain mean is the loss per token, as training reports it.

    Linear form of a ratio (Taylor): with R = sum of losses / number of tokens, a row's value is R + (its loss sum -
    R * its tokens) / the mean tokens of a row. Resampling these gives the interval of the ratio.
    """
    linearized: list[dict[str, float]] = [{} for _ in rows]
    for number, name in enumerate(LOSS_KEYS):
        kinds = range(3) if name == "loss" else (number - 1,)
        pairs = [(sum(row["sums"][kind] for kind in kinds), sum(row["counts"][kind] for kind in kinds)) for row in rows]
        tokens = sum(count for _, count in pairs)
        if tokens:
            ratio = sum(total for total, _ in pairs) / tokens
            for row, (total, count) in zip(linearized, pairs, strict=True):
                row[name] = ratio + (total - ratio * count) * len(rows) / tokens
    return linearized


def _row_record(row: _ScoredTask) -> dict[str, Any]:
    """Make a row for people: the question, its references, and what both models wrote."""
    task = row.task
    return {
        "set": task.set,
        "row": task.source,
        "question": task.question,
        "grader": task.grader,
        "references": task.references,
        "keypoints": task.keypoints,
        "reference_reasoning": task.reasoning,
        "outcome": row_outcome(row.scores["base"], row.scores["tuned"]),
        "apart": row.excluded,
        **{
            side: {name: row.replies[side][name] for name in ("reasoning", "answer", "finish")}
            | {"scores": row.scores[side]}
            | ({"grader_error": row.grader_errors[side]} if side in row.grader_errors else {})
            for side in SIDES
        },
    }
