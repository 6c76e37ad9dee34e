"""The runs of a pilot: each an ordinary run in a folder of its own, started as the verb train does, then measured."""

import math
import time
from pathlib import Path

from thinktune.checkpoint import store
from thinktune.commands.pilot.choice import MeasuredRun
from thinktune.commands.pilot.probe import free_memory
from thinktune.commands.pilot.rows import PilotRows, evaluation_steps
from thinktune.config import Recipe
from thinktune.config.loading import dump_recipe
from thinktune.errors import Stopped, UserError
from thinktune.files import atomic_write_text
from thinktune.model.device import device_count
from thinktune.progress import Bar, Say
from thinktune.run import Record, RunFolder, diagnose_run, read_metrics
from thinktune.run.journal import read_row_losses
from thinktune.run.pilot_folder import Cell, PilotFolder, PilotRun, read_measured
from thinktune.run.reading import read_environment
from thinktune.run.status import read_status
from thinktune.train import launch_workers, train

# How the sentence begins by which a run ends whose rate destroys it (see `train.anomalies`).
DESTROYED = ("train.learning_rate: ", "model.name: none of the ")


def cell_recipe(rows: PilotRows, cell: Cell, folder: PilotFolder, limit_seconds: float) -> Recipe:
    """Return the recipe of one run, with the schedule of its own length, in the pilot's folder."""
    changes = {
        "learning_rate": cell.learning_rate,
        "epochs": cell.epochs,
        "evaluate_every_steps": evaluation_steps(rows.data, cell.epochs),
        "time_limit": f"{max(1, math.floor(limit_seconds))}s",
    }
    train_config = rows.recipe.train.model_copy(update=changes)
    return rows.recipe.model_copy(update={"train": train_config, "runs_folder": folder.path, "name": cell.name})


def train_cell(recipe: Recipe, file: Path, say: Say, bar: Bar) -> str:
    """Train a run to its end, on all cards of this machine; return why it failed, empty if it did not.

    Raises Stopped where a signal or the time limit ended it, and UserError where something other than its learning rate
    is at fault.
    """
    atomic_write_text(file, dump_recipe(recipe))
    run = RunFolder(recipe.run_folder)
    try:
        _train(recipe, file, say, bar)
    except UserError:
        reason = read_status(run.path).reason if run.is_run else ""
        if not reason.startswith(DESTROYED):
            raise
        return reason
    finally:
        free_memory()
    return ""


def _train(recipe: Recipe, file: Path, say: Say, bar: Bar) -> None:
    if (cards := device_count()) < 2:
        train(recipe, say, bar=bar)
    else:
        train_in_processes(cards, recipe, file)


def train_in_processes(processes: int, recipe: Recipe, file: Path) -> None:
    """Train a run whose recipe a file holds, in processes of this machine.

    Raises Stopped as `train` does, with the reason first, and UserError where they fail; they print why themselves.
    """
    run = RunFolder(recipe.run_folder)
    before = changed_at(run)
    code = launch_workers(processes, file, ())
    if code == Stopped.EXIT_CODE:
        raise Stopped(f"{stop_reason(run, before)}: stopped, in {run.path}; run the same command to resume")
    if code:
        raise UserError(f"{file}: its training ended with exit code {code}; see the error above")


def stop_reason(run: RunFolder, before: int | None) -> str:
    """Return why processes stopped a run: what it recorded, if it did since its journal was as `changed_at` says.

    One that is stopped before it trains records nothing, and how a former start ended is still the last of its lines.
    """
    reason = read_status(run.path).reason if changed_at(run) != before else ""
    return reason or "a signal"


def changed_at(run: RunFolder) -> int | None:
    """Return when a run's journal was written last, in nanoseconds; None where there is none."""
    return run.metrics.stat().st_mtime_ns if run.metrics.is_file() else None


def measure(recipe: Recipe, failure: str, started_at: float) -> PilotRun:
    """Return what a run that has ended showed, without the probe; `started_at` is the monotonic time of its start."""
    folder = recipe.run_folder
    metrics, diagnosis = read_metrics(folder), diagnose_run(folder)
    trained = [record for record in metrics if record["kind"] == "train"]
    loss = None if failure or not math.isfinite(diagnosis.best_loss) else diagnosis.best_loss
    return PilotRun(
        learning_rate=recipe.train.learning_rate,
        epochs=recipe.train.epochs,
        steps=_planned_steps(folder, trained),
        last_step=max((record["step"] for record in metrics), default=0),
        best_step=diagnosis.best_step,
        loss=loss,
        state="failed" if failure else diagnosis.state,
        trained_tokens=sum(record["tokens"] for record in trained),
        training_seconds=float(trained[-1]["seconds"]) if trained else 0.0,
        seconds=time.monotonic() - started_at,
        failure=failure,
    )


def _planned_steps(folder: Path, trained: list[Record]) -> int:
    planned = read_environment(folder).get("steps")
    return planned if isinstance(planned, int) else trained[-1]["step"] if trained else 0


def read_run(folder: PilotFolder, cell: Cell) -> MeasuredRun | None:
    """Read what a run showed, with the losses of its rows; None where it is not measured yet."""
    run = read_measured(folder.measured(cell.name))
    if run is None:
        return None
    return MeasuredRun(run, read_row_losses(folder.run(cell.name).path).get(run.best_step, {}))


def base_loss(folder: PilotFolder, cell: Cell) -> float | None:
    """Return the loss of the base on the held-out rows, as the first evaluation of a run measured it."""
    loss = diagnose_run(folder.run(cell.name).path).base_loss
    return loss if math.isfinite(loss) else None


def base_rows(folder: PilotFolder, cell: Cell) -> dict[str, tuple[float, int]]:
    """Return the losses of the base on the held-out rows, as the first evaluation of a run measured them."""
    return read_row_losses(folder.run(cell.name).path).get(0, {})


def later_steps(folder: Path) -> tuple[int, float]:
    """Return tokens and seconds of a run's steps after its first line of metrics; of all steps where there is one."""
    trained = [record for record in read_metrics(folder) if record["kind"] == "train"]
    later = trained[1:] or trained
    before = float(trained[0]["seconds"]) if len(trained) > 1 else 0.0
    return sum(record["tokens"] for record in later), float(trained[-1]["seconds"]) - before if trained else 0.0


def remove_checkpoints(run: RunFolder) -> None:
    """Remove the checkpoints of a run that is measured: of a large model they are larger than all else."""
    for pointer in (run.last, run.best, run.evaluated):
        pointer.unlink(missing_ok=True)
    if run.checkpoints.is_dir():
        store.remove_folder(run.checkpoints)
