"""What a run says of itself: lines of metrics, the loss on held-out rows, samples, each in the journal and aloud."""

import time
from contextlib import closing
from typing import Any

import torch

from thinktune import health, track
from thinktune.engine import Engine, Request, Sampling, record
from thinktune.pack import pack
from thinktune.progress import clock
from thinktune.run import Run, batch_capacity
from thinktune.step import LossReport
from thinktune.step import evaluate as evaluate_loss


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
    events = health.events(run, reports, norms)
    track.append(run.folder, track.METRICS, [*events, line])
    for event in events:
        run.say(f"step {event['step']}: {event['text']}")
    run.say(_line(run, line))


def tell(run: Run, text: str) -> None:
    """Say something that happened to the run, and record it."""
    track.append(run.folder, track.METRICS, [{"kind": "event", "step": run.done, "text": text}])
    run.say(f"step {run.done}: {text}")


def evaluate(run: Run) -> None:
    """Measure the held-out rows; without any there is nothing to measure, and the last model is the best."""
    rows = run.prepared.validation
    if not len(rows):
        return
    begun = time.monotonic()
    # Padded batches have the shapes of training, for which the layers are compiled.
    capacity = run.capacity if run.pad else batch_capacity(run.recipe, rows, run.device)
    packed = pack(rows.replies(), capacity, pad=run.pad)
    losses = evaluate_loss(run.model, packed, run.device, run.precision, run.chunk_rows).values()
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
