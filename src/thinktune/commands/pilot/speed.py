"""The share of rows of a pilot: as many as fit into its minutes, by the speed of a run of a few steps."""

import time
from collections.abc import Sequence
from dataclasses import replace

from thinktune.checkpoint import store
from thinktune.commands.pilot import runs
from thinktune.commands.pilot.budget import predict_seconds
from thinktune.commands.pilot.grid import least_share
from thinktune.commands.pilot.rows import EVALUATED_SHARE, PilotRows, steps_of_one_epoch, write_rows
from thinktune.config import Recipe
from thinktune.data import Prepared
from thinktune.errors import Stopped, UserError
from thinktune.progress import Bar, Say, format_duration
from thinktune.run.pilot_folder import Cell, PilotFolder, PilotRun
from thinktune.run.resume import is_locked
from thinktune.tokenization import ChatTokenizer

SPEED_STEPS = 12
LOGGED_STEPS = 4  # between two lines of its journal; the first one holds what is done once, such as compiling
USED_SHARE = 0.7  # of the minutes; the rest is for the probe, and for runs that take longer than foreseen


def share_that_fits(
    recipe: Recipe,
    inputs: tuple[Prepared, ChatTokenizer, PilotFolder],
    grid: tuple[Sequence[float], Sequence[int], float],
    say: Say,
    bar: Bar,
) -> float:
    """Return the share of the training rows with which a grid of rates, epochs and minutes fits, at the measured speed.

    It is at least `least_share`, and at most 1; where even that much is all rows, nothing is measured.
    """
    prepared, tokenizer, folder = inputs
    _, epochs, minutes = grid
    steps = len(steps_of_one_epoch(recipe, prepared))
    least = least_share(steps, min(epochs))
    if least == 1:
        return 1.0
    say(f"speed: {SPEED_STEPS} steps, to choose the share of the rows")
    rows = write_rows(recipe, prepared, tokenizer, folder.rows / "speed", min(1.0, SPEED_STEPS / steps))
    try:
        measured = _measure(replace(rows, recipe=_often_logged(rows.recipe)), recipe, folder, 60 * minutes, bar)
    except Stopped as stopped:
        if not str(stopped).startswith(Stopped.TIME_LIMIT):
            raise
        raise UserError(f"--minutes: is {minutes:g}, but {SPEED_STEPS} steps alone take that long; give more") from None
    share = fitting_share(measured, rows.data.all_epoch_tokens, grid, least)
    say(f"speed: {format_duration(measured.seconds)}; each run gets {100 * share:.0f} % of the training rows")
    return share


def fitting_share(
    measured: PilotRun, all_epoch_tokens: int, grid: tuple[Sequence[float], Sequence[int], float], least: float
) -> float:
    """Return the share with which the runs of a grid take the minutes that they may, rounded down to a hundredth.

    All rates are run with the fewest epochs, and about half of them with more.
    """
    rates, epochs, minutes = grid
    half = (len(rates) + 1) // 2
    cells = len(rates) + half * (len(epochs) - 1)
    passes = len(rates) * min(epochs) + half * (sum(epochs) - min(epochs))
    around = predict_seconds([measured], 0, 0)
    whole = predict_seconds([measured], all_epoch_tokens, passes)
    if around is None or whole is None or whole <= around:
        return least
    left = USED_SHARE * 60 * minutes - cells * around
    share = left / ((whole - around) * (1 + EVALUATED_SHARE))
    return max(least, min(1.0, int(100 * share) / 100))


def _often_logged(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"log_every_steps": LOGGED_STEPS})})


def _measure(rows: PilotRows, own: Recipe, folder: PilotFolder, limit_seconds: float, bar: Bar) -> PilotRun:
    """Make a run of a few steps, and return it with the time and tokens of its steps after the first few."""
    cell = Cell(own.train.learning_rate, 1)
    recipe = runs.cell_recipe(rows, cell, folder, limit_seconds).model_copy(update={"name": "speed"})
    left = folder.run("speed").path  # by a call that was killed or failed: of another recipe, or measured already
    if left.is_dir() and not is_locked(left):
        store.remove_folder(left)
    started_at = time.monotonic()
    failure = runs.train_cell(recipe, folder.recipe("speed"), lambda _: None, bar)
    run = runs.measure(recipe, failure, started_at)
    tokens, seconds = runs.later_steps(recipe.run_folder)
    runs.remove_checkpoints(folder.run("speed"))
    around = run.seconds - run.training_seconds
    return replace(run, trained_tokens=tokens, training_seconds=seconds, seconds=seconds + around)
