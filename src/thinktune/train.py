"""The training run: prepares, steps, watches, keeps the best, and starts again where it stopped."""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from thinktune import checkpoint, report, track
from thinktune.engine import Engine, Sampling, record
from thinktune.errors import UserError, brief
from thinktune.files import read_json
from thinktune.knobs import Recipe
from thinktune.model import load_model, padding
from thinktune.optim import learning_rate_share
from thinktune.pack import pack
from thinktune.progress import Say, clock
from thinktune.render import render_prompt
from thinktune.run import Run, batch_capacity, evaluation_interval, open_run
from thinktune.step import LossReport, StepReport, evaluate, step

MOST_REFUSED_IN_A_ROW = 10  # one bad row is the row's fault; this many in a row are the run's


def train(recipe: Recipe, say: Say, command: Sequence[str] = tuple(sys.argv)) -> Path:
    """Train to the end and return the run's folder; where it holds an unfinished run, go on with that.

    Raises UserError as `open_run` does, where no gradient is finite any more, and where the device's memory is full.
    """
    run = open_run(recipe, say, command)
    try:
        _train(run)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"train.batch_tokens: the memory of {run.device} is full after step {run.done} ({brief(error, 120)}); "
            "set train.recompute: true, lower train.batch_tokens or data.max_tokens, or take a smaller model"
        ) from error
    return run.folder


def _train(run: Run) -> None:
    recipe = run.recipe
    if run.done:  # a stop may have come between a checkpoint and what follows it
        _point_at_best(run)
        checkpoint.prune(run.folder)
    steps_per_evaluation = evaluation_interval(recipe, run.steps)
    if run.done == 0 and not track.read_metrics(run.folder):
        _evaluate(run)
    run.started = time.monotonic()
    for number in range(run.done + 1, len(run.steps) + 1):
        _train_step(run, number)
        at_evaluation = number % steps_per_evaluation == 0 or number == len(run.steps)
        if at_evaluation or number % recipe.train.log_every_steps == 0:
            _log(run)
        if at_evaluation:
            pause = time.monotonic()
            _evaluate(run)
            _sample(run)
            _keep(run)
            report.write(run.folder)
            run.started += time.monotonic() - pause
    _finish(run)


def _train_step(run: Run, number: int) -> None:
    dealt = run.steps[number - 1]
    rows = run.prepared.train.replies(dealt.rows)
    packed = pack(rows, run.capacity, pad=padding(run.device, run.tokenizer))
    run.update.begin(number, _learning_rate(run, number))
    made = step(run.model, [batch.to(run.device) for batch in packed], run.update, run.world, run.precision)
    assert made.learned_tokens == dealt.learned_tokens
    run.pending.append(made)
    run.done = number


def _log(run: Run) -> None:
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
        "learning_rate": _learning_rate(run, run.done),
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


def _evaluate(run: Run) -> None:
    """Measure the held-out rows; without any there is nothing to measure, and the last model is the best."""
    rows = run.prepared.validation
    if not len(rows):
        return
    begun = time.monotonic()
    capacity = batch_capacity(run.recipe, rows, run.device)
    packed = pack(rows.replies(), capacity, pad=padding(run.device, run.tokenizer))
    losses = evaluate(run.model, packed, run.device, run.precision).values()
    seconds = round(time.monotonic() - begun, 2)
    facts = {"rows": len(rows), "learned_tokens": int(rows.learned.sum()), "seconds": seconds}
    track.append(run.folder, track.METRICS, [{"kind": "eval", "step": run.done, "epoch": run.epoch, **losses, **facts}])
    run.say(
        f"step {run.done}/{len(run.steps)} eval loss {losses['loss']:.4f} "
        f"on {len(rows):,} held-out rows in {seconds:.1f} s"
    )


def _sample(run: Run) -> None:
    examples = run.prepared.validation.examples(run.recipe.generate.sample_questions)
    if not examples:
        return
    engine = Engine(run.model, run.tokenizer, run.precision)
    prompts = [render_prompt(example.turns[:-1], run.tokenizer) for example in examples]
    replies = engine.complete(prompts, Sampling(run.recipe.generate.max_new_tokens), run.recipe.generate.batch_rows)
    records = [
        {"step": run.done, **record(example, reply), "reference_reasoning": example.turns[-1].reasoning}
        for example, reply in zip(examples, replies, strict=True)
    ]
    track.append(run.folder, track.SAMPLES, records)


def _keep(run: Run) -> None:
    saved = checkpoint.save(run.folder, run.done, run.model, run.tokenizer, run.update)
    _point_at_best(run)
    checkpoint.prune(run.folder)
    run.say(f"step {run.done}/{len(run.steps)} saved {saved.folder}")


def _point_at_best(run: Run) -> None:
    """Best is the lowest eval loss after step 0; without held-out rows, the last step."""
    losses = {
        record["step"]: record["loss"]
        for record in track.read_metrics(run.folder)
        if record["kind"] == "eval" and record["step"] > 0 and "loss" in record
    }
    best = min(losses, key=lambda step: losses[step]) if losses else run.done
    if best == run.done:
        checkpoint.point_best(run.folder, best)


def _finish(run: Run) -> None:
    """Write `final/` from the best checkpoint, in the number type that the base model came in."""
    best = checkpoint.find(run.folder, "best")
    assert best is not None
    if not (run.folder / "final" / checkpoint.FACTS).is_file():
        kept = getattr(torch, read_json(run.folder / "environment.json")["model_dtype"])
        checkpoint.write_final(run.folder, best, load_model(best.folder, torch.device("cpu"), kept), run.tokenizer)
    report.write(run.folder)
    run.say(f"final model: {run.folder / 'final'} (step {best.step}, the best of those evaluated)")


def _learning_rate(run: Run, number: int) -> float:
    settings = run.recipe.train
    share = learning_rate_share(number, len(run.steps), settings.warmup_fraction, settings.schedule)
    return settings.learning_rate * share


def _memory(device: torch.device) -> dict[str, float]:
    if device.type == "cpu":
        return {}
    return {"memory_gib": round(torch.accelerator.max_memory_allocated() / 2**30, 3)}
