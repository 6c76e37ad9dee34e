"""Figures of exams from saved replies: questions set apart, and accuracy against reasoning budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinktune.eval.comparison import compare
from thinktune.eval.exams.budgets import budget_key
from thinktune.eval.settings import SIDES, EvalSettings
from thinktune.eval.tasks import Task, grade_answer

Answers = Mapping[str, Mapping[str, Mapping[str, Any]]]  # of each side, the records within budgets by key


@dataclass(frozen=True, slots=True)
class ExamRow:
    """A question of an exam that is counted: whether each side's whole reply is right."""

    task: Task
    right: Mapping[str, float]


def score_exams(
    settings: EvalSettings,
    rows: Sequence[ExamRow],
    measures: Mapping[str, Sequence[Mapping[str, Any]]],
    answers: Answers,
) -> list[dict[str, Any]]:
    """Return each set's facts with its accuracy, the questions set apart, and the points of its curve.

    `measures` are the figures of each set by name. The last point of a curve is the whole reply.
    """
    exams: list[dict[str, Any]] = []
    for facts in settings.exams:
        name = facts["name"]
        own = [row for row in rows if row.task.set == name]
        apart = [each for each in settings.apart if each.set == name]
        matches = {match: sum(each.match == match for each in apart) for match in ("whole", "near")}
        accuracy = next((figure for figure in measures.get(name, ()) if figure["measure"] == "right"), None)
        points = [_point(settings, own, answers, budget) for budget in settings.reasoning_budgets] if own else []
        whole = [_whole(own, settings.sampling.max_new_tokens)] if points else []
        exams.append({**facts, "apart": matches, "accuracy": accuracy, "budgets": [*points, *whole]})
    return exams


def _point(settings: EvalSettings, rows: Sequence[ExamRow], answers: Answers, budget: int) -> dict[str, Any]:
    right: dict[str, list[float]] = {side: [] for side in SIDES}
    cut = dict.fromkeys(SIDES, 0)
    for side in SIDES:
        for row in rows:
            record = answers[side][budget_key(settings.completion_key(row.task, side), budget)]
            cut[side] += not record.get("fits")
            right[side].append(row.right[side] if record.get("fits") else _right(row.task, str(record["answer"])))
    return {"budget_tokens": budget, "cut": cut, **_compared(right)}


def _whole(rows: Sequence[ExamRow], max_new_tokens: int) -> dict[str, Any]:
    right = {side: [row.right[side] for row in rows] for side in SIDES}
    return {"budget_tokens": max_new_tokens, "cut": dict.fromkeys(SIDES, 0), **_compared(right)}


def _compared(right: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    [figure] = compare(*([{"right": value} for value in right[side]] for side in SIDES))
    return figure


def _right(task: Task, answer: str) -> float:
    return grade_answer(task, answer).get("right", 0.0)
