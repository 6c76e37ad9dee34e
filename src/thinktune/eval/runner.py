"""Evaluation of a run: base and tuned answer the same prompts; replies are saved as they come, then scored."""

import gc
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinktune.checkpoint import model_warning, require_run_folder, resolve_model_folder
from thinktune.config import Recipe, load_recipe
from thinktune.data import Prepared, Subset, prepare
from thinktune.data.columns.modes import has_thinking_switch
from thinktune.data.faults.duplicates import find_near_duplicates, fingerprint, question_text
from thinktune.data.own_answers.entry import restore_own_answers
from thinktune.errors import UserError
from thinktune.eval import llm_judge
from thinktune.eval.averaging.questions import split_held_out
from thinktune.eval.completion_store import RecordWriter, model_fingerprint, read_completions
from thinktune.eval.exams.budgets import answer_within_budgets, missing_budgets, pick_budgets
from thinktune.eval.exams.contamination import TrainedQuestion, find_trained, is_short
from thinktune.eval.exams.exam import Exam, ExamRequest, exam_tasks, prepare_exams
from thinktune.eval.general_probe import PROBE_SEED, PROBE_SET, PROBE_VERSION, probe_tasks
from thinktune.eval.llm_judge import Completer
from thinktune.eval.scoring import (
    HELD_OUT_SET,
    answer_pair,
    score_completions,
)
from thinktune.eval.settings import (
    SIDES,
    ContaminatedTask,
    EvalSampling,
    EvalSettings,
    EvaluatedModel,
    asked_modes,
    find_lacking,
    settings_to_record,
)
from thinktune.eval.statistics import CONFIDENCE, RESAMPLE_SEED, RESAMPLES
from thinktune.eval.task_files import read_task_file
from thinktune.eval.tasks import Task, task_from_example, task_to_record
from thinktune.eval.votes import count_votes
from thinktune.files import read_json, write_json, write_json_lines
from thinktune.hub import locate_model
from thinktune.hub.fingerprint import weights_fingerprint
from thinktune.inference import Endpoint, Request, SamplingParams
from thinktune.inference.session import load_engine
from thinktune.model import CausalLM, evaluate_loss, pack, pick_device, pick_precision
from thinktune.model.admission import admit_model
from thinktune.model.device import hold_own_cards
from thinktune.progress import ProgressReporter, Say
from thinktune.run import EvaluationFolder, RunFolder
from thinktune.run.base_model import refuse_other_weights
from thinktune.run.environment import LIBRARIES
from thinktune.run.folder import find_run
from thinktune.run.resume import refuse_other_data
from thinktune.tokenization import ChatTokenizer, Example, read_tokenizer
from thinktune.tokenization.model_template import OWN
from thinktune.tokenization.tags import read_form, read_tags

MAX_ENDPOINT_CONCURRENCY = 32  # requests to an endpoint
GRADER_LIBRARIES = ("sacrebleu", "rouge-score")


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """Options of `thinktune eval`: extra tasks and exams, where replies come from, and the judge.

    `endpoints` maps base and tuned to a URL, or URL#MODEL; if empty, the models run in this process. `judge` is such an
    address too. `thinking` is the mode that both models are asked in: with reasoning, without, or, if it is None, both.
    With `wait` models that are loaded here wait for their card.
    """

    tasks: tuple[Path, ...] = ()
    probe: bool = True
    thinking: bool | None = None
    temperature: float = 0.0
    seed: int = 0
    endpoints: Mapping[str, str] = field(default_factory=dict[str, str])
    judge: str | None = None
    exams: ExamRequest | None = None
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a run in one mode: its questions, settings and folder."""

    folder: EvaluationFolder
    recipe: Recipe
    settings: EvalSettings
    tasks: Sequence[Task]
    held_out: Subset  # the rows that the losses are measured on
    options: EvalOptions
    say: Say


def evaluate_run(folder: Path, say: Say, options: EvalOptions | None = None) -> dict[str, Any]:
    """Evaluate a run's base and tuned model, write `eval/`, and return the report as in its report.json.

    The sets are the first `generate.evaluate_questions` held-out rows, the task files, the exams' sets, and the general
    probe. Replies that the same model wrote before, with the same sampling, are reused. Asked in both modes, the report
    of the mode without thinking is inside the other, under `silent`. `folder` may also be an average of the run's
    models; rows that chose the weight of the run's own are not asked.
    """
    options = options or EvalOptions()
    run, average = find_run(folder)
    model, folder = folder, run.path
    if options.endpoints and set(options.endpoints) != set(SIDES):
        raise UserError("--endpoint: name both, as in --endpoint base=http://host:8000/v1 --endpoint tuned=http://...")
    require_run_folder(folder)
    recipe = load_recipe(RunFolder(folder).recipe)
    sources = {"base": locate_model(recipe), "tuned": resolve_model_folder(model)}
    for source in sources.values() if not options.endpoints else ():
        admit_model(source, trust_remote_code=recipe.model.trust_remote_code)
    task_files = [read_task_file(file, recipe.data.system) for file in options.tasks]
    for each in task_files:
        each.tell(say)
    from_files = [task for each in task_files for task in each.tasks]
    exams = _prepare_exams(options, recipe, RunFolder(folder), say)
    tokenizer = read_tokenizer(sources["tuned"], trust_remote_code=recipe.model.trust_remote_code)
    restore_own_answers(recipe, tokenizer, RunFolder(folder).own_answers)
    prepared = prepare(recipe, tokenizer, say)
    refuse_other_data(prepared.fingerprint, prepared.train.digest_lines(), folder)
    if not options.endpoints:
        refuse_other_weights(weights_fingerprint(sources["base"]), folder)
    chose, proves = split_held_out(recipe, prepared.validation)
    held_out = proves.examples(recipe.generate.evaluate_questions)
    tasks = [
        *(task_from_example(example, HELD_OUT_SET) for example in held_out),
        *from_files,
        *exam_tasks(exams),
        *(probe_tasks(recipe.data.system) if options.probe else ()),
    ]
    _refuse_duplicate_names(tasks, options, exams)
    evaluations: list[Evaluation] = []
    for thinking in _modes(options, tokenizer, say):
        evaluation_folder = run.evaluation(thinking=thinking, average=average)
        # A judge costs money, so of two modes it compares the answers in the one that is trained.
        asked = replace(options, thinking=thinking, judge=None if evaluations else options.judge)
        settings = replace(
            _eval_settings(recipe, prepared, sources, (tasks, [exam.facts for exam in exams]), asked),
            think_tags=astuple(read_tags(tokenizer)),
            choosing_rows=len(chose),
        )
        if exams and thinking:
            settings = replace(settings, reasoning_budgets=_reasoning_budgets(settings, tokenizer, options, say))
        write_json_lines(evaluation_folder.tasks, map(task_to_record, tasks))
        write_json(evaluation_folder.settings, settings_to_record(settings))
        evaluations.append(Evaluation(evaluation_folder, recipe, settings, tasks, proves, asked, say))
    loads = not options.endpoints and any(lacks_replies(evaluations, side) for side in SIDES)
    with hold_own_cards(say, wait=options.wait, most=1) if loads else nullcontext():
        for side in SIDES:
            evaluate_side(evaluations, side, sources[side])
    if options.judge:
        _judge_answers(evaluations[0], options.judge)
    return _score([evaluation.folder for evaluation in evaluations], model)


def rescore_run(folder: Path, *, thinking: bool | None = None) -> dict[str, Any]:
    """Score a run's saved replies again, without a model, and write the report.

    `thinking` None means both modes, as far as there are replies.
    """
    run, average = find_run(folder)
    require_run_folder(run.path)
    wanted = (True, False) if thinking is None else (thinking,)
    folders = [run.evaluation(thinking=mode, average=average) for mode in wanted]
    found = [each for each in folders if each.settings.is_file()]
    return _score(found or folders[:1], folder)


def _modes(options: EvalOptions, tokenizer: ChatTokenizer, say: Say) -> tuple[bool, ...]:
    """List the modes to ask in, the one with thinking first."""
    if options.thinking is None and options.endpoints:  # many servers know no switch, and refuse one
        say("endpoints are asked with thinking; --no-thinking asks them without, if they have a switch for it")
        return (True,)
    has_switch = options.thinking is not None or has_thinking_switch(tokenizer)
    if not has_switch:
        say("the chat template has no switch for thinking: there is one mode to evaluate")
    return asked_modes(options.thinking, has_switch=has_switch)


def _score(folders: Sequence[EvaluationFolder], run: Path) -> dict[str, Any]:
    """Score the evaluations in each mode; the second one's report goes into the first one's, and people's votes too."""
    reports = [score_completions(folder, model_warning(run)) for folder in folders]
    votes = count_votes(run)
    return reports[0] | ({"silent": reports[1]} if len(reports) > 1 else {}) | ({"votes": votes} if votes else {})


def find_contaminated(tasks: Sequence[Task], trained: Iterable[Example]) -> dict[int, str]:
    """Find tasks whose question is in the training rows, exactly or nearly; return index of task to source of row.

    Near duplicates share four in five of their runs of three characters (Jaccard).
    """
    examples = [*trained]
    asked = [
        Example((*task.turns[:-1], replace(task.turns[-1], content=task.stem or task.question)), "") for task in tasks
    ]
    if not asked or not examples:
        return {}
    fingerprints = [fingerprint(example) for example in examples + asked]
    questions = np.array([each.question_hash for each in fingerprints], np.uint64)
    first_rows = {question: row for row, question in reversed(list(enumerate(questions[: len(examples)].tolist())))}
    found = {
        index: examples[first_rows[question]].source
        for index, question in enumerate(questions[len(examples) :].tolist())
        if question in first_rows
    }
    texts = [question_text(example) for example in (*examples, *asked)]
    minhashes = np.stack([each.minhash for each in fingerprints])
    for later, earlier, _ in find_near_duplicates(minhashes, questions, texts.__getitem__):
        if later >= len(examples) > earlier:
            found.setdefault(later - len(examples), examples[earlier].source)
    return found


def _prepare_exams(options: EvalOptions, recipe: Recipe, run: RunFolder, say: Say) -> list[Exam]:
    """Fetch the exams; unless a hub is asked for, from the one that the model comes from."""
    if options.exams is None:
        return []
    request = replace(options.exams, hub=options.exams.hub or recipe.model.hub)
    return prepare_exams(request, run.exam_record, recipe.data.system, say)


def _reasoning_budgets(
    settings: EvalSettings, tokenizer: ChatTokenizer, options: EvalOptions, say: Say
) -> tuple[int, ...]:
    """Return the budgets at which the exams' reasoning is cut; () where no reply can go on after a cut."""
    if options.endpoints:
        say("endpoints are not asked to continue after cut reasoning, so exams have no curve over reasoning budgets")
        return ()
    if read_form(tokenizer).foreign is not None:
        say("the chat template has no form for cut reasoning, so exams have no curve over reasoning budgets")
        return ()
    return pick_budgets(settings.sampling.max_new_tokens)


def _find_apart(
    tasks: Sequence[Task], exams: Sequence[Mapping[str, Any]], trained: Sequence[Example]
) -> tuple[ContaminatedTask, ...]:
    """Find the questions that the training rows ask, too; those of exams also where a row holds them among more."""
    sets = {facts["name"] for facts in exams}
    asked = [replace(task, stem="") if task.set in sets and is_short(task) else task for task in tasks]
    found = {index: TrainedQuestion(row, "near") for index, row in find_contaminated(asked, trained).items()}
    places = [index for index, task in enumerate(tasks) if task.set in sets]
    held = find_trained([tasks[index] for index in places], trained)
    found |= {places[place]: each for place, each in held.items()}
    return tuple(
        ContaminatedTask(
            tasks[index].set, tasks[index].source, each.row, each.match if tasks[index].set in sets else ""
        )
        for index, each in sorted(found.items())
    )


def _eval_settings(
    recipe: Recipe,
    prepared: Prepared,
    sources: Mapping[str, Path],
    asked: tuple[Sequence[Task], Sequence[Mapping[str, Any]]],
    options: EvalOptions,
) -> EvalSettings:
    """Make the settings of an evaluation; `asked` are its questions, and the facts of the exams among them."""
    tasks, exams = asked
    given = recipe.generate.evaluate_tokens
    names = {"base": recipe.model.name, "tuned": sources["tuned"].name}
    fingerprints = {side: options.endpoints.get(side) or model_fingerprint(sources[side]) for side in SIDES}
    return EvalSettings(
        models={side: EvaluatedModel(names[side], fingerprints[side]) for side in SIDES},
        sampling=EvalSampling(
            max_new_tokens=given or 2 * int(prepared.train.label_tokens.max(initial=32)),
            temperature=options.temperature,
            seed=options.seed,
            thinking=options.thinking is not False,
        ),
        budget="expert.evaluate_tokens" if given else "twice the longest trained reply",
        longest_trained_reply=int(prepared.train.label_tokens.max(initial=0)),
        apart=_find_apart(tasks, exams, prepared.train.examples()),
        exams=exams,
        judge=options.judge,
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        seeds={"resampling": RESAMPLE_SEED, "probe": PROBE_SEED, "sampling": options.seed},
        versions={name: version(name) for name in (*LIBRARIES, *GRADER_LIBRARIES)}
        | ({"general questions": str(PROBE_VERSION)} if options.probe else {}),
        data_fingerprint=prepared.fingerprint,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def evaluate_side(evaluations: Sequence[Evaluation], side: str, source: Path) -> None:
    """Measure the losses and generate the replies that one side lacks; its model is loaded only if any are missing.

    A row that was trained silent is asked the same in both modes: once, and the reply is kept for both.
    """
    first, recipe = evaluations[0], evaluations[0].recipe
    missing = _missing_replies(evaluations, side)
    if endpoint := first.options.endpoints.get(side):
        for evaluation in evaluations:
            evaluation.folder.losses(side).unlink(missing_ok=True)  # old ones may be another model's
        if any(missing):
            with closing(open_endpoint(endpoint)) as engine:
                for evaluation, tasks in zip(evaluations, missing, strict=True):
                    _generate_replies(evaluation, side, tasks, engine, MAX_ENDPOINT_CONCURRENCY)
    else:
        if lacks_replies(evaluations, side):
            unmeasured = [each for each in evaluations if not _has_losses(each, side)]
            first.say(f"{side}: {source}")
            precision = pick_precision(recipe.train.precision, pick_device(), recipe.train.memory)
            trusted = recipe.model.trust_remote_code
            template = recipe.model.template if side == "base" else OWN  # the tuned model's folder has it
            opened = load_engine(source, precision, trust_remote_code=trusted, template=template, say=first.say)
            with closing(opened) as engine:
                if unmeasured:
                    losses = _measured_on(first, side)
                    losses["rows"] = _row_losses(engine.model, first.held_out, engine.precision, first.say)
                    for evaluation in unmeasured:
                        write_json(evaluation.folder.losses(side), losses)
                for evaluation, tasks in zip(evaluations, missing, strict=True):
                    _generate_replies(evaluation, side, tasks, engine, recipe.generate.batch_rows)
                _share_replies(evaluations, side)
                for each in evaluations:
                    if cut := missing_budgets(each.settings, each.tasks, each.folder, side):
                        asked = answer_within_budgets(each.settings, cut, each.folder, side, engine)
                        each.say(f"{side}: asked for {asked:,} exam answers after cut reasoning")
            del engine
            gc.collect()
            if pick_device().type != "cpu":
                torch.accelerator.empty_cache()
    _share_replies(evaluations, side)


def lacks_replies(evaluations: Sequence[Evaluation], side: str) -> bool:
    """Return True if a side's model must be asked or measured for what the evaluations lack."""
    return (
        any(_missing_replies(evaluations, side))
        or not all(_has_losses(each, side) for each in evaluations)
        or any(missing_budgets(each.settings, each.tasks, each.folder, side) for each in evaluations)
    )


def is_evaluated(evaluation: Evaluation, side: str) -> bool:
    """Return True if a side's replies and losses are all there."""
    return not any(_missing_replies([evaluation], side)) and _has_losses(evaluation, side)


def _missing_replies(evaluations: Sequence[Evaluation], side: str) -> list[dict[str, Task]]:
    """Return for each evaluation the tasks by key that no evaluation has a reply to and none before it will ask."""
    saved = (key for each in evaluations for key in read_completions(each.folder.completions(side)))
    return find_lacking([(each.settings, each.tasks) for each in evaluations], side, saved)


def _share_replies(evaluations: Sequence[Evaluation], side: str) -> None:
    """Give each evaluation its own copy of the replies that another one has."""
    saved = [read_completions(each.folder.completions(side)) for each in evaluations]
    anywhere = {key: record for records in saved for key, record in records.items()}
    for evaluation, own in zip(evaluations, saved, strict=True):
        keys = {evaluation.settings.completion_key(task, side) for task in evaluation.tasks}
        if lacking := sorted(keys - own.keys()):
            with RecordWriter(evaluation.folder.completions(side)) as writer:
                for key in lacking:
                    writer.add(anywhere[key])


def _measured_on(evaluation: Evaluation, side: str) -> dict[str, Any]:
    """Return what a side's losses depend on; the mode of the questions is not part of it."""
    settings = evaluation.settings
    # The rows that choose a weight are the held-out ones of that search, and missing from every evaluation.
    return {
        "model": settings.models[side].print,
        "data": settings.data_fingerprint,
        "choosing_rows": settings.choosing_rows or None,
    }


def _has_losses(evaluation: Evaluation, side: str) -> bool:
    losses, measured_on = _saved_losses(evaluation.folder.losses(side)), _measured_on(evaluation, side)
    return not len(evaluation.held_out) or {name: losses.get(name) for name in measured_on} == measured_on


def _saved_losses(file: Path) -> dict[str, Any]:
    """Read a side's losses; {} where there are none, or damaged ones, which are measured again."""
    try:
        losses = read_json(file) if file.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    return losses if isinstance(losses, dict) else {}


def _generate_replies(
    evaluation: Evaluation, side: str, missing: Mapping[str, Task], engine: Completer, max_concurrency: int
) -> None:
    """Generate the missing replies; each is on the disk before the next is waited for."""
    sampling, say = evaluation.settings.sampling, evaluation.say
    keys = sorted(missing, key=lambda key: len(missing[key].question))  # similar lengths need little padding
    params = SamplingParams(sampling.max_new_tokens, temperature=sampling.temperature, seed=sampling.seed)
    requests = [Request(missing[key].turns, params, evaluation.settings.thinks(missing[key])) for key in keys]
    mode = "" if sampling.thinking else " without thinking"
    progress, began = ProgressReporter(say, f"{side} replies{mode}", len(requests)), time.monotonic()
    with RecordWriter(evaluation.folder.completions(side)) as writer:
        for done, (index, reply) in enumerate(engine.complete(requests, max_concurrency), 1):
            task = missing[keys[index]]
            writer.add({"key": keys[index], "set": task.set, "row": task.source, **asdict(reply)})
            progress.update(done)
    if keys:
        say(f"{side}: answered {len(keys)} questions{mode}")
    if keys and side not in evaluation.options.endpoints:
        speed = {"replies": len(keys), "seconds": round(time.monotonic() - began, 3)}
        write_json(evaluation.folder.speed(side), speed)


def _row_losses(model: CausalLM, rows: Subset, precision: torch.dtype, say: Say) -> list[dict[str, Any]]:
    """Return each held-out reply's summed losses and token counts, for reasoning, answer and end."""
    progress = ProgressReporter(say, "held-out rows measured", len(rows))
    records: list[dict[str, Any]] = []
    for done, reply in enumerate(rows.replies(), 1):
        batches = pack([reply], len(reply.ids), pad=None)
        losses = evaluate_loss(model, batches, model.device, precision)
        records.append({"row": reply.source, "sums": losses.sums.tolist(), "counts": losses.counts.tolist()})
        progress.update(done)
    return records


def _judge_answers(evaluation: Evaluation, judge: str) -> None:
    """Let a judge model compare the answers of all sets but the probe, whose questions have exact answers."""
    folder, settings = evaluation.folder, evaluation.settings
    replies = {side: read_completions(folder.completions(side)) for side in SIDES}
    pairs = [
        answer_pair(task, *(replies[side][settings.completion_key(task, side)]["answer"] for side in SIDES))
        for task in evaluation.tasks
        if task.set != PROBE_SET
    ]
    with closing(open_endpoint(judge)) as completer:
        llm_judge.judge_pairs(pairs, judge, completer, folder.judgements, evaluation.say)


def open_endpoint(address: str) -> Endpoint:
    """Open the endpoint of URL or URL#MODEL; its key comes from the environment."""
    url, _, model = address.partition("#")
    return Endpoint(url, model)


def _refuse_duplicate_names(tasks: Sequence[Task], options: EvalOptions, exams: Sequence[Exam]) -> None:
    if not tasks:
        raise UserError(
            "eval: no questions to ask, because the run held out no rows; give --tasks or leave out --no-probe"
        )
    stems = [file.stem for file in options.tasks]
    known = [HELD_OUT_SET, PROBE_SET, *(exam.name for exam in exams)]
    wrong = sorted({stem for stem in stems if stems.count(stem) > 1 or stem in known})
    if wrong:
        raise UserError(f"--tasks: two sets would have the name {', '.join(wrong)}; rename the file")
