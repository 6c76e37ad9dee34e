"""A pilot from its first run to its recommendation; killed anywhere, the same call goes on."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from thinktune.commands.pilot import choice, grid, probe, rows, runs
from thinktune.commands.pilot.budget import predict_seconds
from thinktune.commands.pilot.choice import MeasuredRun
from thinktune.commands.pilot.settings import recorded_share, refuse_other_pilot
from thinktune.commands.pilot.speed import share_that_fits
from thinktune.config import Recipe
from thinktune.errors import Stopped
from thinktune.eval import Task
from thinktune.files import write_json
from thinktune.hub import locate_model
from thinktune.inference.requests import GenerationError
from thinktune.model.device import hold_own_cards
from thinktune.progress import Bar, Say, format_duration
from thinktune.report.pilot_page import write_pilot_page
from thinktune.run.pilot_folder import (
    Cell,
    LeftOut,
    LeftOutBecause,
    PilotFolder,
    PilotResult,
    pilot_folder,
    read_right,
    write_measured,
    write_result,
)
from thinktune.tokenization.model_template import OWN, read_tokenizer_with_notes
from thinktune.train.own_answers import make_own_answers

FOUND = ("train.learning_rate", "train.epochs")  # settings that a pilot recommends


@dataclass(frozen=True, slots=True)
class PilotOptions:
    """Options of `thinktune pilot`, as they are typed; None means the default of `commands.pilot.grid`."""

    rates: str | None = None
    epochs: str | None = None
    share: float | None = None
    minutes: float = 60.0
    wait: bool = False


@dataclass(slots=True)
class _Pilot:
    """A pilot at work: what stands fixed, and the runs measured so far."""

    recipe: Recipe
    typed: tuple[Path, Sequence[str]]
    folder: PilotFolder
    rates: Sequence[float]
    epochs: Sequence[int]
    minutes: float
    rows: rows.PilotRows
    questions: Sequence[Task]
    thinking: bool
    say: Say
    bar: Bar
    started_at: float
    spent_seconds: float = 0.0  # by runs of former calls
    base_right: tuple[bool, ...] = ()
    measured: dict[Cell, MeasuredRun] = field(default_factory=dict[Cell, MeasuredRun])
    left_out: dict[Cell, LeftOutBecause] = field(default_factory=dict[Cell, LeftOutBecause])

    @property
    def seconds(self) -> float:
        """Seconds used so far, those of runs of former calls included."""
        return self.spent_seconds + time.monotonic() - self.started_at

    @property
    def seconds_left(self) -> float:
        """Seconds left within the bound."""
        return 60 * self.minutes - self.seconds


def pilot(recipe: Recipe, typed: tuple[Path, Sequence[str]], options: PilotOptions, say: Say, bar: Bar) -> PilotResult:
    """Run a recipe's pilot and return what it showed; its page and figures are written after every run.

    `typed` are the recipe's path and overrides, as they were typed, for the command that comes next. Raises UserError
    for what the user must fix, and Stopped where a signal ended it.
    """
    own = recipe.train
    rates, epochs = grid.parse_grid(
        options.rates, options.epochs, options.share, options.minutes, (own.learning_rate, own.epochs)
    )
    folder = pilot_folder(recipe.runs_folder, recipe.name or "run")
    with ExitStack() as stack:
        stack.enter_context(folder.locked())
        source, trusted = locate_model(recipe), recipe.model.trust_remote_code
        tokenizer, _ = read_tokenizer_with_notes(source, trust_remote_code=trusted, template=recipe.model.template)
        stack.enter_context(hold_own_cards(say, wait=options.wait))
        started_at = time.monotonic()
        make_own_answers(recipe, tokenizer, say)
        prepared = rows.prepare_rows(recipe, tokenizer, say)
        share = options.share or recorded_share(folder)
        if share is None:
            share = share_that_fits(recipe, (prepared, tokenizer, folder), (rates, epochs, options.minutes), say, bar)
        refuse_other_pilot(recipe, folder, prepared.fingerprint, source, share)
        written = rows.write_rows(recipe, prepared, tokenizer, folder.rows, share)
        at_work = _Pilot(
            recipe=recipe,
            typed=typed,
            folder=folder,
            rates=rates,
            epochs=epochs,
            minutes=options.minutes,
            rows=written,
            questions=probe.choose_questions(recipe.data.system, prepared.train.examples()),
            thinking=probe.asks_thinking(tokenizer),
            say=say,
            bar=bar,
            started_at=started_at,
        )
        _read_former_runs(at_work)
        _ask_base(at_work, source)
        _race(at_work)
        return _publish(at_work, finished=True)


def _read_former_runs(pilot: _Pilot) -> None:
    for epochs in pilot.epochs:
        for rate in pilot.rates:
            cell = Cell(rate, epochs)
            if found := runs.read_run(pilot.folder, cell):
                pilot.measured[cell] = found
                runs.remove_checkpoints(pilot.folder.run(cell.name))  # a kill may have come before
    pilot.spent_seconds = sum(each.run.seconds for each in pilot.measured.values())
    if pilot.measured:
        pilot.say(f"{len(pilot.measured)} runs are already measured, in {pilot.folder.path}")


def _ask_base(pilot: _Pilot, source: Path) -> None:
    """Ask the base the questions, unless it answered these before."""
    places = [task.source for task in pilot.questions]
    right = read_right(pilot.folder.base)
    if right is None or list(right) != places:
        pilot.say(f"probe: {len(places)} general questions, first for the base")
        asked = (source, pilot.recipe.model.template)
        try:
            answered = probe.answer_questions(asked, pilot.questions, pilot.recipe, pilot.thinking, pilot.say)
        except GenerationError as error:  # it can be trained all the same
            pilot.say(f"probe: not asked, so forgetting is not measured: {'; '.join(error.faults)}")
            pilot.questions = ()
            return
        right = dict(zip(places, answered, strict=True))
        write_json(pilot.folder.base, right)
    pilot.base_right = tuple(right.values())
    if probe.has_nothing_to_lose(pilot.base_right):
        pilot.say(f"probe: the base answers {sum(pilot.base_right)} of {len(places)}; there is nothing to forget")


def _race(pilot: _Pilot) -> None:
    """Run all rates with the fewest epochs, and those that go on with more."""
    going = list(pilot.rates)
    for epochs in pilot.epochs:
        for rate in grid.from_the_middle(going, pilot.recipe.train.learning_rate):
            _run_cell(pilot, Cell(rate, epochs))
        for rate in pilot.rates:
            if rate not in going and Cell(rate, epochs) not in pilot.measured:
                pilot.left_out.setdefault(Cell(rate, epochs), "worse")
        stage = {rate: found for rate in going if (found := pilot.measured.get(Cell(rate, epochs)))}
        unknown = [rate for rate in going if rate not in stage]  # for lack of time; the next runs would take longer
        going = [*choice.rates_that_go_on(going, stage), *unknown]


def _run_cell(pilot: _Pilot, cell: Cell) -> None:
    """Make and measure one run, unless it was made before or does not fit."""
    if cell in pilot.measured:
        return
    done = [each.run for each in pilot.measured.values()]
    needed = predict_seconds(done, pilot.rows.data.epoch_tokens, cell.epochs)
    if pilot.seconds_left <= (needed or 0.0):
        about = f"about {format_duration(needed)}, more than is left" if needed else "no time is left"
        pilot.say(f"{cell.name}: left out ({about} of --minutes {pilot.minutes:g})")
        pilot.left_out[cell] = "time"
        return
    started_at = time.monotonic()
    recipe = runs.cell_recipe(pilot.rows, cell, pilot.folder, pilot.seconds_left)
    pilot.say(f"{cell.name}: run {len(done) + 1}, {format_duration(pilot.seconds_left)} left")
    try:
        failure = runs.train_cell(recipe, pilot.folder.recipe(cell.name), _shorter(pilot), pilot.bar)
    except Stopped as stopped:
        if not str(stopped).startswith(Stopped.TIME_LIMIT) and pilot.seconds_left > 0:
            raise Stopped(f"{cell.name}: {stopped}") from None
        pilot.say(f"{cell.name}: the time was up; a larger --minutes continues with it")
        pilot.left_out[cell] = "time"
        return
    run = runs.measure(recipe, failure, started_at)
    if not failure and not probe.has_nothing_to_lose(pilot.base_right):
        final = pilot.folder.run(cell.name).final, OWN
        right = probe.answer_questions(final, pilot.questions, pilot.recipe, pilot.thinking, pilot.say)
        run = replace(run, right=right, seconds=time.monotonic() - started_at)
    write_measured(pilot.folder.measured(cell.name), run)
    found = runs.read_run(pilot.folder, cell)
    assert found is not None
    pilot.measured[cell] = found
    runs.remove_checkpoints(pilot.folder.run(cell.name))
    loss = "no finite loss" if run.loss is None else f"held-out loss {run.loss:.4f}"
    known = f", {sum(run.right)} of {len(run.right)} general questions" if run.right else ""
    pilot.say(f"{cell.name}: {run.failure or loss + known} in {format_duration(run.seconds)}")
    _publish(pilot, finished=False)


def _shorter(pilot: _Pilot) -> Say:
    """Return a printer that keeps evaluations and events, and of the first run what it says before its first step."""
    is_first = not pilot.measured

    def say(line: str) -> None:
        is_step = line.startswith("step ")
        if not any(part in line for part in (" tokens/s", " saved ")) and (is_first or is_step):
            pilot.say(f"  {line}")

    return say


def _publish(pilot: _Pilot, *, finished: bool) -> PilotResult:
    """Write figures and page of what is known so far."""
    cells = sorted(pilot.measured, key=lambda cell: (cell.epochs, cell.learning_rate))
    compared = choice.compare_runs([pilot.measured[cell] for cell in cells])
    chosen = choice.choose(compared)
    own, first = pilot.recipe.train, next(iter(cells), None)
    if chosen is not None and first is not None:
        found = pilot.measured[cells[chosen]]
        base = runs.base_rows(pilot.folder, first)
        chosen = chosen if base.keys() != found.rows.keys() or choice.is_clearly_below(found.rows, base) else None
    result = PilotResult(
        name=pilot.folder.path.name,
        recipe=str(pilot.typed[0]),
        overrides=[text for text in pilot.typed[1] if text.partition("=")[0] not in FOUND],
        learning_rate=own.learning_rate,
        epochs=own.epochs,
        schedule=own.schedule,
        data=pilot.rows.data,
        rates=pilot.rates,
        epochs_tried=pilot.epochs,
        runs=compared,
        left_out=[LeftOut(cell.learning_rate, cell.epochs, why) for cell, why in pilot.left_out.items()],
        chosen=chosen,
        base_loss=runs.base_loss(pilot.folder, first) if first else None,
        probe_questions=len(pilot.questions),
        base_right=sum(pilot.base_right),
        probe_thinking=pilot.thinking,
        minutes=pilot.minutes,
        seconds=pilot.seconds,
        finished=finished,
    )
    write_result(pilot.folder, result)
    write_pilot_page(pilot.folder, result)
    return result
