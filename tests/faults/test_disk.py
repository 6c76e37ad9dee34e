"""Full disks: refused before the run; while it trains, the last checkpoint stays and nothing is half written."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.runs import equal, quiet, settings, without_times

from thinktune.checkpoint import store
from thinktune.errors import UserError
from thinktune.run import RunFolder, journal
from thinktune.train import train

DISK_BYTES = 24 * 2**20  # room for many checkpoints of the small run, of 1.1 MB each


@pytest.fixture
def small_needs(monkeypatch):
    """Reserve little space for tokenizers and journals; that of real models would fill the memory."""
    monkeypatch.setattr("thinktune.planner.disk_space.OTHER_FILES_BYTES", 2**20)
    monkeypatch.setattr("thinktune.train.loop.SLOW_SAVE_SECONDS", 0)  # each save is told


def filling(full, place, step, freed_after=None):
    """Return a `say` that fills the disk once a step is saved, and frees it after a later step's line."""

    def say(line):
        if line.startswith(f"step {step}/") and " saved " in line:
            full(place)
        if freed_after and line.startswith(f"step {freed_after}/"):
            (place / "other-file").unlink(missing_ok=True)
        said.append(line)

    said = say.said = []
    return say


def without_events(folder):
    return without_times([record for record in journal.read_metrics(folder) if record["kind"] != "event"])


def test_too_little_space_is_refused_before_the_first_step(tree, disk, small_needs, tried):
    place = disk(3 * 2**20)
    with pytest.raises(UserError, match=r"the disk has [0-9.]+ MiB free, and the run needs .* MiB more .*runs_folder="):
        train(settings(tree, runs_folder=str(place / "runs")), quiet)
    assert not (place / "runs").exists()
    tried("a disk too small for the checkpoints")


def test_a_disk_that_fills_up_costs_a_checkpoint_and_not_the_run(tree, disk, full, small_needs, tried):
    whole = train(settings(tree, name="whole"), quiet)
    place = disk(DISK_BYTES)
    say = filling(full, place, 3, freed_after=8)
    folder = train(settings(tree, name="cut", runs_folder=str(place / "runs")), say)
    events = [record["text"] for record in journal.read_metrics(folder) if record["kind"] == "event"]
    assert any(
        "is full (0 MiB free), the checkpoint could not be written; the checkpoint of step 3 is intact" in text
        for text in events
    )
    assert without_events(folder) == without_events(whole), "lines of metrics were lost"
    assert journal.read_samples(folder) == journal.read_samples(whole)
    assert not list((folder / "checkpoints").glob(".*"))
    for file in ("model.safetensors", "state/state.safetensors"):
        mine, theirs = (load_file(run / "checkpoints" / "step-000009" / file) for run in (folder, whole))
        assert all(mine[name].equal(theirs[name]) for name in theirs)
    tried("a disk full to the last byte from step 3 to step 8", "the checkpoint of step 6, and nothing else")


def test_a_disk_that_fills_up_before_the_first_checkpoint_costs_nothing(tree, disk, full, small_needs, tried):
    place = disk(DISK_BYTES)
    said = []

    def say(line):
        said.append(line)
        if " parameters on " in line:
            full(place)
        if line.startswith("step 2/"):
            (place / "other-file").unlink()

    folder = train(settings(tree, name="cut", runs_folder=str(place / "runs")), say)
    events = [record["text"] for record in journal.read_metrics(folder) if record["kind"] == "event"]
    assert any("the mark of an evaluation could not be written; there is no checkpoint yet" in text for text in events)
    assert without_events(folder) == without_events(train(settings(tree, name="whole"), quiet))
    assert RunFolder(folder).final.is_dir()
    tried("a disk full before the first checkpoint")


def test_a_full_disk_can_stop_the_run_which_resumes_once_there_is_space(tree, disk, full, small_needs, tried):
    place = disk(DISK_BYTES)
    say = filling(full, place, 3)
    recipe = settings(tree, name="cut", runs_folder=str(place / "runs"), train={"full_disk": "stop"})
    with pytest.raises(UserError, match=r"expert\.full_disk: .* the checkpoint of step 3 is intact; free some space"):
        train(recipe, say)
    store.verify(store.find_checkpoint(recipe.run_folder, "last"), with_state=True)
    (place / "other-file").unlink()
    equal(train(recipe, quiet), train(settings(tree, name="whole", train={"full_disk": "stop"}), quiet))
    tried("a full disk where the recipe says stop", "the steps since the last checkpoint")


def test_a_disk_that_stays_full_ends_the_run_with_a_remedy(tree, disk, full, small_needs, tried):
    place = disk(DISK_BYTES)
    recipe = settings(tree, name="cut", runs_folder=str(place / "runs"))
    with pytest.raises(UserError, match="last checkpoint is of step 6; free some space"):
        train(recipe, filling(full, place, 6))
    (place / "other-file").unlink()
    equal(train(recipe, quiet), train(settings(tree, name="whole"), quiet))
    tried("a disk that stays full to the end", "the steps since the last checkpoint")


def test_records_that_found_no_space_are_written_with_the_next_ones(disk, full):
    place = disk(2**20)
    journal.append(RunFolder(place).metrics, [{"kind": "train", "step": 1, "text": "x" * 4000}])
    full(place)
    for step in (2, 3):
        journal.append(RunFolder(place).metrics, [{"kind": "train", "step": step, "text": "y" * 9000}])
    assert [record["step"] for record in journal.read_metrics(place)] == [1]
    with pytest.raises(OSError, match="No space"):
        journal.flush_journals(place)
    (place / "other-file").unlink()
    journal.append(RunFolder(place).metrics, [{"kind": "train", "step": 4}])
    assert [record["step"] for record in journal.read_metrics(place)] == [1, 2, 3, 4]
    assert journal.flush_journals(place) == {RunFolder(place).metrics.name: RunFolder(place).metrics.stat().st_size}


def test_a_read_only_folder_gives_a_message_and_is_unchanged(tree, disk, monkeypatch, capsys, tried):
    import subprocess

    from thinktune.cli import main

    place = disk(DISK_BYTES)
    recipe = Path(tree["data"]["name"]).with_name("mine.yaml")
    recipe.write_text(json.dumps({**tree, "runs_folder": str(place / "runs")}), encoding="utf-8")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    monkeypatch.setattr("sys.argv", ["thinktune", "train", str(recipe)])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Read-only file system" in err
    assert "Traceback" not in err
    tried("a read-only folder")
