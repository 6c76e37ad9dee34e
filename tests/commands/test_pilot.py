"""The verb pilot: it resumes where it was killed, keeps to its time, and finds a rate as good as a full grid's best."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.card_locks import is_cpu_in_use
from support.runs import quiet, settings

from thinktune.commands.pilot import choice
from thinktune.commands.pilot.race import PilotOptions, pilot
from thinktune.commands.pilot.rows import prepare_rows, write_rows
from thinktune.config.loading import dump_recipe, load_recipe
from thinktune.data import prepare
from thinktune.demo import pipeline
from thinktune.errors import UserError
from thinktune.progress import no_bar
from thinktune.run import diagnose_run
from thinktune.run.journal import read_row_losses
from thinktune.run.pilot_folder import Cell, pilot_folder
from thinktune.run.status import read_status
from thinktune.train import train

GRID = {"rates": "1e-3,4e-3", "epochs": "1", "share": 1.0}


@pytest.fixture
def recipe_of(tree):
    def make(count=16, **changes):
        pairs = list(itertools.product("abcdefgh", "mnopqr"))[:count]
        rows = [{"question": f"What is {a} and {b}?", "think": f"{a} then {b}.", "answer": f"{a}{b}"} for a, b in pairs]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        Path(tree["data"]["name"]).write_text(lines, encoding="utf-8")
        return settings(tree, train={"rows_per_step": 4, "log_every_steps": 1}, **changes)

    return make


def run(recipe, say=quiet, **options):
    return pilot(
        recipe, (Path("mine.yaml"), ["train.epochs=3", "name=small"]), PilotOptions(**{**GRID, **options}), say, no_bar
    )


def folder_of(recipe):
    return pilot_folder(recipe.runs_folder, recipe.name)


def timeless(result):
    """Return a result without what differs from one time to the next."""
    runs = [replace(each, run=replace(each.run, seconds=0, training_seconds=0)) for each in result.runs]
    return replace(result, runs=runs, seconds=0, name="")


def test_a_pilot_recommends_a_run_keeps_what_it_made_and_goes_on_with_a_larger_grid(recipe_of):
    recipe = recipe_of()
    held = []
    first = run(recipe, lambda _line: held.append(is_cpu_in_use()), rates="4e-3")
    assert held[-1], "who waits for the card sees a pilot, before, in and after its runs"
    assert held[held.index(True) :].count(False) == 0
    assert not is_cpu_in_use()
    assert first.runs[first.chosen].run.cell == Cell(4e-3, 1)
    assert first.base_loss > first.runs[0].run.loss
    folder = folder_of(recipe)
    made = folder.run("rate-4e-3-epochs-1")
    assert read_status(made.path).state == "finished"
    assert not made.checkpoints.exists()
    assert diagnose_run(made.path).best_loss == first.runs[0].run.loss
    assert first.overrides == ["name=small"], "what it recommends replaces what was typed"
    assert "learning_rate: 4e-3" in folder.report.read_text(encoding="utf-8")
    assert not recipe.run_folder.exists(), "the recipe's own run is not touched"
    said = []
    again = run(recipe, said.append, minutes=1000)
    assert [each.run.cell for each in again.runs] == [Cell(1e-3, 1), Cell(4e-3, 1)]
    assert again.runs[1].run == first.runs[0].run
    assert again.runs[again.chosen].run.cell == Cell(4e-3, 1)
    assert not [line for line in said if line.startswith("rate-4e-3-epochs-1: run")]
    with pytest.raises(UserError, match=r"expert\.rows_per_step \(was 4, is 2\).*name=small-2"):
        run(recipe.model_copy(update={"train": recipe.train.model_copy(update={"rows_per_step": 2})}))
    with pytest.raises(UserError, match=r"--share \(was 1, is 0.5\)"):
        run(recipe, share=0.5)


def test_the_rows_of_a_pilot_are_the_recipes_own_tokens(recipe_of, tokenizer, tmp_path):
    recipe = recipe_of(32, data={"validation": 0.3, "silent_share": 0.3, "system": "Be brief."})
    prepared = prepare_rows(recipe, tokenizer, quiet)
    for share in (1.0, 0.5):
        written = write_rows(recipe, prepared, tokenizer, tmp_path, share)
        part = prepare(written.recipe, tokenizer)
        for mine, whole in ((part.train, prepared.train), (part.validation, prepared.validation)):
            ours, all_rows = ([row.ids.tolist() for row in rows.replies()] for rows in (mine, whole))
            assert [ids for ids in all_rows if ids in ours] == ours
        assert len(part.train) == written.data.train_rows == round(share * len(prepared.train))
        assert len(part.validation) == len(prepared.validation)


def test_rows_of_several_sources_keep_their_shares_and_settings(recipe_of, tokenizer, tmp_path):
    own = recipe_of(32, data={"validation": 0.3}).data
    other = {"name": "bundled:general", "validation": 0.0, "share": 0.4, "max_tokens": 400}
    tree = json.loads(json.dumps(recipe_of(32).model_dump(mode="json")))
    tree["other_sources"] = [{**tree["data"], **other, "columns": {}}]
    tree["data"] = own.model_dump(mode="json")
    recipe = type(recipe_of()).model_validate(tree)
    prepared = prepare_rows(recipe, tokenizer, quiet)
    written = write_rows(recipe, prepared, tokenizer, tmp_path, 0.5)
    part = prepare(written.recipe, tokenizer)
    assert [source.share for source in written.recipe.sources] == [None, 0.4]
    assert written.recipe.data.max_tokens == own.max_tokens
    assert len(part.train) == pytest.approx(len(prepared.train) / 2, abs=2)
    assert len(part.validation) == len(prepared.validation)


def test_without_held_out_rows_a_pilot_has_nothing_to_compare(recipe_of):
    with pytest.raises(UserError, match=r"data\.validation: holds out no rows"):
        run(recipe_of(data={"validation": 0.0}))


@pytest.mark.slow
@pytest.mark.parametrize("line", ["probe: ", "rate-1e-3-epochs-1: run", "  step 2/3 eval", "rate-1e-3-epochs-1: held", "rate-4e-3-epochs-2: run"])  # fmt: skip
def test_killed_anywhere_the_same_pilot_goes_on_to_the_same_figures(recipe_of, line):
    options = {"epochs": "1,2"}
    whole = run(recipe_of(name="whole"), **options)

    def say(text):
        if text.startswith(line):
            raise KeyboardInterrupt

    recipe = recipe_of()
    with pytest.raises(KeyboardInterrupt):
        run(recipe, say, **options)
    said = []
    resumed = run(recipe, said.append, **options)
    assert timeless(resumed) == timeless(whole)
    for each in resumed.runs:
        name = each.run.cell.name
        mine, theirs = (read_row_losses(folder.run(name).path) for folder in (folder_of(recipe), folder_of(recipe_of(name="whole"))))  # fmt: skip
        assert mine == theirs


@pytest.mark.slow
def test_a_rate_that_destroys_the_model_is_a_figure_and_not_the_end(recipe_of):
    recipe = recipe_of(48)
    result = run(recipe, rates="4e-3,1e5", epochs="2")
    by_rate = {each.run.learning_rate: each for each in result.runs}
    assert result.runs[result.chosen].run.learning_rate == 4e-3
    assert not by_rate[1e5].level
    assert by_rate[1e5].run.state in ("failed", "worse")
    assert by_rate[1e5].run.last_step < by_rate[1e5].run.steps, "the rule of overfitting ends it early"
    # With rare evaluations the refused steps end it first.
    broken = run(recipe_of(48, name="broken", data={"validation": 0.5}), rates="1e30", epochs="5")
    [failed] = broken.runs
    assert (failed.run.state, failed.run.loss, broken.chosen) == ("failed", None, None)
    assert failed.run.failure.startswith("train.learning_rate: is 1e+30, and no gradient")


@pytest.mark.slow
def test_what_does_not_fit_into_the_minutes_is_left_out_and_made_later(recipe_of):
    recipe = recipe_of(48)
    said = []
    short = run(recipe, said.append, epochs="1,2000", minutes=2)
    assert {each.run.epochs for each in short.runs} == {1}
    assert {(each.epochs, each.because) for each in short.left_out} >= {(2000, "time")}
    assert any("left out (about" in line for line in said)
    assert short.chosen is not None
    cut = run(recipe_of(48, name="cut"), rates="1e-3", epochs="2000", minutes=0.2)
    assert (len(cut.runs), cut.chosen) == (0, None)
    assert [each.because for each in cut.left_out] == ["time"]
    later = run(recipe, epochs="1,2", minutes=100)
    assert not [each for each in later.left_out if each.because == "time"]


@pytest.mark.slow
def test_without_a_share_as_many_rows_are_taken_as_the_measured_speed_allows(recipe_of):
    recipe, said = recipe_of(48), []
    first = run(recipe, said.append, share=None, rates="4e-3", epochs="20")
    assert [line for line in said if line.startswith("speed: ")]
    assert 0.3 < first.data.share <= 1
    assert first.data.train_rows == round(first.data.share * first.data.all_train_rows)
    again = run(recipe, said.append, share=None, rates="2e-3,4e-3", epochs="1,20", minutes=1)
    assert len([line for line in said if line.startswith("speed: ")]) == 2, "what was chosen stays"
    assert again.data == first.data


@pytest.mark.slow
def test_the_verb_prints_figures_and_lines_for_the_recipe(recipe_of, tmp_path):
    (tmp_path / "small.yaml").write_text(dump_recipe(recipe_of()), encoding="utf-8")
    command = [sys.executable, "-m", "thinktune", "pilot", "small.yaml", "--rates", "4e-3", "--epochs", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    for text in ("Recommended: learning_rate 4e-3 and epochs 1.", "  learning_rate: 4e-3  # pilot: ", "report: "):
        assert text in done.stdout
    wrong = subprocess.run([*command[:-3], "fast"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (wrong.returncode, "--rates: is 'fast'" in wrong.stderr) == (2, True)


RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)  # a quarter to four times the demo's own


@pytest.mark.slow
def test_on_the_demo_it_finds_a_rate_level_with_the_best_of_a_full_grid(tmp_path, monkeypatch):
    """The full grid has all rows; the pilot sees a share. Fewer epochs than the demo's, for the sake of the time."""
    monkeypatch.chdir(tmp_path)
    folder = Path("demo")
    pipeline.write_rows(folder / "rows")
    pipeline.make_initial_model(folder)
    for name in ("base", "expert"):
        text = pipeline.read_text(f"{name}.yaml").replace(pipeline.RECIPE_FOLDER, folder.as_posix())
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    train(load_recipe(folder / "base.yaml"), quiet)
    few = ["train.epochs=4", "generate.sample_questions=0"]
    expert = load_recipe(folder / "expert.yaml", few)
    found = pilot(expert, (folder / "expert.yaml", few), PilotOptions(share=0.5), quiet, no_bar)
    rate = found.runs[found.chosen].run.learning_rate
    assert rate in RATES
    rows = {}
    for each in RATES:
        made = train(
            load_recipe(folder / "expert.yaml", [*few, f"train.learning_rate={each}", f"name=full-{each:g}"]), quiet
        )
        rows[each] = read_row_losses(made)[diagnose_run(made).best_step]
    means = {each: sum(loss * count for loss, count in own.values()) for each, own in rows.items()}
    assert choice.is_level(rows[min(means, key=means.get)], rows[rate]), (rate, means)
