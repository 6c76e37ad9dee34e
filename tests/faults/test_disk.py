"""Full disks: told of before the run, and while it trains the former checkpoint stays and nothing is half-written."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.runs import equal, quiet, settings, without_times

from thinktune.checkpoint import store as checkpoint
from thinktune.errors import UserError
from thinktune.run import RunFolder
from thinktune.run import journal as track
from thinktune.train.loop import train

ROOM = 24 * 2**20  # what the small run is given: many checkpoints of 1.1 MB


@pytest.fixture
def small_needs(monkeypatch):
    """The room kept for tokenizers and journals is that of real models; here it would fill the memory."""
    monkeypatch.setattr("thinktune.planner.disk_space.OTHER_FILES_BYTES", 2**20)


def filling(full, place, step, freed_after=None):
    """A narrator that fills the disk once a step's checkpoint stands, and frees it again after a later step's line."""

    def say(line):
        if line.startswith(f"step {step}/") and " saved " in line:
            full(place)
        if freed_after and line.startswith(f"step {freed_after}/"):
            (place / "somebody-elses-file").unlink(missing_ok=True)
        said.append(line)

    said = say.said = []
    return say


def without_events(folder):
    return without_times([record for record in track.read_metrics(folder) if record["kind"] != "event"])


def test_too_little_room_is_told_before_the_first_step(tree, disk, small_needs, tried):
    place = disk(3 * 2**20)
    with pytest.raises(UserError, match=r"its disk has 0\.00 GiB free, and the run needs .* GiB more .*runs_folder="):
        train(settings(tree, runs_folder=str(place / "runs")), quiet)
    assert not (place / "runs").exists()
    tried("a disk too small for the checkpoints")


def test_a_disk_that_fills_up_costs_a_checkpoint_and_not_the_run(tree, disk, full, small_needs, tried):
    whole = train(settings(tree, name="whole"), quiet)
    place = disk(ROOM)
    say = filling(full, place, 3, freed_after=8)
    folder = train(settings(tree, name="cut", runs_folder=str(place / "runs")), say)
    events = [record["text"] for record in track.read_metrics(folder) if record["kind"] == "event"]
    assert any(
        "is full (0 MiB free), the checkpoint could not be written; the checkpoint of step 3 stands" in text
        for text in events
    )
    assert without_events(folder) == without_events(whole), "lines of metrics were lost"
    assert track.read_samples(folder) == track.read_samples(whole)
    assert not list((folder / "checkpoints").glob(".*"))
    for file in ("model.safetensors", "state/state.safetensors"):
        mine, theirs = (load_file(run / "checkpoints" / "step-000009" / file) for run in (folder, whole))
        assert all(mine[name].equal(theirs[name]) for name in theirs)
    tried("a disk full to the last byte from step 3 to step 8", "the checkpoint of step 6, and nothing else")


def test_a_full_disk_can_stop_the_run_which_goes_on_once_there_is_room(tree, disk, full, small_needs, tried):
    place = disk(ROOM)
    say = filling(full, place, 3)
    recipe = settings(tree, name="cut", runs_folder=str(place / "runs"), train={"full_disk": "stop"})
    with pytest.raises(UserError, match=r"train\.full_disk: .* the checkpoint of step 3 stands; free some room"):
        train(recipe, say)
    checkpoint.verify(checkpoint.find_checkpoint(recipe.run_folder, "last"), with_state=True)
    (place / "somebody-elses-file").unlink()
    equal(train(recipe, quiet), train(settings(tree, name="whole", train={"full_disk": "stop"}), quiet))
    tried("a full disk where the recipe says stop", "the steps since the last checkpoint")


def test_a_disk_that_stays_full_ends_the_run_with_what_to_do(tree, disk, full, small_needs, tried):
    place = disk(ROOM)
    recipe = settings(tree, name="cut", runs_folder=str(place / "runs"))
    with pytest.raises(UserError, match="last checkpoint is of step 6; free some room"):
        train(recipe, filling(full, place, 6))
    (place / "somebody-elses-file").unlink()
    equal(train(recipe, quiet), train(settings(tree, name="whole"), quiet))
    tried("a disk that stays full to the end", "the steps since the last checkpoint")


def test_records_that_found_no_room_come_with_the_next_ones(disk, full):
    place = disk(2**20)
    track.append(RunFolder(place).metrics, [{"kind": "train", "step": 1, "text": "x" * 4000}])
    full(place)
    for step in (2, 3):
        track.append(RunFolder(place).metrics, [{"kind": "train", "step": step, "text": "y" * 9000}])
    assert [record["step"] for record in track.read_metrics(place)] == [1]
    with pytest.raises(OSError, match="No space"):
        track.flush_journals(place)
    (place / "somebody-elses-file").unlink()
    track.append(RunFolder(place).metrics, [{"kind": "train", "step": 4}])
    assert [record["step"] for record in track.read_metrics(place)] == [1, 2, 3, 4]
    assert track.flush_journals(place) == {RunFolder(place).metrics.name: RunFolder(place).metrics.stat().st_size}


def test_a_read_only_folder_is_a_sentence_and_stays_as_it_was(tree, disk, monkeypatch, capsys, tried):
    import subprocess

    from thinktune.cli import main

    place = disk(ROOM)
    recipe = Path(tree["data"]["name"]).with_name("mine.yaml")
    recipe.write_text(json.dumps({**tree, "runs_folder": str(place / "runs")}), encoding="utf-8")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    monkeypatch.setattr("sys.argv", ["thinktune", "train", str(recipe)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Read-only file system" in told
    assert "Traceback" not in told
    tried("a read-only folder")
