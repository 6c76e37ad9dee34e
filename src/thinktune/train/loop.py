"""The training run: prepares, steps, watches, keeps the best, and starts again where it stopped."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch

from thinktune.checkpoint import saving
from thinktune.checkpoint import store as checkpoint
from thinktune.config.schema import Recipe
from thinktune.distributed.world import ALONE, World
from thinktune.errors import Stopped, UserError
from thinktune.files import is_full, read_json
from thinktune.progress import Bar, Say, no_bar, unheard
from thinktune.report import run_page as report
from thinktune.run import journal as track
from thinktune.run.resume import hold
from thinktune.tracking import trackers as sinks
from thinktune.train import metrics as watch
from thinktune.train import samples as answers
from thinktune.train import state as carried
from thinktune.train.anomalies import fault
from thinktune.train.dry_run import dry_step, too_large
from thinktune.train.interrupt import Stop, seconds
from thinktune.train.setup import open_run
from thinktune.train.state import Run, evaluation_interval
from thinktune.train.step import step, warm_up

Written = TypeVar("Written")


def train(
    recipe: Recipe, say: Say, command: Sequence[str] = tuple(sys.argv), bar: Bar = no_bar, world: World = ALONE
) -> Path:
    """Train to the end and return the run's folder; where it holds an unfinished run, go on with that.

    Raises UserError as `open_run` does, where no gradient is finite any more, where the device's memory is full, and
    where the disk is, if the recipe says so; Stopped where a signal or the time limit ended it, with all steps saved.
    Of many ranks, all of which must call, the first one alone speaks and writes.
    """
    stop = Stop(seconds(recipe.train.time_limit))
    with hold(recipe.run_folder) if world.leads else nullcontext():
        run = open_run(recipe, say if world.leads else unheard, command, world)
        run.bar = bar if world.leads else no_bar
        followed = sinks.following(run.folder, recipe.track, say) if world.leads else nullcontext()
        try:
            with stop.listening(aloud=world.leads), followed:
                _train(run, stop)
        except Stopped:
            raise Stopped(
                f"{stop.reason}: stopped after step {run.done} of {len(run.steps)}, checkpoint of step {run.saved} in "
                f"{run.folder}; the same command goes on from there"
            ) from None
        except torch.OutOfMemoryError as error:
            raise too_large(run, error, f"after step {run.done}") from error
        world.wait()
    return run.folder


def _train(run: Run, stop: Stop) -> None:
    if run.device.type != "cpu" and run.done < len(run.steps):  # the memory of a CPU swaps, it does not refuse
        if run.compiled:
            _compile(run)
        dry_step(run)
    run.started = time.monotonic()
    if run.carried:
        carried.up(run, run.carried)
    if _evaluates(run) and not run.evaluated:
        _evaluate(run, stop)
    elif run.saved:
        _tidy(run)  # a stop may have come between a checkpoint and what follows it
    for number in range(run.done + 1, len(run.steps) + 1):
        if watch.has_overfitted(run):
            break
        begun = time.monotonic()
        _train_step(run, number)
        watch.stepped(run)
        if _evaluates(run) or number % run.recipe.train.log_every_steps == 0:
            watch.log(run)
            _stop_if_bad(run)
        step_seconds = time.monotonic() - begun
        stop.reserve = max(stop.reserve, 2 * run.slowest_save + step_seconds)
        ends, saves = _asked(run, stop)
        if _evaluates(run):
            _evaluate(run, stop)
        elif ends or saves:
            _keep(run)
        if ends:
            raise Stopped
    with _interruptible(run, stop):
        _finish(run)


def _asked(run: Run, stop: Stop) -> tuple[bool, bool]:
    """Whether the run is to stop after this step, and whether it is time for a checkpoint, the same on all ranks."""
    late = time.monotonic() - run.saved_at > 60 * run.recipe.train.save_every_minutes
    ends = run.world.any(stop.due)
    if ends:
        stop.reason = next(reason for reason in run.world.gather(stop.reason) if reason)  # the same one on all ranks
    return ends, run.world.any(late)


def _interruptible(run: Run, stop: Stop) -> AbstractContextManager[None]:
    """Work that a stop may leave at once, where no other rank waits for its end."""
    return stop.interruptible() if run.world.size == 1 else nullcontext()


def _train_step(run: Run, number: int) -> None:
    """One step; while the device works on it, the next one's batches are packed and copied."""
    batches = run.batches(number)
    run.update.begin(number, run.learning_rate(number))
    learned_tokens = run.steps[number - 1].learned_tokens
    made = step(run.model, batches, run.update, run.world, run.precision, run.chunk_rows, learned_tokens)
    run.pending.append(made)
    run.done = number
    run.evaluated = False
    if number < len(run.steps):
        run.ahead[number + 1] = run.batches(number + 1)


def _compile(run: Run) -> None:
    """Before the clock starts, so that neither speed nor time left is told wrong."""
    first = run.done + 1
    run.ahead[first] = run.batches(first)
    seconds = warm_up(run.model, run.ahead[first][0], run.precision, run.chunk_rows)
    run.say(f"layers compiled in {seconds:.0f} s, once for the whole run")


def _evaluates(run: Run) -> bool:
    return run.done % evaluation_interval(run.recipe, run.steps) == 0 or run.done == len(run.steps)


def _evaluate(run: Run, stop: Stop) -> None:
    """Evaluate and sample while a thread writes the checkpoint: weights and state stand still meanwhile.

    So the checkpoint needs no copy. A stop leaves the evaluation, which the next start makes again, but not the save.
    Many ranks write first and evaluate then, for they must ask each other in one order.
    """
    pause, due = time.monotonic(), run.saved < run.done
    saved = None
    if due and run.world.size > 1:
        saved, due = _write_checkpoint(run), False
        if not saved:
            run.unsaved.append(run.done)
    with ThreadPoolExecutor(1) as writer:
        saving = _with_room(run, lambda: writer.submit(_save, run, _facts(run)), "the checkpoint") if due else None
        try:
            with _interruptible(run, stop):
                watch.evaluate(run)
                if run.done:
                    answers.sample(run)
        finally:
            waited = time.monotonic()
            saved = _with_room(run, lambda: _saved(run, saving.result()), "the checkpoint") if saving else None
            run.saving_seconds += time.monotonic() - waited
    if due and not saved:
        run.unsaved.append(run.done)
    run.evaluated = True
    if run.saved:
        _with_room(run, lambda: _tidy(run), "what follows an evaluation")
        if run.world.leads:
            _with_room(run, lambda: report.write(run.folder), "the page")
    elif run.world.leads:
        checkpoint.mark_evaluated(run.folder, run.done, track.lengths(run.folder))
    run.started += time.monotonic() - pause


def _tidy(run: Run) -> None:
    """Say which evaluation stands whole and which checkpoint is the best; what is neither last nor best goes."""
    if not run.world.leads:
        return
    if run.evaluated:
        checkpoint.mark_evaluated(run.folder, run.done, track.lengths(run.folder))
        _point_at_best(run)
    checkpoint.prune(run.folder)


def _keep(run: Run) -> None:
    """A checkpoint between two steps; training waits for it, for the next step would move what is being written."""
    begun = time.monotonic()
    if _write_checkpoint(run) and run.world.leads:
        checkpoint.prune(run.folder)
    run.started += time.monotonic() - begun


def _write_checkpoint(run: Run) -> bool:
    """Save while everything waits; whether there was room."""
    begun = run.saved_at = time.monotonic()
    made = _with_room(run, lambda: _saved(run, _save(run, _facts(run))), "the checkpoint")
    run.saving_seconds += time.monotonic() - begun
    return bool(made)


def _facts(run: Run) -> dict[str, Any]:
    journals = track.lengths(run.folder) if run.world.leads else {}
    return {"journals": journals, **carried.down(run)}


def _save(run: Run, facts: dict[str, Any]) -> tuple[Path, float]:
    """Write a checkpoint, in a thread or not: its folder and the seconds."""
    begun = time.monotonic()
    saved = saving.save(run.folder, run.done, run.model, run.tokenizer, run.update, facts, run.world)
    return saved.folder, time.monotonic() - begun


def _saved(run: Run, made: tuple[Path, float]) -> bool:
    folder, taken = made
    run.saved, run.saved_at, run.slowest_save = run.done, time.monotonic(), max(run.slowest_save, taken)
    run.say(f"step {run.done}/{len(run.steps)} saved {folder} in {taken:.1f} s")
    return True


def _with_room(run: Run, write: Callable[[], Written], what: str) -> Written | None:
    """What `write` returns; none where the disk is full and the recipe says to train on."""
    try:
        return write()
    except Exception as error:  # libraries in Rust raise their own kinds
        if not is_full(error):
            raise
        free = shutil.disk_usage(run.folder).free / 2**20
        stands = f"the checkpoint of step {run.saved} stands" if run.saved else "there is no checkpoint yet"
        text = f"the disk of {run.folder} is full ({free:,.0f} MiB free), {what} could not be written; {stands}"
        if run.recipe.train.full_disk == "stop":
            raise UserError(f"train.full_disk: {text}; free some room, and the same command goes on") from error
        watch.tell(run, text)
        return None


def _stop_if_bad(run: Run) -> None:
    """End a run whose numbers are bad; its weights are not, for they never took one."""
    if told := fault(run):
        if run.saved < run.done:
            _keep(run)
        raise UserError(told)


def _point_at_best(run: Run) -> None:
    """Best is the lowest eval loss after step 0 of those saved; without held-out rows, the last step."""
    losses = {
        record["step"]: record["loss"]
        for record in track.read_metrics(run.folder)
        if record["kind"] == "eval" and record["step"] not in (0, *run.unsaved) and "loss" in record
    }
    best = min(losses, key=lambda step: losses[step]) if losses else run.saved
    if checkpoint.is_saved(run.folder, best):
        checkpoint.point_best(run.folder, best)


def _finish(run: Run) -> None:
    """Write `final/` from the best checkpoint, in the number type that the base model came in."""
    if run.saved < run.done:
        raise UserError(
            f"{run.folder}: its disk is full, and the last checkpoint is of step {run.saved}; free some room, and the "
            "same command makes the steps after it again"
        )
    run.world.together(lambda: _write_final(run) if run.world.leads else None)


def _write_final(run: Run) -> None:
    _tidy(run)
    best = checkpoint.find(run.folder, "best")
    assert best is not None
    if not checkpoint.has_final(run.folder, best):
        checkpoint.verify(best)
        kept = getattr(torch, read_json(run.folder / "environment.json")["model_dtype"])
        saving.write_final(run.folder, best, kept)
    report.write(run.folder)
    share = run.saving_seconds / max(1e-9, run.saving_seconds + time.monotonic() - run.started)
    run.say(f"training waited {run.saving_seconds:.1f} s for checkpoints, {share:.1%} of its time")
    watch.conclude(run)
    run.say(f"final model: {run.folder / 'final'} (step {best.step}, the best of those evaluated)")
