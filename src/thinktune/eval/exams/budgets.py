"""Accuracy against reasoning budget, from one set of replies.

A reply whose reasoning has at most B tokens is what the model writes within a budget of B, so it counts as it is.
Longer reasoning is cut after B tokens and closed as the chat template closes it, and only the answer is asked for: with
greedy sampling this is what the engine writes under `max_reasoning_tokens`. So a curve of five points costs five times
the tokens of the answers, not of the reasoning. (Muennighoff et al., 2025, "s1: Simple test-time scaling", call it
budget forcing.)
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from thinktune.eval.completion_store import RecordWriter, read_completions, read_records
from thinktune.eval.settings import EvalSettings
from thinktune.eval.tasks import Task
from thinktune.inference import Completion, Request, SamplingParams
from thinktune.inference.requests import OpenTurn
from thinktune.run import EvaluationFolder
from thinktune.tokenization import ChatTokenizer, Turn

MAX_BUDGETS = 5
MAX_ANSWER_TOKENS = 512  # of an answer after cut reasoning


class BudgetEngine(Protocol):
    """A model in this process: an endpoint offers no form in which a reply goes on after given reasoning."""

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The model's own tokenizer."""
        ...

    def complete(self, requests: Sequence[Request], max_concurrency: int = 32) -> Iterator[tuple[int, Completion]]:
        """Yield each request's index and completion, in any order."""
        ...


def pick_budgets(max_new_tokens: int) -> tuple[int, ...]:
    """Return the budgets of a curve, rising: the largest powers of two below a reply's limit, at most `MAX_BUDGETS`."""
    powers = [2**power for power in range(max_new_tokens.bit_length()) if 2**power < max_new_tokens]
    return tuple(powers[-MAX_BUDGETS:])


def budget_key(reply_key: str, budget_tokens: int) -> str:
    """Return the key under which the answer to a reply's cut reasoning is saved."""
    return f"{reply_key}@{budget_tokens}"


def cut_reasoning(reasoning: str, budget_tokens: int, tokenizer: ChatTokenizer) -> str | None:
    """Return the first tokens of a reasoning as text, without half a character; None if the budget holds it all."""
    backend = tokenizer.backend_tokenizer
    ids = backend.encode(reasoning, add_special_tokens=False).ids
    if len(ids) <= budget_tokens:
        return None
    return backend.decode(ids[:budget_tokens], skip_special_tokens=False).rstrip("\ufffd")


def missing_budgets(
    settings: EvalSettings, tasks: Sequence[Task], folder: EvaluationFolder, side: str
) -> dict[str, Task]:
    """Return the exams' tasks, by the keys of their replies, of which an answer within a budget is missing."""
    if not settings.reasoning_budgets:
        return {}
    sets = {facts["name"] for facts in settings.exams}
    known = read_budget_answers(folder.budget_answers(side))
    keys = {settings.completion_key(task, side): task for task in tasks if task.set in sets}
    return {
        key: task
        for key, task in keys.items()
        if any(budget_key(key, budget) not in known for budget in settings.reasoning_budgets)
    }


def answer_within_budgets(
    settings: EvalSettings, missing: Mapping[str, Task], folder: EvaluationFolder, side: str, engine: BudgetEngine
) -> int:
    """Save what each reply of a side answers within each budget, for `missing` tasks; returns how many it asked.

    A record says that the reply `fits` the budget, or holds the answer to its cut reasoning. Each is on the disk before
    the next is waited for.
    """
    requests: list[Request] = []
    keys: list[str] = []
    sampling, saved = settings.sampling, read_completions(folder.completions(side))
    known = read_budget_answers(folder.budget_answers(side))
    with RecordWriter(folder.budget_answers(side)) as writer:
        for key, task in missing.items():
            for budget in settings.reasoning_budgets:
                if budget_key(key, budget) in known:
                    continue
                cut = cut_reasoning(str(saved[key]["reasoning"]), budget, engine.tokenizer)
                if cut is None:
                    writer.add({"key": budget_key(key, budget), "fits": True})
                    continue
                most = min(MAX_ANSWER_TOKENS, sampling.max_new_tokens - budget)
                params = SamplingParams(most, temperature=sampling.temperature, seed=sampling.seed)
                turns = (*task.turns, Turn("assistant", "", cut))
                requests.append(Request(turns, params, open_turn=OpenTurn("answer", has_text=False)))
                keys.append(budget_key(key, budget))
        for index, answer in engine.complete(requests):
            record = {"answer": answer.answer, "tokens": answer.tokens, "finish": answer.finish}
            writer.add({"key": keys[index], "fits": False, **record})
    return len(requests)


def read_budget_answers(file: Path) -> dict[str, dict[str, Any]]:
    """Read the saved records by key; what lacks its answer is left out, so that it is asked again."""
    records = read_records(file)
    return {key: each for key, each in records.items() if each.get("fits") or isinstance(each.get("answer"), str)}
