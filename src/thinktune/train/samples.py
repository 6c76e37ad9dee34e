"""Samples during training: answers to held-out questions, within a share of the run's time."""

import math
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from thinktune.inference import Completion, Request, SamplingParams
from thinktune.inference.engine import Engine
from thinktune.inference.generation_proof import require_generation
from thinktune.inference.requests import GenerationError, completion_record
from thinktune.run import RunFolder, journal
from thinktune.tokenization import Example
from thinktune.train import metrics
from thinktune.train.context import RunContext

MIN_SAMPLE_TOKENS = 32  # a reply cut shorter than this shows nothing
TIMING_TOKENS = 8
REPETITION_NGRAM = 4


@dataclass(slots=True)
class SampleBudget:
    """Time spent on samples in this process, their speed, and how many fit the device side by side."""

    NOT_CARRIED: ClassVar = frozenset({"opened_at", "spent_seconds", "tokens_per_second", "batch_rows", "leaves_out"})

    opened_at: float = field(default_factory=time.monotonic)
    spent_seconds: float = 0.0
    tokens_per_second: float | None = None  # of one reply among the others; None before the first ones
    batch_rows: int | None = None  # replies at a time; None for as many as the recipe asks for
    leaves_out: bool = False  # replies, for want of time

    def limit_batch(self, rows: int | None) -> None:
        """Set how many replies the device holds side by side; None where the run writes none."""
        self.batch_rows = rows

    def record(self, tokens: int, seconds: float) -> None:
        """Record replies of up to so many tokens, and the time that they took together."""
        self.spent_seconds += seconds
        self.tokens_per_second = tokens / max(1e-9, seconds)

    def begin_to_leave_out(self) -> bool:
        """Note that replies are left out; True the first time, as it is said once."""
        first, self.leaves_out = not self.leaves_out, True
        return first

    def affordable_tokens(self, time_share: float) -> int:
        """Return how long replies may be within a share of the run's time; call `record` before."""
        assert self.tokens_per_second is not None
        elapsed = time.monotonic() - self.opened_at
        return affordable_tokens(time_share, elapsed, self.spent_seconds, self.tokens_per_second)


def write_samples(context: RunContext, budget: SampleBudget, step: int) -> None:
    """Answer fixed held-out questions, greedily and by the model's own sampling settings.

    All answers of an evaluation are generated together. They are cut to what the time budget affords, and each record
    has that limit; where it is too short to show anything, they are left out. Where the model can make none, that is
    recorded as an event, and training goes on.
    """
    try:
        _write_samples(context, budget, step)
    except GenerationError as error:
        metrics.log_event(context, step, f"no samples: {error}")


def _write_samples(context: RunContext, budget: SampleBudget, step: int) -> None:
    examples = context.prepared.validation.examples(context.recipe.generate.sample_questions)
    if not examples:
        return
    require_generation(context.model)
    limit = _reply_tokens(context, budget, len(examples))
    if limit < min(MIN_SAMPLE_TOKENS, context.recipe.generate.max_new_tokens):
        if budget.begin_to_leave_out():
            share = context.recipe.generate.sample_share
            context.say(f"step {step}: no example replies yet, to save time (expert.sample_share: {share:g} of it)")
        return
    modes = sampling_modes(context.model.generation_config, limit)
    asked = [(example, mode) for mode in modes for example in examples]
    replies = _generate(context, budget, [_request(example, modes[mode]) for example, mode in asked])
    records: list[dict[str, Any]] = []
    for (example, mode), reply in zip(asked, replies, strict=True):
        record = {"step": step, **completion_record(example, reply), "sampling": mode, "limit_tokens": limit}
        record["reference_reasoning"] = example.turns[-1].reasoning
        if not (example.turns[-1].thinks or reply.reasoning):
            record["reasoning_closed"] = None  # none was asked for
        tokens = context.tokenizer(f"{reply.reasoning}\n{reply.answer}", add_special_tokens=False)["input_ids"]
        record["repetition"] = round(repetition_rate(tokens), 4)
        records.append(record)
    if context.world.is_main:
        journal.append(RunFolder(context.folder).samples, records)


def sampling_modes(generation_config: Any, limit_tokens: int) -> dict[str, SamplingParams]:
    """Return greedy decoding and, under "own", a model's generation settings where those sample."""
    modes = {"greedy": SamplingParams(limit_tokens)}
    settings = generation_config
    if getattr(settings, "do_sample", False) and (settings.temperature or 0) > 0:
        modes["own"] = SamplingParams(limit_tokens, settings.temperature, settings.top_p or 1.0, settings.top_k or 0)
    return modes


def affordable_tokens(time_share: float, run_seconds: float, spent_seconds: float, tokens_per_second: float) -> int:
    """Return how long replies may be so that samples, these included, keep to a share of the time."""
    seconds = (time_share * run_seconds - spent_seconds) / (1 - time_share)
    return max(0, math.floor(seconds * tokens_per_second))


def repetition_rate(tokens: Sequence[int]) -> float:
    """Return the share of 4-grams that occurred before (seq-rep-4 of Welleck et al., 2020)."""
    ngrams = [tuple(tokens[start : start + REPETITION_NGRAM]) for start in range(len(tokens) - REPETITION_NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _reply_tokens(context: RunContext, budget: SampleBudget, questions: int) -> int:
    settings = context.recipe.generate
    if settings.sample_share == 1:
        return settings.max_new_tokens
    if budget.tokens_per_second is None:  # a few tokens show the speed
        examples = context.prepared.validation.examples(questions)
        params = SamplingParams(TIMING_TOKENS)
        modes = len(sampling_modes(context.model.generation_config, 1))
        _generate(context, budget, [_request(example, params) for example in examples] * modes)
    tokens = min(settings.max_new_tokens, budget.affordable_tokens(settings.sample_share))
    return context.world.broadcast(tokens)  # all ranks write the same, though each has its own clock


@contextmanager
def any_operations() -> Generator[None]:
    """Allow operations of which torch knows no deterministic form (a cumulative sum, for one), whatever the run asks.

    Samples change no weight, and where the run is deterministic they would end it.
    """
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(strict, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)


def _request(example: Example, sampling: SamplingParams) -> Request:
    """Ask an example's question in the mode, with or without thinking, that its reply was trained in."""
    return Request(example.turns[:-1], sampling, example.turns[-1].thinks)


def _generate(context: RunContext, budget: SampleBudget, requests: Sequence[Request]) -> list[Completion]:
    """Return the replies, and record the time they took and the speed of each."""
    started_at = time.monotonic()
    rows = budget.batch_rows or context.recipe.generate.batch_rows
    engine = Engine(context.model, context.tokenizer, context.precision, rows, context.world)
    with any_operations(), closing(engine):
        replies = engine.complete_all(requests)
    budget.record(max(reply.tokens for reply in replies), time.monotonic() - started_at)
    return replies
