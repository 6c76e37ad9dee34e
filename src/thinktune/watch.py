"""What a run says of itself: lines of metrics, the loss on held-out rows, samples, each in the journal and aloud."""

import math
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import torch

from thinktune import track
from thinktune.engine import Engine, Request, Sampling, record
from thinktune.errors import UserError
from thinktune.model import padding
from thinktune.pack import pack
from thinktune.progress import clock
from thinktune.run import Run, batch_capacity
from thinktune.step import LossReport, StepReport
from thinktune.step import evaluate as evaluate_loss

MOST_REFUSED_IN_A_ROW = 10  # one bad row is the row's fault; this many in a row are the run's


def log(run: Run) -> None:
    """Read the finished numbers of the steps since the last line and write the next one."""
    reports, run.pending = run.pending, []
    norms = torch.stack([made.gradient_norm for made in reports]).tolist()
    sums = torch.stack([made.losses.sums for made in reports]).sum(0)
    counts = torch.stack([made.losses.counts for made in reports]).sum(0)
    tokens = sum(made.tokens for made in reports)
    run.trained_tokens += tokens
    seconds = time.monotonic() - run.started
    line = {
        "kind": "train",
        "step": run.done,
        "epoch": run.epoch,
        **LossReport(sums, counts).values(),
        "learning_rate": run.learning_rate(run.done),
        "gradient_norm": norms[-1],
        "learned_tokens": sum(made.learned_tokens for made in reports),
        "tokens": tokens,
        "tokens_per_second": round(run.trained_tokens / seconds, 1),
        **_memory(run.device),
        "seconds": round(seconds, 2),
    }
    refused = _refused(run, reports, norms)
    track.append(run.folder, track.METRICS, [*refused, line])
    for event in refused:
        run.say(f"step {event['step']}: {event['text']}")
    run.say(_line(run, line))
    for norm in norms:
        run.refused_in_a_row = 0 if math.isfinite(norm) else run.refused_in_a_row + 1
    if run.refused_in_a_row >= MOST_REFUSED_IN_A_ROW:
        raise UserError(
            f"train.learning_rate: is {run.recipe.train.learning_rate:g}, and no gradient of the last "
            f"{run.refused_in_a_row} steps is finite; lower it, or look at the rows named above"
        )


def evaluate(run: Run) -> None:
    """Measure the held-out rows; without any there is nothing to measure, and the last model is the best."""
    rows = run.prepared.validation
    if not len(rows):
        return
    begun = time.monotonic()
    capacity = batch_capacity(run.recipe, rows, run.device)
    packed = pack(rows.replies(), capacity, pad=padding(run.device, run.tokenizer))
    losses = evaluate_loss(run.model, packed, run.device, run.precision).values()
    seconds = round(time.monotonic() - begun, 2)
    facts = {"rows": len(rows), "learned_tokens": int(rows.learned.sum()), "seconds": seconds}
    track.append(run.folder, track.METRICS, [{"kind": "eval", "step": run.done, "epoch": run.epoch, **losses, **facts}])
    run.say(
        f"step {run.done}/{len(run.steps)} eval loss {losses['loss']:.4f} "
        f"on {len(rows):,} held-out rows in {seconds:.1f} s"
    )


def sample(run: Run) -> None:
    """Let the model answer fixed held-out questions, beside what the rows answer."""
    examples = run.prepared.validation.examples(run.recipe.generate.sample_questions)
    if not examples:
        return
    sampling = Sampling(run.recipe.generate.max_new_tokens)
    requests = [Request(example.turns[:-1], sampling) for example in examples]
    with closing(Engine(run.model, run.tokenizer, run.precision)) as engine:
        replies = dict(engine.complete(requests, run.recipe.generate.batch_rows))
    records = [
        {"step": run.done, **record(example, replies[index]), "reference_reasoning": example.turns[-1].reasoning}
        for index, example in enumerate(examples)
    ]
    track.append(run.folder, track.SAMPLES, records)


def _refused(run: Run, reports: Sequence[StepReport], norms: Sequence[float]) -> list[dict[str, Any]]:
    """An event for each step whose gradient was not finite, naming its rows and what the update did about it."""
    first = run.done - len(reports) + 1
    done = "weights from the bad one on left as they were" if run.update.inside else "step refused"
    return [
        {"kind": "event", "step": number, "text": f"gradient not finite, {done}; rows: {', '.join(made.rows)}"}
        for number, (made, norm) in enumerate(zip(reports, norms, strict=True), first)
        if not math.isfinite(norm)
    ]


def _line(run: Run, line: dict[str, Any]) -> str:
    coming = run.tokens_left[run.done]
    parts = " ".join(
        f"{part} {line[f'{part}_loss']:.3f}" for part in ("reasoning", "answer", "end") if f"{part}_loss" in line
    )
    return (
        f"step {run.done}/{len(run.steps)} {run.done / len(run.steps):.0%} loss {line['loss']:.4f} ({parts}) "
        f"rate {line['learning_rate']:.2e} norm {line['gradient_norm']:.2f} "
        f"{line['tokens_per_second']:,.0f} tokens/s left {clock(coming / line['tokens_per_second'])}"
    )


def _memory(device: torch.device) -> dict[str, float]:
    if device.type == "cpu":
        return {}
    return {"memory_gib": round(torch.accelerator.max_memory_allocated() / 2**30, 3)}
