"""A run is known by its content: moved, renamed, or with its rows and model elsewhere it resumes to the same end."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.runs import quiet, settings, stop_in_step, write_rows

from thinktune.cli import main
from thinktune.errors import Stopped, UserError
from thinktune.eval.runner import EvalOptions, evaluate_run
from thinktune.run import RunFolder, journal
from thinktune.train import train


@pytest.fixture
def tree(tree, start, tmp_path):
    """Give the run a base model of its own, which tests move and change."""
    shutil.copytree(start, tmp_path / "base")
    return {**tree, "model": {"name": str(tmp_path / "base")}}


@pytest.fixture
def stopped(tree, monkeypatch):
    recipe = settings(tree)
    with monkeypatch.context() as patch:
        stop_in_step(patch, 4)
        with pytest.raises(Stopped):
            train(recipe, quiet)
    return recipe


def weights(folder):
    return load_file(RunFolder(folder).final / "model.safetensors")


def same_end(folder, other):
    mine, theirs = weights(folder), weights(other)
    return mine.keys() == theirs.keys() and all(mine[name].equal(theirs[name]) for name in mine)


def change_a_weight(base):
    """Change one weight in the middle of the file, whose size stays."""
    file = base / "model.safetensors"
    held = load_file(file)
    name = sorted(held)[len(held) // 2]
    held[name].view(-1)[0] += 1
    save_file(held, file, {"format": "pt"})


def test_a_run_with_all_its_inputs_moved_resumes_to_the_same_end(tree, stopped, tmp_path, tried):
    whole = train(settings(tree, name="whole"), quiet)
    there = tmp_path / "elsewhere"
    there.mkdir()
    shutil.move(stopped.run_folder, there / "runs" / "renamed")
    shutil.move(tree["model"]["name"], there / "model")
    Path(tree["data"]["name"]).rename(there / "other.jsonl")
    moved = settings(
        tree,
        name="renamed",
        runs_folder=str(there / "runs"),
        model={"name": str(there / "model")},
        data={"name": str(there / "other.jsonl")},
    )
    folder = train(moved, quiet)
    assert same_end(folder, whole)
    [text] = [record["text"] for record in journal.read_metrics(folder) if record["kind"] == "event"]
    for key in ("name (was 'small'", "runs_folder (was", "model.name (was", "data.name (was"):
        assert key in text
    assert evaluate_run(folder, quiet, EvalOptions(probe=False))["sets"]
    tried("a run, its rows and its model moved and renamed")


def test_a_run_is_the_same_through_a_link_a_relative_path_and_as_a_copy(tree, stopped, tmp_path, monkeypatch):
    whole = train(settings(tree, name="whole"), quiet)
    for copy in ("one", "two"):
        shutil.copytree(tree["runs_folder"], tmp_path / copy)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    for place in ("link", "two"):
        assert same_end(train(settings(tree, runs_folder=place), quiet), whole)


@pytest.mark.parametrize(
    "change",
    [
        {"serve": {"notice": "not medical advice"}},
        {"plan": {"card": "24GiB"}},
        {"data": {"ignore": ["keypoint"]}},
        {"data": {"faults": {"fragment": "keep"}}},
        {"data": {"columns": {"reasoning": "think", "answer": "answer"}}},
    ],
    ids=str,
)
def test_a_setting_that_decides_nothing_does_not_refuse_the_run(tree, stopped, change):
    tree = {**tree, "serve": {}, "plan": {}}
    said = []
    assert train(settings(tree, **change), said.append).joinpath("final").is_dir()
    assert [line for line in said if line.startswith("resumed with a change: ")]


def test_a_setting_of_the_rows_that_does_change_them_is_named_with_them(tree, stopped):
    write_rows(Path(tree["data"]["name"]), {"heart": "blood", "lung": "air", "eye": "light"})
    with pytest.raises(UserError, match=r"other data .*rows gone.*changed settings: data\.ignore \(was"):
        train(settings(tree, data={"ignore": ["keypoint"]}), quiet)


def test_held_out_rows_in_another_file_of_the_same_content_are_the_same(tree, tmp_path, monkeypatch):
    rows = write_rows(tmp_path / "held.jsonl", {"hand": "things", "foot": "ground"})
    recipe = settings(tree, data={"validation": str(rows)})
    with monkeypatch.context() as patch:
        stop_in_step(patch, 4)
        with pytest.raises(Stopped):
            train(recipe, quiet)
    moved = settings(tree, data={"validation": str(rows.rename(tmp_path / "other.jsonl"))})
    assert train(moved, quiet).joinpath("final").is_dir()
    with pytest.raises(UserError, match=r"changed: data\.validation"):
        train(settings(tree, data={"validation": 0.3}), quiet)


def test_other_base_weights_are_refused_by_train_and_eval_and_told_by_report(tree, stopped, monkeypatch, capsys, tried):
    base = Path(tree["model"]["name"])
    former = (base / "model.safetensors").read_bytes()
    change_a_weight(base)
    changed = r"the weights of its base .*base have changed since the run started"
    with pytest.raises(UserError, match=changed):
        train(stopped, quiet)
    (base / "model.safetensors").write_bytes(former)
    folder = train(stopped, quiet)
    change_a_weight(base)
    with pytest.raises(UserError, match=changed):
        evaluate_run(folder, quiet, EvalOptions(probe=False))
    monkeypatch.setattr("sys.argv", ["thinktune", "report", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "have changed since the run started; a new evaluation would" in capsys.readouterr().err
    shutil.rmtree(base)
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == ""
    tried("one weight of the base changed", "nothing; the run is refused as long as it lasts")
