"""The verb: an export is whole or absent, what stands in its place stays until then, and its facts are beside it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support.asked_models import PlainTransformers
from support.exported_runs import export_run
from support.planted_faults import lost_end_token
from support.runs import quiet

from thinktune.commands.export import describe_export
from thinktune.errors import UserError
from thinktune.export import export as module
from thinktune.export import find_source
from thinktune.export.export import export_model
from thinktune.export.targets import Target


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return export_run(tmp_path_factory)


@pytest.fixture(autouse=True)
def few_questions(monkeypatch):
    monkeypatch.setattr("thinktune.export.questions.QUESTIONS", 3)


def copying(source, name="hf", plant=None, opened=PlainTransformers, size=1000):
    """Make a target that copies the model, and plants a fault in the copy."""

    def write(folder, tick):
        for path in source.folder.iterdir():
            if path.is_file() and path.name != "files.json":
                shutil.copy(path, folder)
                tick(path.stat().st_size)
        if plant:
            plant(folder)

    return Target(name, "f32", "transformers", size, write, opened, "" if opened else "install it")


def listed(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else None


def test_an_export_is_in_the_run_with_its_facts(run, tmp_path):
    source = find_source(run)
    [made] = export_model(source, [copying(source)], tmp_path / "out", quiet)
    assert made.folder == tmp_path / "out" / "hf"
    assert listed(tmp_path / "out") == ["hf"]
    facts = json.loads((made.folder / "export.json").read_text(encoding="utf-8"))
    content = (made.folder / "model.safetensors").read_bytes()
    assert facts["files"]["model.safetensors"] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert facts["bytes"] == sum(entry["bytes"] for entry in facts["files"].values())
    assert {"export.json"} | facts["files"].keys() == set(listed(made.folder))
    assert (facts["check"]["questions"], facts["check"]["equal"], facts["check"]["first"]) == (3, 3, None)
    assert facts["target"] == "hf"
    assert "README.md" in facts["files"], "the model's card is in each export of it"
    assert facts["seconds"].keys() == {"writing", "checking"}
    text = "\n".join(describe_export(made))
    assert "3 of 3 greedy replies equal to the model's (3 held-out questions)" in text
    assert "sha256" in text


def test_a_wrong_target_leaves_nothing_and_the_others_are_made(run, tmp_path):
    source = find_source(run)
    targets = [copying(source, "wrong", lost_end_token), copying(source, "right")]
    with pytest.raises(UserError, match="wrong: its replies do not end at"):
        export_model(source, targets, tmp_path / "out", quiet)
    assert listed(tmp_path / "out") == ["right"]
    with pytest.raises(UserError):
        export_model(source, targets[:1], tmp_path / "none", quiet)
    assert not (tmp_path / "none").exists()


def test_a_wrong_target_leaves_the_former_export_and_a_right_one_replaces_it(run, tmp_path):
    source = find_source(run)
    export_model(source, [copying(source)], tmp_path, quiet)
    before = (tmp_path / "hf" / "export.json").read_bytes()
    with pytest.raises(UserError):
        export_model(source, [copying(source, plant=lost_end_token)], tmp_path, quiet)
    assert (tmp_path / "hf" / "export.json").read_bytes() == before
    (tmp_path / "hf" / "export.json").write_bytes(before.replace(b'"hf"', b'"old"'))
    export_model(source, [copying(source, opened=None)], tmp_path, quiet)
    after = json.loads((tmp_path / "hf" / "export.json").read_text(encoding="utf-8"))
    assert (after["target"], after["check"], after["unchecked"]) == ("hf", None, "install it")


def test_what_cannot_be_loaded_or_written_is_one_sentence_and_leaves_nothing(run, tmp_path):
    source = find_source(run)

    def drop(folder):
        (folder / "config.json").write_text("{", encoding="utf-8")

    def fill(_folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="hf: transformers cannot load it or answer with it"):
        export_model(source, [copying(source, plant=drop)], tmp_path / "out", quiet)
    with pytest.raises(OSError, match="No space left") as raised:
        export_model(source, [copying(source, plant=fill, opened=None)], tmp_path / "out", quiet)
    assert raised.value.filename == str(tmp_path / "out" / "hf")
    assert not (tmp_path / "out").exists()


def test_files_of_the_user_in_the_place_are_refused_all_at_once(run, tmp_path):
    source = find_source(run)
    targets = [copying(source, name, opened=None) for name in ("hf", "two", "three", "four")]
    export_model(source, targets[:1], tmp_path, quiet)
    (tmp_path / "hf" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "thesis.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "three").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError) as raised:
        export_model(source, targets, tmp_path, quiet)
    assert len(raised.value.faults) == 3
    for fault, named in zip(raised.value.faults, ("config.json", "thesis.txt", "in the way"), strict=True):
        assert named in fault
    assert not (tmp_path / "four").exists()
    assert (tmp_path / "two" / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_places_and_disks_that_do_not_do_are_refused_before_anything_is_loaded(run, tmp_path, monkeypatch):
    source = find_source(run / "final")
    with pytest.raises(UserError, match="is not a run's folder, so its exports have no place yet"):
        export_model(source, [copying(source)], None, quiet)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="is a file"):
        export_model(source, [copying(source)], tmp_path / "file", quiet)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 2**30))
    with pytest.raises(UserError, match=r"has 3.00 GiB free, and the exports need 4.06 GiB; free 1.07 GiB"):
        export_model(source, [copying(source, size=2 * 2**30), copying(source, "b", size=2 * 2**30)], tmp_path, quiet)


def test_what_a_killed_export_left_is_removed_and_a_former_one_goes_back(run, tmp_path):
    source = find_source(run)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".hf.{dead.pid}.partial", f".hf.{os.getppid()}.partial", f".two.{dead.pid}.gone.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / f".two.{dead.pid}.gone.partial" / "export.json").write_text('{"files": {}}', encoding="utf-8")

    def failing(folder):
        raise UserError("no")

    with pytest.raises(UserError):
        export_model(source, [copying(source, name, failing, None) for name in ("hf", "two")], tmp_path, quiet)
    assert listed(tmp_path) == [f".hf.{os.getppid()}.partial", "two"]


def test_a_stopped_export_leaves_nothing(run, tmp_path):
    source = find_source(run)

    def stop(_folder):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        export_model(source, [copying(source, plant=stop, opened=None)], tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
