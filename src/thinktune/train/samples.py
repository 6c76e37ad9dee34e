"""Answers to fixed held-out questions during training, within a stated share of the run's time."""

import math
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from thinktune.inference import Completion, Request, SamplingParams
from thinktune.inference.engine import Engine
from thinktune.inference.requests import completion_record
from thinktune.run import RunFolder
from thinktune.run import journal as track
from thinktune.train.state import Run

MIN_SAMPLE_TOKENS = 32  # a reply cut shorter than this shows nothing


TIMING_TOKENS = 8


REPETITION_NGRAM = 4


def write_samples(run: Run) -> None:
    """Let the model answer fixed held-out questions: greedily, and as its own sampling settings say where it has any.

    All answers of an evaluation are written side by side. They are cut to what the time budget affords, each cut one
    saying so, or left out for now.
    """
    examples = run.prepared.validation.examples(run.recipe.generate.sample_questions)
    if not examples:
        return
    limit = _affordable_tokens(run, len(examples))
    if limit < min(MIN_SAMPLE_TOKENS, run.recipe.generate.max_new_tokens):
        run.say(f"step {run.done}: no samples yet; they would take more than generate.sample_share of the time")
        return
    kinds = sampling_modes(run.model.generation_config, limit)
    asked = [(example, name) for name in kinds for example in examples]
    replies = _generate(run, [Request(example.turns[:-1], kinds[name]) for example, name in asked])
    records: list[dict[str, Any]] = []
    for (example, name), reply in zip(asked, replies, strict=True):
        made = {"step": run.done, **completion_record(example, reply), "sampling": name, "limit_tokens": limit}
        made["reference_reasoning"] = example.turns[-1].reasoning
        made["repetition"] = round(repetition_rate(_tokenize_reply(run, reply)), 4)
        records.append(made)
    if run.world.is_main:
        track.append(RunFolder(run.folder).samples, records)


def sampling_modes(settings: Any, limit_tokens: int) -> dict[str, SamplingParams]:
    """Greedy, and under the name "own" what a model's generation settings ask for, where they ask for chance."""
    made = {"greedy": SamplingParams(limit_tokens)}
    if getattr(settings, "do_sample", False) and (settings.temperature or 0) > 0:
        made["own"] = SamplingParams(limit_tokens, settings.temperature, settings.top_p or 1.0, settings.top_k or 0)
    return made


def affordable_tokens(time_share: float, run_seconds: float, spent_seconds: float, tokens_per_second: float) -> int:
    """How long replies may be so that samples stay below a share of the run's time, themselves included."""
    seconds = (time_share * run_seconds - spent_seconds) / (1 - time_share)
    return max(0, math.floor(seconds * tokens_per_second))


def repetition_rate(tokens: Sequence[int]) -> float:
    """The share of runs of four tokens that came before (seq-rep-4 of Welleck et al., 2020); 0 repeats nothing."""
    runs = [tuple(tokens[start : start + REPETITION_NGRAM]) for start in range(len(tokens) - REPETITION_NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _affordable_tokens(run: Run, questions: int) -> int:
    settings = run.recipe.generate
    if settings.sample_share == 1:
        return settings.max_new_tokens
    if run.sampled_tokens_per_second is None:  # nothing is known yet: a few tokens tell the speed
        examples = run.prepared.validation.examples(questions)
        probe = SamplingParams(TIMING_TOKENS)
        kinds = len(sampling_modes(run.model.generation_config, 1))
        _generate(run, [Request(example.turns[:-1], probe) for example in examples] * kinds)
    assert run.sampled_tokens_per_second is not None
    elapsed = time.monotonic() - run.opened
    tokens = affordable_tokens(settings.sample_share, elapsed, run.sampled_seconds, run.sampled_tokens_per_second)
    return run.world.broadcast(min(settings.max_new_tokens, tokens))  # all ranks write the same, each by its own clock


def _generate(run: Run, requests: Sequence[Request]) -> list[Completion]:
    """The replies, with the time they took on the account, and the speed of one of them beside the others."""
    begun = time.monotonic()
    with closing(Engine(run.model, run.tokenizer, run.precision)) as engine:
        replies = dict(engine.complete(requests, run.replies_at_once or run.recipe.generate.batch_rows))
    seconds = time.monotonic() - begun
    run.sampled_seconds += seconds
    run.sampled_tokens_per_second = max(reply.tokens for reply in replies.values()) / max(1e-9, seconds)
    return [replies[index] for index in range(len(requests))]


def _tokenize_reply(run: Run, reply: Completion) -> list[int]:
    return run.tokenizer(f"{reply.reasoning}\n{reply.answer}", add_special_tokens=False)["input_ids"]
