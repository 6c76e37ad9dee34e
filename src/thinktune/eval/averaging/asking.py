"""Ask models between base and tuned, and score their replies; what was asked before is not asked again."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thinktune.config import Recipe
from thinktune.data import Prepared
from thinktune.errors import UserError
from thinktune.eval.averaging.curve import (
    ALL_WEIGHTS,
    Curve,
    Rule,
    WeightScores,
    choose_weight,
    curve_to_record,
    measure_points,
)
from thinktune.eval.averaging.questions import general_questions, reply_budget, split_held_out
from thinktune.eval.comparison import Scores
from thinktune.eval.completion_store import RecordWriter, model_fingerprint, read_completions
from thinktune.eval.general_probe import PROBE_SET
from thinktune.eval.runner import EvalOptions, Evaluation, evaluate_side, find_contaminated, is_evaluated
from thinktune.eval.scoring import HELD_OUT_SET, saved_losses
from thinktune.eval.settings import EvalSampling, EvalSettings, EvaluatedModel
from thinktune.eval.tasks import Task, grade_answer, task_from_example, task_to_record
from thinktune.files import write_json, write_json_lines
from thinktune.progress import Say
from thinktune.run import RunFolder
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.tags import read_tags


@dataclass(frozen=True, slots=True)
class Averaged:
    """The two models that are averaged, and how a folder of a weight's model is opened.

    `tuned` is the folder of the checkpoint of `step`; `open` yields a model folder, which is removed afterwards.
    """

    base: Path
    tuned: Path
    step: int
    open: Callable[[float], AbstractContextManager[Path]]


def draw_curve(recipe: Recipe, prepared: Prepared, tokenizer: ChatTokenizer, models: Averaged, say: Say) -> Curve:
    """Ask every weight's model, choose one by the recipe's rule, and write the curve into the run's folder.

    Replies and losses are on the disk as they come. Raises UserError as an evaluation does, and where the training rows
    ask all the questions.
    """
    rule = recipe.train.average
    assert rule is not None
    evaluation = _plan(recipe, prepared, tokenizer, models, say)
    run = RunFolder(recipe.run_folder)
    write_json_lines(evaluation.folder.tasks, map(task_to_record, evaluation.tasks))
    _exchange_replies(evaluation, run)
    for weight in sorted(ALL_WEIGHTS, key=lambda weight: (weight > 0, -weight)):  # what matters most first
        side = _side(weight)
        if not is_evaluated(evaluation, side):
            with models.open(weight) if weight else nullcontext(models.base) as folder:
                evaluate_side([evaluation], side, folder)
        if not weight:
            _exchange_replies(evaluation, run)
    curve = _conclude(evaluation, rule, models.step)
    write_json(run.curve, curve_to_record(curve))
    return curve


def _conclude(evaluation: Evaluation, rule: Rule, step: int) -> Curve:
    measure, points = measure_points(_score(evaluation))
    chosen, reason = choose_weight(points, rule)
    sets = [task.set for task in evaluation.tasks]
    return Curve(
        step=step,
        rule=rule,
        measure=measure,
        domain_rows=sets.count(HELD_OUT_SET),
        general_rows=sets.count(PROBE_SET),
        points=points,
        chosen=chosen,
        reason=reason,
        max_new_tokens=evaluation.settings.sampling.max_new_tokens,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _side(weight: float) -> str:
    """Return the name of a weight's folder of replies."""
    return f"weight-{weight:g}" if weight else "base"


def _plan(recipe: Recipe, prepared: Prepared, tokenizer: ChatTokenizer, models: Averaged, say: Say) -> Evaluation:
    """Collect the questions, without those that the training rows ask, and the settings by which replies are kept."""
    held_out, _ = split_held_out(recipe, prepared.validation)
    tasks = [task_from_example(example, HELD_OUT_SET) for example in held_out.examples()]
    tasks += general_questions(recipe)
    contaminated = find_contaminated(tasks, prepared.train.examples())
    tasks = [task for index, task in enumerate(tasks) if index not in contaminated]
    for name in (HELD_OUT_SET, PROBE_SET):
        if not any(task.set == name for task in tasks):
            raise UserError(
                f"train.average: the training rows ask all {name} questions, so no weight can be chosen; remove "
                "them from the rows, or leave train.average out"
            )
    prints = {"base": model_fingerprint(models.base), "tuned": model_fingerprint(models.tuned)}
    settings = EvalSettings(
        models={
            _side(weight): EvaluatedModel(
                _side(weight), f"{prints['tuned']} x {weight:g} + {prints['base']}" if weight else prints["base"]
            )
            for weight in ALL_WEIGHTS
        },
        sampling=EvalSampling(reply_budget(recipe, prepared), 0.0, 0, thinking=True),
        data_fingerprint=prepared.fingerprint,
        choosing_rows=len(held_out),
        think_tags=astuple(read_tags(tokenizer)),
    )
    folder = RunFolder(recipe.run_folder).averaging
    return Evaluation(folder, recipe, settings, tasks, held_out, EvalOptions(thinking=True), say)


def _exchange_replies(evaluation: Evaluation, run: RunFolder) -> None:
    """Give the run's evaluation the base's replies to the questions of both, and take those that it has."""
    keys = {evaluation.settings.completion_key(task, "base") for task in evaluation.tasks if task.set == PROBE_SET}
    files = evaluation.folder.completions("base"), run.evaluation().completions("base")
    saved = [read_completions(file) for file in files]
    for file, own, other in zip(files, saved, reversed(saved), strict=True):
        if lacking := sorted(keys & (other.keys() - own.keys())):
            with RecordWriter(file) as writer:
                for key in lacking:
                    writer.add(other[key])


def _score(evaluation: Evaluation) -> dict[float, WeightScores]:
    """Grade the replies of every weight; a question on which a grader fails counts for none."""
    graded = {weight: [_grade(*pair) for pair in _replies(evaluation, _side(weight))] for weight in ALL_WEIGHTS}
    known = [all(scores[index] is not None for scores in graded.values()) for index in range(len(evaluation.tasks))]

    def of_set(weight: float, name: str) -> list[Scores]:
        return [
            score
            for task, score, is_known in zip(evaluation.tasks, graded[weight], known, strict=True)
            if is_known and score is not None and task.set == name
        ]

    return {
        weight: WeightScores(
            of_set(weight, HELD_OUT_SET),
            of_set(weight, PROBE_SET),
            saved_losses(evaluation.folder.losses(_side(weight))),
        )
        for weight in ALL_WEIGHTS
    }


def _replies(evaluation: Evaluation, side: str) -> list[tuple[Task, Mapping[str, Any]]]:
    saved = read_completions(evaluation.folder.completions(side))
    return [(task, saved[evaluation.settings.completion_key(task, side)]) for task in evaluation.tasks]


def _grade(task: Task, reply: Mapping[str, Any]) -> Scores | None:
    """Score a reply's answer; None where the grader fails, whatever it raises."""
    try:
        return grade_answer(task, str(reply["answer"]))
    except Exception:
        return None
