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
from thinktune.config import Recipe
from thinktune.distributed import SINGLE, World
from thinktune.errors import Stopped, UserError
from thinktune.files import is_disk_full, read_json
from thinktune.progress import Bar, Say, no_bar, say_nothing
from thinktune.report import run_page as report
from thinktune.run import RunFolder, lock_run
from thinktune.run import journal as track
from thinktune.tracking import trackers as sinks
from thinktune.train import metrics as watch
from thinktune.train import samples as answers
from thinktune.train import state as carried
from thinktune.train.anomalies import stop_reason
from thinktune.train.dry_run import dry_run, out_of_memory_error
from thinktune.train.interrupt import StopRequest, parse_duration_seconds
from thinktune.train.setup import open_run
from thinktune.train.state import Run, evaluation_interval_steps
from thinktune.train.step import step, warm_up

Result = TypeVar("Result")


def train(
    recipe: Recipe, say: Say, command: Sequence[str] = tuple(sys.argv), bar: Bar = no_bar, world: World = SINGLE
) -> Path:
    """Train to the end and return the run's folder; where it holds an unfinished run, go on with that.

    Raises UserError as `open_run` does, where no gradient is finite any more, where the device's memory is full, and
    where the disk is, if the recipe says so; Stopped where a signal or the time limit ended it, with all steps saved.
    Of many ranks, all of which must call, the first one alone speaks and writes.
    """
    stop = StopRequest(parse_duration_seconds(recipe.train.time_limit))
    with lock_run(recipe.run_folder) if world.is_main else nullcontext():
        run = open_run(recipe, say if world.is_main else say_nothing, command, world)
        run.bar = bar if world.is_main else no_bar
        followed = sinks.run_trackers(run.folder, recipe.track, say) if world.is_main else nullcontext()
        try:
            with stop.catch_signals(announce=world.is_main), followed:
                _train(run, stop)
        except Stopped:
            raise Stopped(
                f"{stop.reason}: stopped after step {run.done} of {len(run.steps)}, checkpoint of step {run.saved} in "
                f"{run.folder}; the same command goes on from there"
            ) from None
        except torch.OutOfMemoryError as error:
            raise out_of_memory_error(run, error, f"after step {run.done}") from error
        world.barrier()
    return run.folder


def _train(run: Run, stop: StopRequest) -> None:
    if run.device.type != "cpu" and run.done < len(run.steps):  # the memory of a CPU swaps, it does not refuse
        if run.compiled:
            _compile(run)
        dry_run(run)
    run.started = time.monotonic()
    if run.restored_state:
        carried.load_state_dict(run, run.restored_state)
    if _is_evaluation_step(run) and not run.evaluated:
        _evaluate(run, stop)
    elif run.saved:
        _mark_best_and_prune(run)  # a stop may have come between a checkpoint and what follows it
    for number in range(run.done + 1, len(run.steps) + 1):
        if watch.should_stop_early(run):
            break
        begun = time.monotonic()
        _train_step(run, number)
        watch.update_bar(run)
        if _is_evaluation_step(run) or number % run.recipe.train.log_every_steps == 0:
            watch.log_metrics(run)
            _stop_on_anomaly(run)
        step_seconds = time.monotonic() - begun
        stop.reserve_seconds = max(stop.reserve_seconds, 2 * run.slowest_save + step_seconds)
        ends, saves = _should_stop_and_save(run, stop)
        if _is_evaluation_step(run):
            _evaluate(run, stop)
        elif ends or saves:
            _save_and_prune(run)
        if ends:
            raise Stopped
    with _interruptible(run, stop):
        _finish(run)


def _should_stop_and_save(run: Run, stop: StopRequest) -> tuple[bool, bool]:
    """Whether the run is to stop after this step, and whether it is time for a checkpoint, the same on all ranks."""
    late = time.monotonic() - run.saved_at > 60 * run.recipe.train.save_every_minutes
    ends = run.world.any(stop.due)
    if ends:
        stop.reason = next(
            reason for reason in run.world.all_gather(stop.reason) if reason
        )  # the same one on all ranks
    return ends, run.world.any(late)


def _interruptible(run: Run, stop: StopRequest) -> AbstractContextManager[None]:
    """Work that a stop may leave at once, where no other rank waits for its end."""
    return stop.interruptible() if run.world.size == 1 else nullcontext()


def _train_step(run: Run, number: int) -> None:
    """One step; while the device works on it, the next one's batches are packed and copied."""
    batches = run.batches(number)
    run.optimizer.begin_step(number, run.learning_rate(number))
    learned_tokens = run.steps[number - 1].label_tokens
    made = step(run.model, batches, run.optimizer, run.world, run.precision, run.chunk_rows, learned_tokens)
    run.pending.append(made)
    run.done = number
    run.evaluated = False
    if number < len(run.steps):
        run.prefetched_batches[number + 1] = run.batches(number + 1)


def _compile(run: Run) -> None:
    """Before the clock starts, so that neither speed nor time left is told wrong."""
    first = run.done + 1
    run.prefetched_batches[first] = run.batches(first)
    seconds = warm_up(run.model, run.prefetched_batches[first][0], run.precision, run.chunk_rows)
    run.say(f"layers compiled in {seconds:.0f} s, once for the whole run")


def _is_evaluation_step(run: Run) -> bool:
    return run.done % evaluation_interval_steps(run.recipe, run.steps) == 0 or run.done == len(run.steps)


def _evaluate(run: Run, stop: StopRequest) -> None:
    """Evaluate and sample while a thread writes the checkpoint: weights and state stand still meanwhile.

    So the checkpoint needs no copy. A stop leaves the evaluation, which the next start makes again, but not the save.
    Many ranks write first and evaluate then, for they must ask each other in one order.
    """
    pause, due = time.monotonic(), run.saved < run.done
    saved = None
    if due and run.world.size > 1:
        saved, due = _save_blocking(run), False
        if not saved:
            run.unsaved.append(run.done)
    with ThreadPoolExecutor(1) as writer:
        saving = (
            _unless_disk_full(run, lambda: writer.submit(_save, run, _trainer_state(run)), "the checkpoint")
            if due
            else None
        )
        try:
            with _interruptible(run, stop):
                watch.evaluate_held_out(run)
                if run.done:
                    answers.write_samples(run)
        finally:
            waited = time.monotonic()
            saved = (
                _unless_disk_full(run, lambda: _record_save(run, saving.result()), "the checkpoint") if saving else None
            )
            run.saving_seconds += time.monotonic() - waited
    if due and not saved:
        run.unsaved.append(run.done)
    run.evaluated = True
    if run.saved:
        _unless_disk_full(run, lambda: _mark_best_and_prune(run), "what follows an evaluation")
        if run.world.is_main:
            _unless_disk_full(run, lambda: report.write_run_page(run.folder), "the page")
    elif run.world.is_main:
        checkpoint.mark_evaluated(run.folder, run.done, track.flush_journals(run.folder))
    run.started += time.monotonic() - pause


def _mark_best_and_prune(run: Run) -> None:
    """Say which evaluation stands whole and which checkpoint is the best; what is neither last nor best goes."""
    if not run.world.is_main:
        return
    if run.evaluated:
        checkpoint.mark_evaluated(run.folder, run.done, track.flush_journals(run.folder))
        _mark_best(run)
    checkpoint.prune_checkpoints(run.folder)


def _save_and_prune(run: Run) -> None:
    """A checkpoint between two steps; training waits for it, for the next step would move what is being written."""
    begun = time.monotonic()
    if _save_blocking(run) and run.world.is_main:
        checkpoint.prune_checkpoints(run.folder)
    run.started += time.monotonic() - begun


def _save_blocking(run: Run) -> bool:
    """Save while everything waits; whether there was room."""
    begun = run.saved_at = time.monotonic()
    made = _unless_disk_full(run, lambda: _record_save(run, _save(run, _trainer_state(run))), "the checkpoint")
    run.saving_seconds += time.monotonic() - begun
    return bool(made)


def _trainer_state(run: Run) -> dict[str, Any]:
    journals = track.flush_journals(run.folder) if run.world.is_main else {}
    return {"step": run.done, "journals": journals, **carried.state_dict(run)}


def _save(run: Run, trainer_state: dict[str, Any]) -> tuple[Path, float]:
    """Write a checkpoint, in a thread or not: its folder and the seconds."""
    begun = time.monotonic()
    saved = saving.save(run.folder, run.model, run.tokenizer, run.optimizer, trainer_state, run.world)
    return saved.folder, time.monotonic() - begun


def _record_save(run: Run, made: tuple[Path, float]) -> bool:
    folder, taken = made
    run.saved, run.saved_at, run.slowest_save = run.done, time.monotonic(), max(run.slowest_save, taken)
    run.say(f"step {run.done}/{len(run.steps)} saved {folder} in {taken:.1f} s")
    return True


def _unless_disk_full(run: Run, write: Callable[[], Result], what: str) -> Result | None:
    """What `write` returns; none where the disk is full and the recipe says to train on."""
    try:
        return write()
    except Exception as error:  # libraries in Rust raise their own kinds
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(run.folder).free / 2**20
        stands = f"the checkpoint of step {run.saved} stands" if run.saved else "there is no checkpoint yet"
        text = f"the disk of {run.folder} is full ({free:,.0f} MiB free), {what} could not be written; {stands}"
        if run.recipe.train.full_disk == "stop":
            raise UserError(f"train.full_disk: {text}; free some room, and the same command goes on") from error
        watch.log_event(run, text)
        return None


def _stop_on_anomaly(run: Run) -> None:
    """End a run whose numbers are bad; its weights are not, for they never took one."""
    if told := stop_reason(run):
        if run.saved < run.done:
            _save_and_prune(run)
        raise UserError(told)


def _mark_best(run: Run) -> None:
    """Best is the lowest eval loss after step 0 of those saved; without held-out rows, the last step."""
    losses = {
        record["step"]: record["loss"]
        for record in track.read_metrics(run.folder)
        if record["kind"] == "eval" and record["step"] not in (0, *run.unsaved) and "loss" in record
    }
    best = min(losses, key=lambda step: losses[step]) if losses else run.saved
    if checkpoint.has_checkpoint(run.folder, best):
        checkpoint.mark_best(run.folder, best)


def _finish(run: Run) -> None:
    """Write `final/` from the best checkpoint, in the number type that the base model came in."""
    if run.saved < run.done:
        raise UserError(
            f"{run.folder}: its disk is full, and the last checkpoint is of step {run.saved}; free some room, and the "
            "same command makes the steps after it again"
        )
    run.world.run_on_all(lambda: _write_final(run) if run.world.is_main else None)


def _write_final(run: Run) -> None:
    _mark_best_and_prune(run)
    best = checkpoint.find_checkpoint(run.folder, "best")
    assert best is not None
    if not checkpoint.has_final_model(run.folder, best):
        checkpoint.verify(best)
        kept = getattr(torch, read_json(RunFolder(run.folder).environment)["model_dtype"])
        saving.write_final(run.folder, best, kept)
    report.write_run_page(run.folder)
    share = run.saving_seconds / max(1e-9, run.saving_seconds + time.monotonic() - run.started)
    run.say(f"training waited {run.saving_seconds:.1f} s for checkpoints, {share:.1%} of its time")
    watch.log_conclusion(run)
    run.say(f"final model: {RunFolder(run.folder).final} (step {best.step}, the best of those evaluated)")
