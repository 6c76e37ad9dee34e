"""A run that averages base and tuned: what is asked and kept, what a stop leaves, and what `final/` is in the end."""

import gc
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.cli_ranks import run_command
from support.ranks import run_ranks
from support.runs import quiet, settings, small_tree_of, write_rows

from thinktune.checkpoint import find_checkpoint, resolve_model_folder
from thinktune.checkpoint.manifest import manifest_mismatches
from thinktune.checkpoint.store import average_weight
from thinktune.commands.average import average_run
from thinktune.errors import UserError
from thinktune.eval.averaging import asking
from thinktune.eval.averaging.curve import ALL_WEIGHTS, read_curve
from thinktune.eval.completion_store import RecordWriter, read_completions
from thinktune.eval.general_probe import probe_tasks
from thinktune.eval.runner import EvalOptions, evaluate_run
from thinktune.inference.chat_defaults import read_chat_defaults
from thinktune.optim import Optimizer
from thinktune.report import write_run_page
from thinktune.run import RunFolder
from thinktune.train import loop
from thinktune.train.averaging import replace_final
from thinktune.train.context import RunContext
from thinktune.train.final_model import find_both
from thinktune.train.loop import train

ROWS = 48


@pytest.fixture(scope="module")
def few_general():
    """Ask eight general questions: the whole half of the probe is asked by the slow test."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asking, "general_questions", lambda recipe: probe_tasks(recipe.data.system)[:8])
        yield


def make_tree(folder, start, average):
    tree = small_tree_of(folder, start)
    write_rows(folder / "rows.jsonl", {f"organ {n}": f"thing {n}" for n in range(ROWS)})
    tree["data"] |= {"validation": 0.4, "system": "Be brief."}
    tree["train"] |= {"rows_per_step": 8, "epochs": 1, "evaluate_every_steps": 4, "average": average}
    tree["generate"] = {"sample_questions": 0, "evaluate_tokens": 3, "batch_rows": 64}
    return tree


@pytest.fixture(scope="module")
def finished(tmp_path_factory, start, few_general):
    tree = make_tree(tmp_path_factory.mktemp("averaged"), start, 5)
    lines = []
    return tree, train(settings(tree), lines.append), lines


@pytest.fixture
def run(finished, tmp_path):
    """Copy the finished run, as a run of the same recipe elsewhere."""
    tree, folder, _ = finished
    shutil.copytree(folder, tmp_path / "runs" / "small")
    return {**tree, "runs_folder": str(tmp_path / "runs")}, tmp_path / "runs" / "small"


def weights(folder):
    return load_file(folder / "model.safetensors")


def is_average(found, tree, folder, weight):
    """Check a model's weights against those of the base and of the best checkpoint, whole and in fp64."""
    base, tuned = weights(Path(tree["model"]["name"])), weights(find_checkpoint(folder, "best").folder)
    assert found.keys() == base.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(
            tensor.double(), weight * tuned[name].double() + (1 - weight) * base[name].double(), rtol=1e-6, atol=1e-7
        )
    return True


@pytest.mark.slow
def test_every_weight_is_asked_all_questions_and_the_run_says_the_cost_before_and_the_choice_after(finished):
    _tree, folder, lines = finished
    curve = read_curve(folder)
    assert tuple(point.weight for point in curve.points) == ALL_WEIGHTS
    assert (curve.rule, curve.general_rows, curve.max_new_tokens) == (5, 8, 3)
    sides = ["base", *(f"weight-{weight:g}" for weight in ALL_WEIGHTS if weight)]
    for side in sides:
        assert len(read_completions(RunFolder(folder).averaging.completions(side))) == curve.domain_rows + 8
    losses = [point.loss.value for point in curve.points]
    assert losses == sorted(losses, reverse=True)  # so few steps cannot overfit: each bit of them helps
    cost = next(number for number, line in enumerate(lines) if line.startswith("train.average: after the last step 7"))
    assert cost < next(number for number, line in enumerate(lines) if line.startswith("step 0/"))
    assert lines[-1].startswith("final model: ")
    assert f"weight {curve.chosen:g} is chosen" in lines[-2]
    assert not RunFolder(folder).averaged.exists()
    assert average_weight(RunFolder(folder).final) == curve.chosen


@pytest.mark.slow
def test_rows_that_choose_are_asked_in_no_evaluation_and_the_bases_general_replies_are_not_made_twice(run):
    _tree, folder = run
    made = []
    with pytest.MonkeyPatch.context() as patched:
        real = RecordWriter.add
        patched.setattr(RecordWriter, "add", lambda *args: made.append(args[1]) or real(*args))
        report = evaluate_run(folder, quiet, EvalOptions(probe=False, thinking=True))

    def rows(file):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return {line["source"] for line in lines if line["set"] == "held-out"}

    chose, proved = rows(RunFolder(folder).averaging.tasks), rows(RunFolder(folder).evaluation().tasks)
    assert chose
    assert proved
    assert not chose & proved
    assert report["settings"]["choosing_rows"] == len(chose)
    loss = next(row for row in report["sets"][0]["measures"] if row["measure"] == "loss")
    assert loss["rows"] == len(proved)
    assert len(made) == 2 * len(proved)
    general = {task.key for task in probe_tasks("Be brief.")[:8]}
    base = list(read_completions(RunFolder(folder).evaluation().completions("base")).values())
    assert len([record for record in base if record["set"] == "general"]) == len(general)


@pytest.mark.slow
def test_the_final_model_becomes_the_chosen_average_and_the_tuned_one_again(run):
    tree, folder = run
    final = RunFolder(folder).final
    tuned = weights(final)
    replace_final(find_both(folder), 0.5)
    assert is_average(weights(final), tree, folder, 0.5)
    assert resolve_model_folder(folder) == final
    assert not manifest_mismatches(final)
    curve = json.loads(RunFolder(folder).curve.read_text(encoding="utf-8"))
    RunFolder(folder).curve.write_text(json.dumps(curve | {"chosen": 0.5}), encoding="utf-8")
    page = write_run_page(folder).read_text(encoding="utf-8")
    assert "Weight 0.5 is chosen" in page
    assert "0.5 · " in page
    again = {**tree, "train": {**tree["train"], "average": None}}
    train(settings(again), quiet)  # without averaging the run ends with the tuned weights
    assert average_weight(final) == 1
    assert all(weights(final)[name].equal(tensor) for name, tensor in tuned.items())
    assert "The final model now has weight 1" in write_run_page(folder).read_text(encoding="utf-8")


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 40, 100])
def test_a_killed_search_goes_on_after_the_last_reply_to_the_same_curve(run, few_general, at):
    tree, folder = run
    before = read_curve(folder)
    shutil.rmtree(RunFolder(folder).averaging.path)
    shutil.rmtree(folder / "eval")
    real, written = RecordWriter.add, []

    def add(writer, record):
        if len(written) == at:
            writer._file.write('{"key": "torn')
            raise Killed
        written.append(record["key"])
        real(writer, record)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RecordWriter, "add", add)
        with pytest.raises(Killed):
            train(settings(tree), quiet)
    assert read_curve(folder) is None
    assert not manifest_mismatches(RunFolder(folder).final)
    RunFolder(folder).averaged.mkdir()  # as a kill by the system leaves it
    (RunFolder(folder).averaged / "model.safetensors").write_text("half")
    again = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RecordWriter, "add", lambda *args: again.append(args[1]["key"]) or real(*args))
        train(settings(tree), quiet)
    assert not set(written) & {key for key in again if key not in exchanged(folder)}
    after = read_curve(folder)
    assert (after.points, after.chosen, after.reason) == (before.points, before.chosen, before.reason)
    assert not RunFolder(folder).averaged.exists()


def exchanged(folder):
    """Return the keys of replies that were copied from one evaluation to the other."""
    return set(read_completions(RunFolder(folder).evaluation().completions("base")))


@pytest.mark.slow
def test_an_average_of_any_weight_is_a_whole_model_beside_the_final_one_and_can_be_evaluated(run):
    tree, folder = run
    place = average_run(folder, 0.7, quiet)
    assert place == folder / "average-0.7"
    final = RunFolder(folder).final
    assert {path.name for path in place.iterdir()} == {path.name for path in final.iterdir()}
    assert not manifest_mismatches(place)
    assert is_average(weights(place), tree, folder, 0.7)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (place / name).read_bytes() == (final / name).read_bytes()
    assert read_chat_defaults(place, place).system == "Be brief."
    card = (place / "README.md").read_text(encoding="utf-8")
    assert "0.7 of the tuned model's and 0.3 of the base's" in card
    assert "微调后权重占 0.7" in card
    stamp = (place / "model.safetensors").stat().st_mtime_ns
    assert average_run(folder, 0.7, quiet) == place
    assert (place / "model.safetensors").stat().st_mtime_ns == stamp
    evaluate_run(folder, quiet, EvalOptions(probe=False, thinking=True))
    whole = (folder / "eval" / "report.json").read_bytes()
    report = evaluate_run(place, quiet, EvalOptions(probe=False, thinking=True))
    assert report["settings"]["models"]["tuned"]["name"] == "average-0.7"
    assert (folder / "eval" / "report.json").read_bytes() == whole
    assert not (folder / "eval" / "average-0.7" / "base").exists()  # the base's replies are the run's
    assert not manifest_mismatches(place)


@pytest.mark.slow
def test_an_average_is_refused_in_words_where_it_cannot_be_made(run):
    _tree, folder = run
    for weight in (0.0, 1.0, 1.5, -0.1, 0.12345, float("nan")):
        with pytest.raises(UserError, match="WEIGHT: is"):
            average_run(folder, weight, quiet)
    with pytest.raises(UserError, match="is not a run's folder"):
        average_run(folder / "final", 0.5, quiet)
    (folder / "average-0.5").mkdir()
    (folder / "average-0.5" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="has files that thinktune did not write"):
        average_run(folder, 0.5, quiet)
    assert (folder / "average-0.5" / "mine.txt").read_text() == "mine"
    replace_final(find_both(folder), 0.9)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UserError, match="holds no tuned weights to average"):
        average_run(folder, 0.5, quiet)


def test_too_few_held_out_rows_are_refused_before_anything_is_written(tmp_path, start):
    tree = make_tree(tmp_path, start, 5)
    tree["data"]["validation"] = 0.1
    with pytest.raises(UserError, match=r"train\.average: \d rows are held out, but 16 are needed"):
        train(settings(tree), quiet)
    assert not (tmp_path / "runs" / "small").exists()


def test_nothing_of_the_trained_model_is_in_memory_when_the_others_are_asked(tmp_path, start, monkeypatch):
    alive = []

    def look(recipe, say, world, stop):
        gc.collect()
        alive.extend(type(each).__name__ for each in gc.get_objects() if type(each) in (Optimizer, RunContext))

    monkeypatch.setattr(loop, "average_final", look)
    train(settings(make_tree(tmp_path, start, "curve")), quiet)
    assert alive == []


@pytest.mark.slow
def test_with_two_ranks_the_first_one_asks_and_the_other_waits(tmp_path, start):
    tree = make_tree(tmp_path, start, 100)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    [(code, said), (other, silent)] = run_ranks(2, run_command, [str(recipe)])
    assert (code, other) == (0, 0), said
    assert read_curve(tmp_path / "runs" / "small").general_rows == 208
    assert "was chosen: the best on held-out rows" in said
    assert "weight" not in silent


@pytest.mark.slow
def test_a_signal_while_models_are_asked_ends_the_run_with_words_and_the_same_command_goes_on(tmp_path, start):
    tree = make_tree(tmp_path, start, "curve")
    recipe = tmp_path / "small.yaml"
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    command = [sys.executable, "-m", "thinktune", "train", str(recipe)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    for line in started.stdout:
        if line.startswith("weight-0.9: answered"):
            started.send_signal(signal.SIGTERM)
            break
    _, errors = started.communicate(timeout=120)
    folder = tmp_path / "runs" / "small"
    assert started.returncode == 75
    assert "stopped while testing averages of base and tuned" in errors
    assert RunFolder(folder).final.is_dir()
    assert read_curve(folder) is None
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert "weight-0.9: answered" not in done.stdout
    assert read_curve(folder).reason == "curve"
