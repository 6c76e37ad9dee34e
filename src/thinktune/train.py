"""The training run: prepares, steps, watches, keeps the best, and starts again where it stopped."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from thinktune import checkpoint, report, track, watch
from thinktune.errors import UserError, brief
from thinktune.files import read_json
from thinktune.knobs import Recipe
from thinktune.model import load_model, padding
from thinktune.pack import pack
from thinktune.progress import Say
from thinktune.run import Run, evaluation_interval, open_run
from thinktune.step import step


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
            "set train.activation_budget: 0, lower train.batch_tokens or data.max_tokens, or take a smaller model"
        ) from error
    return run.folder


def _train(run: Run) -> None:
    recipe = run.recipe
    if run.done:  # a stop may have come between a checkpoint and what follows it
        _point_at_best(run)
        checkpoint.prune(run.folder)
    steps_per_evaluation = evaluation_interval(recipe, run.steps)
    if run.done == 0 and not track.read_metrics(run.folder):
        watch.evaluate(run)
    run.started = time.monotonic()
    for number in range(run.done + 1, len(run.steps) + 1):
        _train_step(run, number)
        at_evaluation = number % steps_per_evaluation == 0 or number == len(run.steps)
        if at_evaluation or number % recipe.train.log_every_steps == 0:
            watch.log(run)
        if at_evaluation:
            pause = time.monotonic()
            watch.evaluate(run)
            watch.sample(run)
            _keep(run)
            report.write(run.folder)
            run.started += time.monotonic() - pause
    _finish(run)


def _train_step(run: Run, number: int) -> None:
    dealt = run.steps[number - 1]
    rows = run.prepared.train.replies(dealt.rows)
    packed = pack(rows, run.capacity, pad=padding(run.device, run.tokenizer))
    run.update.begin(number, run.learning_rate(number))
    made = step(run.model, [batch.to(run.device) for batch in packed], run.update, run.world, run.precision)
    assert made.learned_tokens == dealt.learned_tokens
    run.pending.append(made)
    run.done = number


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
