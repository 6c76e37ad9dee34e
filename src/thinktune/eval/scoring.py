"""Saved replies to the report: everything of an evaluation that needs no model, so that it can be done again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from thinktune.errors import UserError
from thinktune.eval import llm_judge as referee
from thinktune.eval.comparison import Scores, compare, forgetting_verdict, row_outcome, set_verdict, sort_measures
from thinktune.eval.completion_store import completion_key, read_records
from thinktune.eval.general_probe import PROBE_SET
from thinktune.eval.grading import format_metrics
from thinktune.eval.tasks import Task, grade_answer, task_from_record
from thinktune.files import read_json, write_json, write_json_lines
from thinktune.run.folder import EvaluationFolder

SIDES = ("base", "tuned")


LOSS_KEYS = ("loss", "reasoning_loss", "answer_loss", "end_loss")


def score_completions(folder: EvaluationFolder) -> dict[str, Any]:
    """Grade the saved replies of an evaluation's folder, write its report.json and rows.jsonl, and return the report.

    The same folder gives the same report, byte for byte. Raises UserError where nothing was evaluated, or replies are
    missing.
    """
    if not folder.settings.is_file() or not folder.tasks.is_file():
        raise UserError(f"{folder.path}: holds no saved replies; run thinktune eval without --regrade first")
    settings = read_json(folder.settings)
    tasks = [task_from_record(json.loads(line)) for line in folder.tasks.read_text(encoding="utf-8").splitlines()]
    replies = {side: _saved_replies(folder, side, settings, tasks) for side in SIDES}
    scores = {
        side: [_score_reply(task, reply, settings) for task, reply in zip(tasks, replies[side], strict=True)]
        for side in SIDES
    }
    judged = _add_judge_scores(folder, settings, tasks, replies, scores)
    apart = {(seen["set"], seen["row"]) for seen in settings["apart"]}
    names = list(dict.fromkeys(task.set for task in tasks))
    sets = [_score_set(folder, name, tasks, scores, apart) for name in names]
    report = {
        "format": 2,
        "verdicts": [found["verdict"] for found in sets if found["rows"]],
        "sets": sets,
        **({"judge": judged} if judged else {}),
        "settings": settings,
    }
    write_json_lines(folder.rows, _row_records(tasks, replies, scores, apart))
    write_json(folder.report, report)
    return report


def task_completion_key(task: Task, side: str, settings: Mapping[str, Any]) -> str:
    """What a side's reply to a task is known by."""
    return completion_key(task.key, settings["models"][side]["print"], settings["sampling"])


def answer_pair(task: Task, base: str, tuned: str) -> referee.AnswerPair:
    """Two answers to a task, as the judge compares them."""
    return referee.AnswerPair(task.stem or task.question, task.references[0] if task.references else "", base, tuned)


def _saved_replies(
    folder: EvaluationFolder, side: str, settings: Mapping[str, Any], tasks: Sequence[Task]
) -> list[dict[str, Any]]:
    saved = read_records(folder.completions(side))
    keys = [task_completion_key(task, side, settings) for task in tasks]
    missing = sum(key not in saved for key in keys)
    if missing:
        raise UserError(
            f"{folder.completions(side)}: lacks {missing} of {len(keys)} replies; run eval without --regrade"
        )
    return [saved[key] for key in keys]


def _score_reply(task: Task, reply: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, float]:
    measured = format_metrics(task.question, reply, settings["sampling"]["thinking"]) | grade_answer(
        task, str(reply["answer"])
    )
    return {name: float(value) for name, value in measured.items()}


def _add_judge_scores(
    folder: EvaluationFolder,
    settings: Mapping[str, Any],
    tasks: Sequence[Task],
    replies: Mapping[str, Sequence[Mapping[str, Any]]],
    scores: Mapping[str, Sequence[dict[str, float]]],
) -> dict[str, Any] | None:
    """Add what the judge said to the scores, and return the account of it; none where no judge was asked."""
    if not settings.get("judge"):
        return None
    saved = read_records(folder.judgements)
    found: list[referee.Judgement] = []
    for place, task in enumerate(tasks):
        pair = answer_pair(task, replies["base"][place]["answer"], replies["tuned"][place]["answer"])
        judged = referee.combine_orders(pair, settings["judge"], saved) if task.set != PROBE_SET else None
        if judged is not None:
            found.append(judged)
            if judged.preferred is not None:
                scores["tuned"][place]["preferred"] = judged.preferred
                scores["base"][place]["preferred"] = 1 - judged.preferred
    return referee.summarize_judgements(settings["judge"], found)


def _score_set(
    folder: EvaluationFolder,
    name: str,
    tasks: Sequence[Task],
    scores: Mapping[str, Sequence[Scores]],
    apart: set[tuple[str, str]],
) -> dict[str, Any]:
    places = [place for place, task in enumerate(tasks) if task.set == name]
    counted = [place for place in places if (name, tasks[place].source) not in apart]
    base, tuned = ([scores[side][place] for place in counted] for side in SIDES)
    measures = compare(base, tuned)
    if folder.losses("base").is_file() and name == "held-out":
        measures += compare(*(_linearized_losses(read_json(folder.losses(side))["rows"]) for side in SIDES))
    made = {
        "name": name,
        "rows": len(counted),
        "apart": len(places) - len(counted),
        "measures": sort_measures(measures),
        "verdict": forgetting_verdict(measures) if name == PROBE_SET else set_verdict(name, measures),
    }
    kinds = sorted({tasks[place].kind for place in counted} - {""})
    made["kinds"] = [
        _score_kind(kind, [place for place in counted if tasks[place].kind == kind], scores) for kind in kinds
    ]
    return made


def _score_kind(kind: str, places: Sequence[int], scores: Mapping[str, Sequence[Scores]]) -> dict[str, Any]:
    right = {side: sum(int(scores[side][place].get("right", 0)) for place in places) for side in SIDES}
    return {"kind": kind, "rows": len(places), **right}


def _linearized_losses(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Losses of rows such that their plain mean is the loss of a token, as training reports it.

    A ratio's linear form (Taylor): with R = all loss / all tokens, a row stands for R + (its loss - R its tokens) / the
    mean tokens of a row. Resampling these gives the interval of the ratio.
    """
    made: list[dict[str, float]] = [{} for _ in rows]
    for number, name in enumerate(LOSS_KEYS):
        parts = range(3) if name == "loss" else (number - 1,)
        pairs = [(sum(row["sums"][part] for part in parts), sum(row["counts"][part] for part in parts)) for row in rows]
        tokens = sum(count for _, count in pairs)
        if tokens:
            ratio = sum(total for total, _ in pairs) / tokens
            for row, (total, count) in zip(made, pairs, strict=True):
                row[name] = ratio + (total - ratio * count) * len(rows) / tokens
    return made


def _row_records(
    tasks: Sequence[Task],
    replies: Mapping[str, Sequence[Mapping[str, Any]]],
    scores: Mapping[str, Sequence[Scores]],
    apart: set[tuple[str, str]],
) -> list[dict[str, Any]]:
    """Every row for people: what was asked, what is right, and what both models wrote."""
    return [
        {
            "set": task.set,
            "row": task.source,
            "question": task.question,
            "grader": task.grader,
            "references": task.references,
            "keypoints": task.keypoints,
            "reference_reasoning": task.reasoning,
            "outcome": row_outcome(scores["base"][place], scores["tuned"][place]),
            "apart": (task.set, task.source) in apart,
            **{
                side: {name: replies[side][place][name] for name in ("reasoning", "answer", "finish")}
                | {"scores": scores[side][place]}
                for side in SIDES
            },
        }
        for place, task in enumerate(tasks)
    ]
