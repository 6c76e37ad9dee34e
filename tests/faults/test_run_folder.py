"""Changes and damage between two starts of a run: each is reported exactly, and nothing is made worse."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import FACTS, equal, quiet, settings, stop_in_step, write_rows
from tokenizers.normalizers import Lowercase
from transformers import AutoTokenizer

from thinktune.checkpoint import store
from thinktune.errors import Stopped, UserError
from thinktune.files import read_json, write_json
from thinktune.run import RunFolder, journal
from thinktune.train import train


@pytest.fixture
def stopped(tree, monkeypatch):
    """Stop a run after step 4; return its recipe."""
    recipe = settings(tree, name="cut")
    with monkeypatch.context() as patch:
        stop_in_step(patch, 4)
        with pytest.raises(Stopped):
            train(recipe, quiet)
    return recipe


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(recipe, match):
    """Check that the run is refused with this text, and that its folder is unchanged."""
    before = contents(recipe.run_folder)
    with pytest.raises(UserError, match=match):
        train(recipe, quiet)
    assert contents(recipe.run_folder) == before


def test_a_changed_recipe_says_what_changed_and_stops(tree, stopped, tried):
    refused(
        settings(tree, name="cut", train={"learning_rate": 2e-3, "epochs": 4}),
        r"changed: train\.epochs \(was 3, is 4\), train\.learning_rate \(was 0\.001, is 0\.002\); .*name=cut-2",
    )
    tried("a recipe with another learning rate")


def test_a_harmless_change_is_printed_recorded_and_resumes_to_the_same_end(tree, stopped, tried):
    said = []
    folder = train(settings(tree, name="cut", train={"save_every_minutes": 5, "log_every_steps": 2}), said.append)
    text = "resumed with a change: train.save_every_minutes (was 30.0, is 5.0)"
    assert text in said
    assert [record["text"] for record in journal.read_metrics(folder) if record["kind"] == "event"] == [text]
    assert "save_every_minutes: 5.0" in (folder / "recipe.yaml").read_text()
    tried("a recipe with another save_every_minutes")


def test_changed_rows_are_counted_and_located(tree, stopped, tried):
    write_rows(Path(tree["data"]["name"]), FACTS | {"ear": "silence"})
    refused(
        stopped,
        r"other data .*1 training rows gone, the first rows\.jsonl:4; 1 training rows new, the first rows\.jsonl:4",
    )
    tried("a changed row")


def test_another_tokenizer_is_refused(tree, stopped, start, tmp_path, tried):
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    template = (start / "tokenizer.json").read_bytes(), (start / "tokenizer_config.json").read_bytes()
    try:
        tokenizer.save_pretrained(start)
        refused(stopped, "another tokenizer or chat template; put back the one of")
    finally:
        for name, kept in zip(("tokenizer.json", "tokenizer_config.json"), template, strict=True):
            (start / name).write_bytes(kept)
    tried("another tokenizer")


def test_other_versions_and_more_ranks_are_printed_and_resume(tree, stopped, tried):
    path = stopped.run_folder / "environment.json"
    write_json(path, read_json(path) | {"torch": "2.9.1", "world_size": 8, "code": "0"})
    said = []
    folder = train(stopped, said.append)
    [line] = [line for line in said if line.startswith("resumed with a change")]
    assert "torch (was '2.9.1'" in line
    assert "world_size (was 8, is 1)" in line
    assert "code (was '0'" in line
    equal_but_for_events(folder, train(settings(tree, name="whole"), quiet))
    tried("another torch, our own code changed, fewer ranks")


def equal_but_for_events(folder, whole):
    lines = RunFolder(folder).metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    RunFolder(folder).metrics.write_text("".join(line for line in lines if '"event"' not in line), encoding="utf-8")
    equal(folder, whole)


def test_a_state_of_another_form_is_refused(tree, stopped, monkeypatch):
    path = stopped.run_folder / "environment.json"
    write_json(path, read_json(path) | {"memory": "exact"})
    refused(stopped, r"train\.memory: .*cannot be restored \(its state does not fit memory exact\)")


DAMAGE = {
    "a flipped bit in the weights": (
        "model.safetensors",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        "differs from what was written",
    ),
    "a flipped bit in the state": (
        "state/state.safetensors",
        lambda data: data[:-9] + bytes([data[-9] ^ 8]) + data[-8:],
        "differs from what was written",
    ),
    "a truncated state": ("state/state.safetensors", lambda data: data[: len(data) // 2], "bytes, but .* were written"),
    "truncated weights": ("model.safetensors", lambda data: data[:-4096], "bytes, but .* were written"),
    "a missing tokenizer": ("tokenizer.json", lambda data: None, "tokenizer.json is missing"),
    "a missing state": ("state/state.safetensors", lambda data: None, "state.safetensors is missing"),
    "a foreign file": ("pytorch_model.bin", lambda data: b"\x80\x04.", "was added later"),
    "an unreadable list": ("files.json", lambda data: data[:40], "files.json cannot be read"),
    "a changed step": (
        "state.json",
        lambda data: data.replace(b'"step": 4', b'"step": 5'),
        "differs from what was written",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_and_named(stopped, tried, damage):
    name, change, message = DAMAGE[damage]
    path = store.find_checkpoint(stopped.run_folder, "last").folder / name
    after = change(path.read_bytes() if path.exists() else b"")
    path.unlink(missing_ok=True) if after is None else path.write_bytes(after)
    refused(stopped, rf"step-000004: has changed since it was written: .*{message}.*start a new run with name=")
    tried(f"{damage} of a checkpoint", "nothing; the run is refused as long as it lasts")


def test_a_pointer_that_leads_elsewhere_is_refused(stopped):
    for text in ("../../outside", "step-000099", "", "\udcff"):
        (stopped.run_folder / "last").write_bytes(text.encode(errors="surrogateescape"))
        refused(stopped, "last: points at .* which is missing")


def test_a_shortened_journal_is_refused(stopped):
    path = RunFolder(stopped.run_folder).metrics
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2])[:-30])  # of the last line, the run's ending, the checkpoint knows nothing
    refused(stopped, r"metrics\.jsonl: has .* bytes, but had .* at the last checkpoint")


def test_other_files_in_the_folder_stay(tree, stopped, tried):
    mine = [
        stopped.run_folder / "notes.txt",
        stopped.run_folder / "checkpoints" / "mine" / "model.safetensors",
        stopped.run_folder / "checkpoints" / "step-000003" / "notes.txt",
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    folder = train(stopped, quiet)
    assert all(path.read_text() == "mine" for path in mine)
    assert not (folder / "checkpoints" / "step-000004").exists()
    tried("files of somebody else's in the run's folder")


def test_a_damaged_final_model_is_written_again(tree, tried):
    folder = train(settings(tree), quiet)
    good = contents(folder / "final")
    (folder / "final" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"final: has changed since it was written: model\.safetensors"):
        store.resolve_model_folder(folder)
    train(settings(tree), quiet)
    assert contents(folder / "final") == good
    tried("a damaged final model")


HOLD_LOCK = """
import sys, time
from pathlib import Path
from thinktune.run.resume import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_and_the_first_one_is_not_hurt(stopped, tried):
    command = [sys.executable, "-c", HOLD_LOCK, str(stopped.run_folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        refused(stopped, "another process is training in it; .*name=cut-2")
        assert other.poll() is None
        other.kill()  # the lock of a process that is gone blocks no other
    train(stopped, quiet)
    tried("a second process on one run")


def test_a_run_that_cannot_start_leaves_no_folder(tree, tmp_path):
    with pytest.raises(UserError):
        train(settings(tree, runs_folder=str(tmp_path / "new" / "runs"), model={"name": str(tmp_path)}), quiet)
    assert not (tmp_path / "new").exists()
