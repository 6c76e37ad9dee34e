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
from thinktune.config import loading as recipe
from thinktune.config.schema import Recipe
from thinktune.data.dataset import Rows
from thinktune.data.duplicates import keys, near_duplicates, question_text
from thinktune.data.pipeline import Prepared, prepare
from thinktune.data.tokenizer import read_tokenizer
from thinktune.data.types import Example
from thinktune.errors import UserError
from thinktune.eval import llm_judge as referee
from thinktune.eval.completion_store import COMPLETIONS, Saving, model_print, read_saved
from thinktune.eval.general_probe import PROBE, probe
from thinktune.eval.general_probe import SEED as PROBE_SEED
from thinktune.eval.llm_judge import Completer
from thinktune.eval.scoring import LOSSES, SETTINGS, SIDES, TASKS, pair_of, regrade, replies_key
from thinktune.eval.statistics import CONFIDENCE, RESAMPLES
from thinktune.eval.statistics import SEED as RESAMPLE_SEED
from thinktune.eval.tasks import Task, from_example, read_tasks, to_record
from thinktune.files import read_json, write_json, write_json_lines
from thinktune.hub import repository as hub
from thinktune.inference.openai_client import Endpoint
from thinktune.inference.requests import Request, Sampling
from thinktune.inference.session import load_engine
from thinktune.model.batch import pack
from thinktune.model.device import pick_device, pick_precision
from thinktune.model.forward import evaluate
from thinktune.progress import Progress, Say
from thinktune.run.environment import LIBRARIES
from thinktune.run.resume import refuse_other_data


def seen_in_training(tasks: Sequence[Task], trained: Iterable[Example]) -> dict[int, str]:
    """For each task whose question stands in the training rows, in the same words or nearly: which row it is.

    Nearly means that four in five of all runs of three characters are shared (Jaccard).
    """
    examples = [*trained]
    asked = [
        Example((*task.turns[:-1], replace(task.turns[-1], content=task.stem or task.question)), "") for task in tasks
    ]
    found = [keys(example) for example in examples + asked]
    if not asked or not examples:
        return {}
    questions = np.array([each.question for each in found], np.uint64)
    first = {question: row for row, question in reversed(list(enumerate(questions[: len(examples)].tolist())))}
    seen = {
        place: examples[first[question]].source
        for place, question in enumerate(questions[len(examples) :].tolist())
        if question in first
    }
    texts = [question_text(example) for example in (*examples, *asked)]
    for later, earlier, _ in near_duplicates(np.stack([each.bands for each in found]), questions, texts.__getitem__):
        if later >= len(examples) > earlier:
            seen.setdefault(later - len(examples), examples[earlier].source)
    return seen


HELD_OUT = "held-out"


MOST_AT_ONCE = 32  # requests to an endpoint


LIBRARIES_OF_GRADERS = ("sacrebleu", "rouge-score")


@dataclass(frozen=True, slots=True)
class Options:
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

    place: Path
    settings: Recipe
    facts: Mapping[str, Any]  # what decides the figures, beside the questions
    tasks: Sequence[Task]
    held_out: Rows  # of which the losses are measured
    options: Options
    say: Say


def evaluate_run(folder: Path, say: Say, options: Options | None = None) -> dict[str, Any]:
    """Measure a run's base and tuned model, write `eval/`, and return what its report.json holds.

    The sets are the first `generate.evaluate_questions` held-out rows, the files of tasks, and the general probe. What
    was answered before, by the same model in the same way, is not asked again.
    """
    options = options or Options()
    if options.endpoints and set(options.endpoints) != set(SIDES):
        raise UserError("--endpoint: name both, as in --endpoint base=http://host:8000/v1 --endpoint tuned=http://...")
    checkpoint.refuse_no_run(folder)
    settings = recipe.load(folder / "recipe.yaml")
    sources = {"base": hub.locate_model(settings), "tuned": checkpoint.model_folder(folder)}
    files = [task for file in options.tasks for task in read_tasks(file, settings.data.system)]
    prepared = prepare(
        settings, read_tokenizer(sources["tuned"], trust_remote_code=settings.model.trust_remote_code), say
    )
    refuse_other_data(prepared, folder)
    tasks = [
        *(
            from_example(example, HELD_OUT)
            for example in prepared.validation.examples(settings.generate.evaluate_questions)
        ),
        *files,
        *(probe(settings.data.system) if options.probe else ()),
    ]
    _refuse_same_names(tasks, options)
    place = eval_folder(folder, options.thinking)
    facts = _settings(settings, prepared, sources, tasks, options)
    write_json_lines(place / TASKS, map(to_record, tasks))
    write_json(place / SETTINGS, facts)
    evaluation = Evaluation(place, settings, facts, tasks, prepared.validation, options, say)
    for side in SIDES:
        _measure(evaluation, side, sources[side])
    if options.judge:
        _ask_judge(evaluation, options.judge)
    return regrade(place)


def regrade_run(folder: Path, *, thinking: bool = True) -> dict[str, Any]:
    """Grade a run's saved replies again, without a model, and write the report and the page."""
    checkpoint.refuse_no_run(folder)
    return regrade(eval_folder(folder, thinking))


def eval_folder(run: Path, thinking: bool) -> Path:
    """Where an evaluation of a run is kept; one without thinking stands apart."""
    return run / "eval" if thinking else run / "eval" / "no-thinking"


def _settings(
    settings: Recipe, prepared: Prepared, sources: Mapping[str, Path], tasks: Sequence[Task], options: Options
) -> dict[str, Any]:
    """What decides the figures, beside the questions: models, sampling, seeds, versions, rows set apart."""
    seen = seen_in_training(tasks, prepared.train.examples())
    budget = settings.generate.evaluate_tokens or 2 * int(prepared.train.learned.max(initial=32))
    names = {"base": settings.model.name, "tuned": sources["tuned"].name}
    prints = {side: options.endpoints.get(side) or model_print(sources[side]) for side in SIDES}
    return {
        "models": {side: {"name": names[side], "print": prints[side]} for side in SIDES},
        "sampling": {
            "max_new_tokens": budget,
            "temperature": options.temperature,
            "seed": options.seed,
            "thinking": options.thinking,
        },
        "budget": "generate.evaluate_tokens"
        if settings.generate.evaluate_tokens
        else "twice the longest trained reply",
        "longest_trained_reply": int(prepared.train.learned.max(initial=0)),
        "apart": [{"set": tasks[at].set, "row": tasks[at].source, "trained": row} for at, row in sorted(seen.items())],
        "judge": options.judge,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "seeds": {"resampling": RESAMPLE_SEED, "probe": PROBE_SEED, "sampling": options.seed},
        "versions": {name: version(name) for name in (*LIBRARIES, *LIBRARIES_OF_GRADERS)},
        "data_fingerprint": prepared.fingerprint,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _measure(evaluation: Evaluation, side: str, source: Path) -> None:
    """Losses and replies of one side that are not saved yet; the model is loaded only where something is left to do."""
    kept, facts, settings = evaluation.place / side, evaluation.facts, evaluation.settings
    saved = read_saved(kept / COMPLETIONS)
    left = {replies_key(task, side, facts): task for task in evaluation.tasks}
    left = {key: task for key, task in left.items() if key not in saved}
    if endpoint := evaluation.options.endpoints.get(side):
        (kept / LOSSES).unlink(missing_ok=True)  # an endpoint tells none; old ones may be another model's
        if left:
            with closing(open_endpoint(endpoint)) as engine:
                _answer(evaluation, side, left, engine, MOST_AT_ONCE)
        return
    known = {"model": facts["models"][side]["print"], "data": facts["data_fingerprint"]}
    losses = read_json(kept / LOSSES) if (kept / LOSSES).is_file() else {}
    measured = not len(evaluation.held_out) or {name: losses.get(name) for name in known} == known
    if left or not measured:
        evaluation.say(f"{side}: {source}")
        precision = pick_precision(settings.train.precision, pick_device(), settings.train.memory)
        trusted = settings.model.trust_remote_code
        with closing(load_engine(source, precision, trust_remote_code=trusted)) as engine:
            if not measured:
                losses = _losses(engine.model, evaluation.held_out, engine.precision, evaluation.say)
                write_json(kept / LOSSES, known | {"rows": losses})
            _answer(evaluation, side, left, engine, settings.generate.batch_rows)
        del engine
        gc.collect()
        if pick_device().type != "cpu":
            torch.accelerator.empty_cache()


def _answer(evaluation: Evaluation, side: str, left: Mapping[str, Task], engine: Completer, most_at_once: int) -> None:
    """Have what is left answered; each reply is on the disk before the next is waited for."""
    sampling, say = evaluation.facts["sampling"], evaluation.say
    keys = sorted(left, key=lambda key: len(left[key].question))  # alike lengths need little padding
    chosen = Sampling(sampling["max_new_tokens"], temperature=sampling["temperature"], seed=sampling["seed"])
    requests = [Request(left[key].turns, chosen, sampling["thinking"]) for key in keys]
    progress = Progress(say, f"{side} replies", len(requests))
    with Saving(evaluation.place / side / COMPLETIONS) as saving:
        for done, (index, reply) in enumerate(engine.complete(requests, most_at_once), 1):
            task = left[keys[index]]
            saving.add({"key": keys[index], "set": task.set, "row": task.source, **asdict(reply)})
            progress.reached(done)
    if keys:
        say(f"{side}: {len(keys)} questions answered")


def _losses(model: Any, rows: Rows, precision: torch.dtype, say: Say) -> list[dict[str, Any]]:
    """The summed losses and the tokens of reasoning, answer and end, held-out reply by reply."""
    progress = Progress(say, "losses", len(rows))
    found: list[dict[str, Any]] = []
    for done, reply in enumerate(rows.replies(), 1):
        batches = pack([reply], len(reply.ids), pad=None)
        losses = evaluate(model, batches, model.device, precision)
        found.append({"row": reply.row, "sums": losses.sums.tolist(), "counts": losses.counts.tolist()})
        progress.reached(done)
    return found


def _ask_judge(evaluation: Evaluation, judge: str) -> None:
    """Have a judge model compare the answers of all sets but the probe, which has exact answers."""
    place, facts, tasks = evaluation.place, evaluation.facts, evaluation.tasks
    replies = {side: read_saved(place / side / COMPLETIONS) for side in SIDES}
    answers = [[replies[side][replies_key(task, side, facts)]["answer"] for side in SIDES] for task in tasks]
    pairs = [pair_of(task, *pair) for task, pair in zip(tasks, answers, strict=True) if task.set != PROBE]
    with closing(open_endpoint(judge)) as completer:
        referee.judge(pairs, judge, completer, place / referee.JUDGEMENTS, evaluation.say)


def open_endpoint(address: str) -> Endpoint:
    """The endpoint of URL or URL#MODEL; its key is taken from the environment."""
    url, _, model = address.partition("#")
    return Endpoint(url, model)


def _refuse_same_names(tasks: Sequence[Task], options: Options) -> None:
    if not tasks:
        raise UserError(
            "eval: there is nothing to ask; the run held out no rows, and neither --tasks nor the probe is there"
        )
    stems = [file.stem for file in options.tasks]
    known = [HELD_OUT, PROBE]
    wrong = sorted({stem for stem in stems if stems.count(stem) > 1 or stem in known})
    if wrong:
        raise UserError(f"--tasks: the name {', '.join(wrong)} stands for two sets; rename the file")
