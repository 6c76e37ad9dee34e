"""The probe of a pilot: some general questions of every kind and language, asked of the base and of each run."""

import gc
import random
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path

import torch

from thinktune.config import Recipe
from thinktune.data.columns.modes import has_thinking_switch
from thinktune.eval import Task
from thinktune.eval.general_probe import PROBE_SEED, probe_tasks
from thinktune.eval.runner import find_contaminated
from thinktune.eval.statistics import wilson_interval
from thinktune.eval.tasks import grade_answer
from thinktune.inference import Request, SamplingParams
from thinktune.inference.session import load_engine
from thinktune.model import pick_device, pick_precision
from thinktune.progress import ProgressReporter, Say
from thinktune.tokenization import ChatTokenizer, Example

QUESTIONS_PER_GROUP = 4  # of each kind, in each language
SILENT_TOKENS, THINKING_TOKENS = 256, 1024  # of a reply
LEAST_KNOWN = 0.1  # a base that surely answers fewer has nothing to lose that so few questions could show


def choose_questions(system: str | None, trained: Iterable[Example]) -> list[Task]:
    """Choose the same few questions of every kind and language, without those that the training rows ask as well."""
    generator = random.Random(PROBE_SEED)

    def group(task: Task) -> tuple[str, str]:
        return task.kind, task.language

    chosen: list[Task] = []
    for _, tasks in groupby(sorted(probe_tasks(system), key=group), group):
        members = list(tasks)
        chosen += generator.sample(members, min(QUESTIONS_PER_GROUP, len(members)))
    known = find_contaminated(chosen, trained)
    return [task for index, task in enumerate(chosen) if index not in known]


def asks_thinking(tokenizer: ChatTokenizer) -> bool:
    """Return whether the questions are asked with thinking: without, which is short, where there is a switch."""
    return not has_thinking_switch(tokenizer)


def answer_questions(
    model: tuple[Path, str], tasks: Sequence[Task], recipe: Recipe, thinking: bool, say: Say
) -> tuple[bool, ...]:
    """Ask a model's folder (and its chat template) greedily; return for each question whether it is answered right."""
    source, template = model
    precision = pick_precision(recipe.train.precision, pick_device(), recipe.train.memory)
    trusted = recipe.model.trust_remote_code
    params = SamplingParams(THINKING_TOKENS if thinking else SILENT_TOKENS, temperature=0.0, seed=0)
    requests = [Request(task.turns, params, thinking) for task in tasks]
    right = [False] * len(tasks)
    progress = ProgressReporter(say, "general questions", len(tasks))
    with closing(load_engine(source, precision, trust_remote_code=trusted, template=template, say=say)) as engine:
        for done, (index, reply) in enumerate(engine.complete(requests, recipe.generate.batch_rows), 1):
            right[index] = grade_answer(tasks[index], reply.answer).get("right", 0.0) == 1.0
            progress.update(done)
    del engine
    free_memory()
    return tuple(right)


def free_memory() -> None:
    """Give back what a model took before the next one is loaded."""
    gc.collect()
    if pick_device().type != "cpu":
        torch.accelerator.empty_cache()


def has_nothing_to_lose(right: Sequence[bool]) -> bool:
    """Return True if the base surely answers so few questions that no run could show a loss."""
    return not right or wilson_interval(sum(right), len(right)).high <= LEAST_KNOWN
