"""Base against tuned: the same questions, the same prompts, the same budget; replies kept as they come, one report."""

import gc
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinktune.checkpoint import store as checkpoint
from thinktune.config import Recipe
from thinktune.config import loading as recipe
from thinktune.data import Example, Prepared, Subset, prepare, read_tokenizer
from thinktune.data.duplicates import find_near_duplicates, fingerprint, question_text
from thinktune.errors import UserError
from thinktune.eval import llm_judge as referee
from thinktune.eval.completion_store import RecordWriter, model_fingerprint, read_records
from thinktune.eval.general_probe import PROBE_SEED as PROBE_SEED
from thinktune.eval.general_probe import PROBE_SET, probe_tasks
from thinktune.eval.llm_judge import Completer
from thinktune.eval.scoring import (
    SIDES,
    answer_pair,
    score_completions,
    task_completion_key,
)
from thinktune.eval.statistics import CONFIDENCE, RESAMPLES
from thinktune.eval.statistics import RESAMPLE_SEED as RESAMPLE_SEED
from thinktune.eval.tasks import Task, read_tasks, task_from_example, task_to_record
from thinktune.files import read_json, write_json, write_json_lines
from thinktune.hub import repository as hub
from thinktune.inference import Endpoint, Request, SamplingParams
from thinktune.inference.session import load_engine
from thinktune.model import evaluate_loss, pack, pick_device, pick_precision
from thinktune.progress import ProgressReporter, Say
from thinktune.run import RunFolder
from thinktune.run.environment import LIBRARIES
from thinktune.run.folder import EvaluationFolder
from thinktune.run.resume import refuse_other_data


def find_contaminated(tasks: Sequence[Task], trained: Iterable[Example]) -> dict[int, str]:
    """For each task whose question stands in the training rows, in the same words or nearly: which row it is.

    Nearly means that four in five of all runs of three characters are shared (Jaccard).
    """
    examples = [*trained]
    asked = [
        Example((*task.turns[:-1], replace(task.turns[-1], content=task.stem or task.question)), "") for task in tasks
    ]
    found = [fingerprint(example) for example in examples + asked]
    if not asked or not examples:
        return {}
    questions = np.array([each.question_hash for each in found], np.uint64)
    first = {question: row for row, question in reversed(list(enumerate(questions[: len(examples)].tolist())))}
    seen = {
        place: examples[first[question]].source
        for place, question in enumerate(questions[len(examples) :].tolist())
        if question in first
    }
    texts = [question_text(example) for example in (*examples, *asked)]
    for later, earlier, _ in find_near_duplicates(
        np.stack([each.minhash for each in found]), questions, texts.__getitem__
    ):
        if later >= len(examples) > earlier:
            seen.setdefault(later - len(examples), examples[earlier].source)
    return seen


HELD_OUT = "held-out"


MAX_ENDPOINT_CONCURRENCY = 32  # requests to an endpoint


GRADER_LIBRARIES = ("sacrebleu", "rouge-score")


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What `eval` was asked for, beside the run: more questions, where replies come from, who judges.

    `endpoints` names for base and tuned a URL, or URL#MODEL; without, the models run in this process. `judge` likewise.
    """

    tasks: tuple[Path, ...] = ()
    probe: bool = True
    thinking: bool = True
    temperature: float = 0.0
    seed: int = 0
    endpoints: Mapping[str, str] = field(default_factory=dict[str, str])
    judge: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a run: what is asked, how, and where what comes of it is kept."""

    folder: EvaluationFolder
    recipe: Recipe
    eval_settings: Mapping[str, Any]  # what decides the figures, beside the questions
    tasks: Sequence[Task]
    held_out: Subset  # of which the losses are measured
    options: EvalOptions
    say: Say


def evaluate_run(folder: Path, say: Say, options: EvalOptions | None = None) -> dict[str, Any]:
    """Measure a run's base and tuned model, write `eval/`, and return what its report.json holds.

    The sets are the first `generate.evaluate_questions` held-out rows, the files of tasks, and the general probe. What
    was answered before, by the same model in the same way, is not asked again.
    """
    options = options or EvalOptions()
    if options.endpoints and set(options.endpoints) != set(SIDES):
        raise UserError("--endpoint: name both, as in --endpoint base=http://host:8000/v1 --endpoint tuned=http://...")
    checkpoint.require_run_folder(folder)
    settings = recipe.load_recipe(RunFolder(folder).recipe)
    sources = {"base": hub.locate_model(settings), "tuned": checkpoint.resolve_model_folder(folder)}
    files = [task for file in options.tasks for task in read_tasks(file, settings.data.system)]
    prepared = prepare(
        settings, read_tokenizer(sources["tuned"], trust_remote_code=settings.model.trust_remote_code), say
    )
    refuse_other_data(prepared.fingerprint, prepared.train.digest_lines(), folder)
    tasks = [
        *(
            task_from_example(example, HELD_OUT)
            for example in prepared.validation.examples(settings.generate.evaluate_questions)
        ),
        *files,
        *(probe_tasks(settings.data.system) if options.probe else ()),
    ]
    _refuse_duplicate_names(tasks, options)
    place = RunFolder(folder).evaluation(thinking=options.thinking)
    facts = _eval_settings(settings, prepared, sources, tasks, options)
    write_json_lines(place.tasks, map(task_to_record, tasks))
    write_json(place.settings, facts)
    evaluation = Evaluation(place, settings, facts, tasks, prepared.validation, options, say)
    for side in SIDES:
        _evaluate_side(evaluation, side, sources[side])
    if options.judge:
        _judge_answers(evaluation, options.judge)
    return score_completions(place)


def rescore_run(folder: Path, *, thinking: bool = True) -> dict[str, Any]:
    """Grade a run's saved replies again, without a model, and write the report and the page."""
    checkpoint.require_run_folder(folder)
    return score_completions(RunFolder(folder).evaluation(thinking=thinking))


def _eval_settings(
    recipe: Recipe, prepared: Prepared, sources: Mapping[str, Path], tasks: Sequence[Task], options: EvalOptions
) -> dict[str, Any]:
    """What decides the figures, beside the questions: models, sampling, seeds, versions, rows set apart."""
    seen = find_contaminated(tasks, prepared.train.examples())
    budget = recipe.generate.evaluate_tokens or 2 * int(prepared.train.label_tokens.max(initial=32))
    names = {"base": recipe.model.name, "tuned": sources["tuned"].name}
    prints = {side: options.endpoints.get(side) or model_fingerprint(sources[side]) for side in SIDES}
    return {
        "models": {side: {"name": names[side], "print": prints[side]} for side in SIDES},
        "sampling": {
            "max_new_tokens": budget,
            "temperature": options.temperature,
            "seed": options.seed,
            "thinking": options.thinking,
        },
        "budget": "generate.evaluate_tokens" if recipe.generate.evaluate_tokens else "twice the longest trained reply",
        "longest_trained_reply": int(prepared.train.label_tokens.max(initial=0)),
        "apart": [{"set": tasks[at].set, "row": tasks[at].source, "trained": row} for at, row in sorted(seen.items())],
        "judge": options.judge,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "seeds": {"resampling": RESAMPLE_SEED, "probe": PROBE_SEED, "sampling": options.seed},
        "versions": {name: version(name) for name in (*LIBRARIES, *GRADER_LIBRARIES)},
        "data_fingerprint": prepared.fingerprint,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _evaluate_side(evaluation: Evaluation, side: str, source: Path) -> None:
    """Losses and replies of one side that are not saved yet; the model is loaded only where something is left to do."""
    folder, facts, settings = evaluation.folder, evaluation.eval_settings, evaluation.recipe
    saved = read_records(folder.completions(side))
    left = {task_completion_key(task, side, facts): task for task in evaluation.tasks}
    left = {key: task for key, task in left.items() if key not in saved}
    if endpoint := evaluation.options.endpoints.get(side):
        folder.losses(side).unlink(missing_ok=True)  # an endpoint tells none; old ones may be another model's
        if left:
            with closing(open_endpoint(endpoint)) as engine:
                _generate_replies(evaluation, side, left, engine, MAX_ENDPOINT_CONCURRENCY)
        return
    known = {"model": facts["models"][side]["print"], "data": facts["data_fingerprint"]}
    losses = read_json(folder.losses(side)) if folder.losses(side).is_file() else {}
    measured = not len(evaluation.held_out) or {name: losses.get(name) for name in known} == known
    if left or not measured:
        evaluation.say(f"{side}: {source}")
        precision = pick_precision(settings.train.precision, pick_device(), settings.train.memory)
        trusted = settings.model.trust_remote_code
        with closing(load_engine(source, precision, trust_remote_code=trusted)) as engine:
            if not measured:
                losses = _row_losses(engine.model, evaluation.held_out, engine.precision, evaluation.say)
                write_json(folder.losses(side), known | {"rows": losses})
            _generate_replies(evaluation, side, left, engine, settings.generate.batch_rows)
        del engine
        gc.collect()
        if pick_device().type != "cpu":
            torch.accelerator.empty_cache()


def _generate_replies(
    evaluation: Evaluation, side: str, left: Mapping[str, Task], engine: Completer, max_concurrency: int
) -> None:
    """Have what is left answered; each reply is on the disk before the next is waited for."""
    sampling, say = evaluation.eval_settings["sampling"], evaluation.say
    keys = sorted(left, key=lambda key: len(left[key].question))  # alike lengths need little padding
    chosen = SamplingParams(sampling["max_new_tokens"], temperature=sampling["temperature"], seed=sampling["seed"])
    requests = [Request(left[key].turns, chosen, sampling["thinking"]) for key in keys]
    progress = ProgressReporter(say, f"{side} replies", len(requests))
    with RecordWriter(evaluation.folder.completions(side)) as saving:
        for done, (index, reply) in enumerate(engine.complete(requests, max_concurrency), 1):
            task = left[keys[index]]
            saving.add({"key": keys[index], "set": task.set, "row": task.source, **asdict(reply)})
            progress.update(done)
    if keys:
        say(f"{side}: {len(keys)} questions answered")


def _row_losses(model: Any, rows: Subset, precision: torch.dtype, say: Say) -> list[dict[str, Any]]:
    """The summed losses and the tokens of reasoning, answer and end, held-out reply by reply."""
    progress = ProgressReporter(say, "losses", len(rows))
    found: list[dict[str, Any]] = []
    for done, reply in enumerate(rows.replies(), 1):
        batches = pack([reply], len(reply.ids), pad=None)
        losses = evaluate_loss(model, batches, model.device, precision)
        found.append({"row": reply.source, "sums": losses.sums.tolist(), "counts": losses.counts.tolist()})
        progress.update(done)
    return found


def _judge_answers(evaluation: Evaluation, judge: str) -> None:
    """Have a judge model compare the answers of all sets but the probe, which has exact answers."""
    place, facts, tasks = evaluation.folder, evaluation.eval_settings, evaluation.tasks
    replies = {side: read_records(place.completions(side)) for side in SIDES}
    answers = [[replies[side][task_completion_key(task, side, facts)]["answer"] for side in SIDES] for task in tasks]
    pairs = [answer_pair(task, *pair) for task, pair in zip(tasks, answers, strict=True) if task.set != PROBE_SET]
    with closing(open_endpoint(judge)) as completer:
        referee.judge_pairs(pairs, judge, completer, place.judgements, evaluation.say)


def open_endpoint(address: str) -> Endpoint:
    """The endpoint of URL or URL#MODEL; its key is taken from the environment."""
    url, _, model = address.partition("#")
    return Endpoint(url, model)


def _refuse_duplicate_names(tasks: Sequence[Task], options: EvalOptions) -> None:
    if not tasks:
        raise UserError(
            "eval: there is nothing to ask; the run held out no rows, and neither --tasks nor the probe is there"
        )
    stems = [file.stem for file in options.tasks]
    known = [HELD_OUT, PROBE_SET]
    wrong = sorted({stem for stem in stems if stems.count(stem) > 1 or stem in known})
    if wrong:
        raise UserError(f"--tasks: the name {', '.join(wrong)} stands for two sets; rename the file")
