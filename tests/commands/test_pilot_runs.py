"""The runs of a pilot, one by one: how they end on several cards, and a speed run that another call has left."""

import itertools
from pathlib import Path

import pytest
from support.prepared_rows import write
from support.runs import quiet, settings

from thinktune.commands.pilot.rows import prepare_rows, write_rows
from thinktune.commands.pilot.runs import cell_recipe, changed_at, stop_reason, train_in_processes
from thinktune.commands.pilot.speed import share_that_fits
from thinktune.config.loading import dump_recipe
from thinktune.errors import Stopped
from thinktune.progress import no_bar
from thinktune.run import RunFolder, read_metrics
from thinktune.run.pilot_folder import Cell, pilot_folder
from thinktune.run.status import RunStatus, record_ending


@pytest.fixture
def recipe_of(tree):
    pairs = itertools.product("abcdef", "mnop")
    rows = [{"question": f"What is {a} and {b}?", "think": f"{a} then {b}.", "answer": f"{a}{b}"} for a, b in pairs]
    write(Path(tree["data"]["name"]), rows)

    def make(**changes):
        return settings(tree, train={"rows_per_step": 4, "log_every_steps": 1}, **changes)

    return make


def test_a_speed_run_that_was_left_is_made_anew_for_the_recipe_as_it_is_now(recipe_of, tokenizer):
    for tokens in (200, 150):  # the second call finds a run of another recipe, which no pilot has recorded
        recipe = recipe_of(data={"max_tokens": tokens})
        folder = pilot_folder(recipe.runs_folder, recipe.name)
        inputs = (prepare_rows(recipe, tokenizer, quiet), tokenizer, folder)
        share_that_fits(recipe, inputs, ([1e-3], [50], 60.0), quiet, no_bar)
        assert f"max_tokens: {tokens}" in folder.run("speed").recipe.read_text(encoding="utf-8")
        assert [record["step"] for record in read_metrics(folder.run("speed").path) if record["kind"] == "train"]


@pytest.mark.slow
def test_on_several_cards_the_end_of_the_time_is_told_from_a_signal(recipe_of, tokenizer, tmp_path):
    recipe = recipe_of()
    folder = pilot_folder(recipe.runs_folder, recipe.name)
    rows = write_rows(recipe, prepare_rows(recipe, tokenizer, quiet), tokenizer, folder.rows, 1.0)
    cell = cell_recipe(rows, Cell(1e-3, 5000), folder, 25.0)
    file = tmp_path / "cell.yaml"
    file.write_text(dump_recipe(cell), encoding="utf-8")
    with pytest.raises(Stopped, match=rf"^{Stopped.TIME_LIMIT}: stopped, in "):
        train_in_processes(2, cell, file)
    assert len(read_metrics(cell.run_folder)) > 2


def test_a_stop_is_told_by_what_this_start_recorded_and_not_by_a_former_one(tmp_path):
    run = RunFolder(tmp_path)
    assert stop_reason(run, changed_at(run)) == "a signal"
    record_ending(run.path, RunStatus("stopped", 3, Stopped.TIME_LIMIT))
    assert stop_reason(run, None) == Stopped.TIME_LIMIT
    assert stop_reason(run, changed_at(run)) == "a signal"
