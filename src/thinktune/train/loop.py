"""The training loop: step, log, evaluate, save, keep the best, and resume where a run stopped."""

import shutil
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from thinktune.checkpoint import saving, store
from thinktune.config import Recipe
from thinktune.distributed import SINGLE, World
from thinktune.errors import Stopped, UserError, shorten_error
from thinktune.eval.averaging.questions import describe_cost
from thinktune.files import is_disk_full, name_path
from thinktune.model import transforms
from thinktune.model.long_rows.activation_offload import offload_layer_inputs
from thinktune.progress import Bar, Printer, Say, no_bar, say_nothing
from thinktune.report import final_step_phrase, write_final_card, write_run_page
from thinktune.run import RunFolder, diagnose_run, journal, lock_run, status
from thinktune.tracking import trackers
from thinktune.train import metrics, samples
from thinktune.train.averaging import average_final
from thinktune.train.dry_run import dry_run, find_out_of_memory, out_of_memory_error
from thinktune.train.final_model import card_text, final_form
from thinktune.train.interrupt import StopRequest, parse_duration_seconds
from thinktune.train.setup import open_run
from thinktune.train.state import Run
from thinktune.train.step import StepOptions, step, warm_up

PAGE_SECONDS = 60  # a page is at least so old before it is written between two evaluations


SLOW_SAVE_SECONDS = 10  # a save that takes so long is worth a line


PAGE_BYTES_PER_SECOND = 50_000  # of the journal: a page of 10 MB of it takes seconds, and is written every 200


def train(
    recipe: Recipe,
    say: Say,
    command: Sequence[str] = tuple(sys.argv),
    bar: Bar = no_bar,
    world: World = SINGLE,
    *,
    finish: bool = False,
) -> Path:
    """Train to the end and return the run's folder; where it holds an unfinished run, resume that.

    With `finish`, train no further: an unfinished run ends with its best checkpoint as its final model. All ranks must
    call; only the main rank prints and writes. Raises UserError as `open_run` does, where no gradient is finite any
    more, where the device's memory is full, where the disk is, if the recipe says so, and where nothing is there to
    finish; Stopped where a signal or the time limit ended the run, with all steps saved.
    """
    if finish and store.find_checkpoint(recipe.run_folder, "last") is None:
        raise UserError(f"--finish: {recipe.run_folder} has no checkpoint yet; leave it out to start or resume the run")
    stop = StopRequest(parse_duration_seconds(recipe.train.time_limit), finishes=finish)
    printer = Printer(say, bar) if world.is_main else Printer(say_nothing)
    locked = lock_run(recipe.run_folder) if world.is_main else nullcontext()
    with name_path(recipe.run_folder), stop.catch_signals(announce=world.is_main), locked:
        _open_and_train(recipe, stop, printer, command, world)
        if recipe.train.average is not None:  # by now nothing refers to the model
            average_final(recipe, printer.say, world, stop)
    return recipe.run_folder


def _open_and_train(recipe: Recipe, stop: StopRequest, printer: Printer, command: Sequence[str], world: World) -> None:
    """Open a run and train it to its final model; model and optimizer are gone afterwards."""
    try:
        with stop.interruptible(by_time_limit=False):
            run = open_run(recipe, printer.say, command, bar=printer.bar, world=world)
    except Stopped:
        raise Stopped(
            f"{stop.reason}: stopped while loading rows and weights; run the same command to start or resume"
        ) from None
    context, state = run.context, run.state
    tracked = trackers.run_trackers(context.folder, recipe.track, printer.say) if world.is_main else nullcontext()
    try:
        with tracked, _recorded_ending(run, stop):
            _write_page(run)
            context.say(f"report: {RunFolder(context.folder).report}")
            _train(run, stop, printer)
    except Stopped:
        raise Stopped(
            f"{stop.reason}: stopped after step {state.step} of {len(context.steps)}, checkpoint of step "
            f"{state.saved} in {context.folder}; run the same command to resume, or add --finish to it to end the run "
            "here with its best checkpoint as the final model"
        ) from None
    except Exception as error:
        if (full := find_out_of_memory(error)) is None:
            raise
        raise out_of_memory_error(context, full, f"after step {state.step}") from error
    world.barrier()


@contextmanager
def _recorded_ending(run: Run, stop: StopRequest) -> Generator[None]:
    """Record in the journal why a run ends before its last step, and write its page.

    A second Ctrl-C leaves the line alone, a kill not even that.
    """
    stop.follow_run(run if run.context.world.is_main else None)
    try:
        yield
    except Exception as error:
        stop.follow_run(None)
        if run.context.world.is_main:
            stopped = isinstance(error, Stopped)
            reason = stop.reason if stopped else "; ".join(error.faults) if isinstance(error, UserError) else None
            reason = reason or f"{type(error).__name__}: {shorten_error(error)}"
            with suppress(OSError, UserError):  # the disk may be why it ends
                folder, state = run.context.folder, "stopped" if stopped else "died"
                status.record_ending(folder, status.RunStatus(state, run.state.step, reason))
                write_run_page(folder, running=False)
        raise
    stop.follow_run(None)


def _train(run: Run, stop: StopRequest, printer: Printer) -> None:
    context, state = run.context, run.state
    last_step = state.step if stop.finishes else len(context.steps)
    _record_lost_output(run, printer)
    # The memory of a CPU swaps, it does not refuse.
    if context.device.type != "cpu" and state.step < last_step:
        if context.compiled and not _compile(run):
            context = replace(context, compiled=False)
            run = replace(run, context=context)
        run.samples.limit_batch(dry_run(context))
    run.metrics.start_clock()
    if context.is_evaluation_step(state.step) and not state.evaluated:
        _evaluate(run, stop)
    elif state.saved:  # a stop may have come between a checkpoint and what follows it
        with _tolerate_full_disk(run, "what follows a checkpoint"):
            _mark_best_and_prune(run)
    for number in range(state.step + 1, last_step + 1):
        if metrics.should_stop_early(context, state.step):
            break
        started_at = time.monotonic()
        _train_step(run, number)
        run.metrics.update_bar(context, number)
        _record_lost_output(run, printer)
        if context.is_evaluation_step(number) or number % context.recipe.train.log_every_steps == 0:
            run.metrics.log(context, number, run.anomalies)
            _refresh_page(run)
            _stop_on_anomaly(run)
        step_seconds = time.monotonic() - started_at
        stop.reserve(2 * run.checkpoints.slowest_save_seconds + step_seconds)
        ends, saves = _should_stop_and_save(run, stop)
        if context.is_evaluation_step(number):
            _evaluate(run, stop)
        elif ends or saves:
            _save_and_prune(run)
        if ends:
            raise Stopped
    with _interruptible(run, stop):
        _finish(run)
    _record_lost_output(run, printer)


def _record_lost_output(run: Run, printer: Printer) -> None:
    if failure := printer.take_failure():
        metrics.log_event(run.context, run.state.step, failure)


def _should_stop_and_save(run: Run, stop: StopRequest) -> tuple[bool, bool]:
    """Return whether to stop after this step, and whether a checkpoint is due; the same on all ranks."""
    world = run.context.world
    late = run.checkpoints.is_due(run.context.recipe.train.save_every_minutes)
    ends = world.any(stop.due)
    if ends:
        stop.set_reason(next(reason for reason in world.all_gather(stop.reason) if reason))
    return ends, world.any(late)


def _interruptible(run: Run, stop: StopRequest) -> AbstractContextManager[None]:
    """Run a block that a stop may leave at once; not with many ranks, which wait for each other."""
    return stop.interruptible() if run.context.world.size == 1 else nullcontext()


def _train_step(run: Run, number: int) -> None:
    """Make one step; while the device works on it, the next one's batches are packed and copied."""
    context = run.context
    batches = run.prefetcher.take(context, number)
    context.optimizer.begin_step(number, context.learning_rate(number))
    options = StepOptions(
        context.steps[number - 1].label_tokens,
        context.chunk_rows,
        len(context.recipe.sources),
        context.objective,
        context.label_weight(number),
    )
    run.metrics.add(step(context.model, batches, context.optimizer, context.world, context.precision, options))
    run.state.advance(number)
    if number < len(context.steps):
        run.prefetcher.prefetch(context, number + 1)


def _compile(run: Run) -> bool:
    """Compile the layers before the clock starts, so that speed and time left are right.

    Returns False where the compiler refuses them: then they run as they are.
    """
    context = run.context
    batches = context.batch_of_each_shape(run.prefetcher.prefetch(context, run.state.step + 1)[0])
    seconds = 0.0
    try:
        for batch in batches:
            evaluates = batch is batches[-1]  # evaluation has batches of the largest shape alone
            options = context.chunk_rows, context.objective
            seconds += warm_up(context.model, batch, context.precision, *options, evaluates=evaluates)
    except Exception as error:  # the compiler's own have no common class; any other error comes again in the dry run
        # Many ranks may wait for each other inside the pass that failed.
        if context.world.size > 1 or find_out_of_memory(error):
            raise
        transforms.uncompile_layers(context.model)
        if context.setting.offload_activations:
            offload_layer_inputs(context.model, compiled=False)
        else:
            transforms.apply_activation_budget(context.model, context.setting.activation_budget, compiled=False)
        name, why = type(context.model).__name__, shorten_error(error, 160)
        context.say(f"the layers of {name} are not compiled ({why}): training is slower and takes more memory")
        return False
    context.say(f"layers compiled in {seconds:.0f} s, once for the whole run")
    return True


def _evaluate(run: Run, stop: StopRequest) -> None:
    """Evaluate and sample while a thread writes the checkpoint.

    Weights and states do not change meanwhile, so it needs no copy. A stop leaves the evaluation, which the next start
    repeats, but not the save. Many ranks save first and evaluate afterwards, because their collectives need one order.
    """
    context, state = run.context, run.state
    started_at = time.monotonic()
    if state.saved < state.step and context.world.size > 1:
        if not _save_blocking(run):
            run.checkpoints.record_unsaved(state.step)
        _evaluate_and_sample(run, stop)
    elif state.saved < state.step:
        _evaluate_while_saving(run, stop)
    else:
        _evaluate_and_sample(run, stop)
    state.record_evaluation()
    if state.saved:
        with _tolerate_full_disk(run, "what follows an evaluation"):
            _mark_best_and_prune(run)
    elif context.world.is_main:
        with _tolerate_full_disk(run, "the mark of an evaluation"):
            store.mark_evaluated(context.folder, state.step, journal.flush_journals(context.folder))
    _write_page(run)
    run.metrics.exclude(time.monotonic() - started_at)


def _write_page(run: Run) -> None:
    """Write the run's page; no page is worth a run, so a full disk or a damaged file of an evaluation is an event."""
    if not run.context.world.is_main:
        return
    with _tolerate_full_disk(run, "the page"):
        try:
            write_run_page(run.context.folder, running=True)
        except UserError as error:
            metrics.log_event(run.context, run.state.step, f"the page could not be written: {'; '.join(error.faults)}")


def _refresh_page(run: Run) -> None:
    """Write the page between two evaluations if it is old, so that it shows how far the run is."""
    page, journal_file = RunFolder(run.context.folder).report, RunFolder(run.context.folder).metrics
    if not run.context.world.is_main or not page.is_file() or not journal_file.is_file():
        return
    # What is written takes time by the journal's length, and must not be felt.
    wait_seconds = max(PAGE_SECONDS, journal_file.stat().st_size / PAGE_BYTES_PER_SECOND)
    if time.time() - page.stat().st_mtime > wait_seconds:
        started_at = time.monotonic()
        _write_page(run)
        run.metrics.exclude(time.monotonic() - started_at)


def _evaluate_and_sample(run: Run, stop: StopRequest) -> None:
    with _interruptible(run, stop):
        metrics.evaluate_held_out(run.context, run.state.step)
        if run.state.step:
            knew = run.samples.tokens_per_second
            samples.write_samples(run.context, run.samples, run.state.step)
            if run.context.recipe.train.average is not None and knew is None and run.samples.tokens_per_second:
                run.context.say(describe_cost(run.context.recipe, run.context.prepared, run.samples.tokens_per_second))


def _evaluate_while_saving(run: Run, stop: StopRequest) -> None:
    saving_thread: Future[tuple[Path, float]] | None = None
    with ThreadPoolExecutor(1) as executor:
        with _tolerate_full_disk(run, "the checkpoint"):
            saving_thread = executor.submit(_save, run, _trainer_state(run))
        try:
            _evaluate_and_sample(run, stop)
        finally:
            waits_from = time.monotonic()
            if saving_thread:
                with _tolerate_full_disk(run, "the checkpoint"):
                    _record_save(run, *saving_thread.result())
            run.checkpoints.record_wait(time.monotonic() - waits_from)
    if run.state.saved < run.state.step:
        run.checkpoints.record_unsaved(run.state.step)


def _save_and_prune(run: Run) -> None:
    """Save between two steps; training waits, as the next step would change what is written."""
    started_at = time.monotonic()
    if _save_blocking(run) and run.context.world.is_main:
        with _tolerate_full_disk(run, "what follows a checkpoint"):
            store.prune_checkpoints(run.context.folder)
    run.metrics.exclude(time.monotonic() - started_at)


def _save_blocking(run: Run) -> bool:
    """Save while everything waits; return True if there was room."""
    started_at = time.monotonic()
    run.checkpoints.start_save()
    with _tolerate_full_disk(run, "the checkpoint"):
        _record_save(run, *_save(run, _trainer_state(run)))
    run.checkpoints.record_wait(time.monotonic() - started_at)
    return run.state.saved == run.state.step


def _trainer_state(run: Run) -> dict[str, Any]:
    journals = run.context.world.run_on_main(lambda: journal.flush_journals(run.context.folder))
    return {"step": run.state.step, "journals": journals, **run.state_dict()}


def _save(run: Run, trainer_state: dict[str, Any]) -> tuple[Path, float]:
    """Write a checkpoint, in a thread or not; return its folder and the seconds."""
    context = run.context
    started_at = time.monotonic()
    saved = saving.save(
        context.folder,
        context.model,
        context.base_files,
        context.optimizer,
        trainer_state,
        context.world,
    )
    return saved.folder, time.monotonic() - started_at


def _record_save(run: Run, folder: Path, seconds: float) -> None:
    run.state.record_save()
    run.checkpoints.record_save(seconds)
    if seconds >= SLOW_SAVE_SECONDS:
        run.context.say(f"step {run.state.step}/{len(run.context.steps)} saved {folder} in {seconds:.1f} s")


@contextmanager
def _tolerate_full_disk(run: Run, what: str) -> Generator[None]:
    """Leave a block where the disk is full, and log it; raise UserError if the recipe says stop."""
    context = run.context
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(context.folder).free / 2**20
        kept = (
            f"the checkpoint of step {run.state.saved} is intact" if run.state.saved else "there is no checkpoint yet"
        )
        text = f"the disk of {context.folder} is full ({free:,.0f} MiB free), {what} could not be written; {kept}"
        if context.recipe.train.full_disk == "stop":
            raise UserError(
                f"expert.full_disk: {text}; free some space, then run the same command to resume"
            ) from error
        metrics.log_event(context, run.state.step, text)


def _stop_on_anomaly(run: Run) -> None:
    """End a run whose numbers are bad; its weights are good, because bad updates were refused."""
    if reason := run.anomalies.stop_reason(run.context, run.state.step):
        if run.state.saved < run.state.step:
            _save_and_prune(run)
        raise UserError(reason)


def _mark_best_and_prune(run: Run) -> None:
    """Mark the complete evaluation and the best checkpoint; keep only the last and the best."""
    context, state = run.context, run.state
    if not context.world.is_main:
        return
    if state.evaluated:
        store.mark_evaluated(context.folder, state.step, journal.flush_journals(context.folder))
        _mark_best(run)
    store.prune_checkpoints(context.folder)


def _mark_best(run: Run) -> None:
    """Mark the saved step of lowest eval loss as best; without held-out rows, the last step.

    Step 0, the base model, does not count.
    """
    folder = run.context.folder
    losses = {
        record["step"]: record["loss"]
        for record in journal.read_metrics(folder)
        if record["kind"] == "eval" and record["step"] not in (0, *run.checkpoints.unsaved) and "loss" in record
    }
    best = min(losses, key=lambda step: losses[step]) if losses else run.state.saved
    if store.has_checkpoint(folder, best):
        store.mark_best(folder, best)


def _finish(run: Run) -> None:
    """Write `final/` from the best checkpoint, in the dtype of the base model; never where nothing was trained."""
    context = run.context
    if reason := run.anomalies.refused_all(context):
        raise UserError(reason)
    if run.state.saved < run.state.step:
        raise UserError(
            f"{context.folder}: its disk is full, and the last checkpoint is of step {run.state.saved}; "
            "free some space, then run the same command to repeat the steps after that"
        )
    context.world.run_on_main(lambda: _write_final(run))


def _write_final(run: Run) -> None:
    folder, say = run.context.folder, run.context.say
    _mark_best_and_prune(run)
    best = store.find_checkpoint(folder, "best")
    assert best is not None
    diagnosis = diagnose_run(folder)
    final = RunFolder(folder).final
    averaged = store.average_weight(final) < 1  # and stays so until the weights are asked again
    if not store.has_final_model(folder, best) or (averaged and run.context.recipe.train.average is None):
        store.verify(best)
        form = final_form(folder, dict(run.context.base_files.weights), best.step)
        saving.write_plain(final, best, form, card_text(folder, best.folder))
    _write_page(run)
    _write_card(run)
    waited = run.checkpoints.waited_seconds
    share = waited / max(1e-9, waited + run.metrics.elapsed_seconds)
    say(f"training waited {waited:.1f} s for checkpoints, {share:.1%} of its time")
    metrics.log_conclusion(run.context, run.state.step)
    say(f"final model: {final} ({final_step_phrase(diagnosis, best.step)})")


def _write_card(run: Run) -> None:
    """Write the final model's card again, now with an evaluation of it; like no page, no card is worth a run."""
    with _tolerate_full_disk(run, "the model card"):
        try:
            kept = write_final_card(run.context.folder)
        except UserError as error:
            kept = f"the model card could not be written: {'; '.join(error.faults)}"
        if kept:
            metrics.log_event(run.context, run.state.step, kept)
