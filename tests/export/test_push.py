"""`thinktune push`: which files of a run, a model or an export go to a hub, what is refused, and what is printed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub_client import HUBS, at_once, environment
from support.hub_server import Fault
from support.push_client import TOKENS, Pusher
from support.upload_server import TOKEN, UploadServer

from thinktune.checkpoint.manifest import write_manifest
from thinktune.errors import UserError
from thinktune.export.push import push_model

FILES = ["README.md", "config.json", "files.json", "model.safetensors", "state.json"]


@pytest.fixture(scope="module")
def hubs(tmp_path_factory):
    with UploadServer(tmp_path_factory.mktemp("a")) as one, UploadServer(tmp_path_factory.mktemp("b")) as other:
        yield dict(zip(HUBS, (one, other), strict=True))


@pytest.fixture(scope="module")
def pusher(hubs, tmp_path_factory):
    with Pusher(hubs, tmp_path_factory.mktemp("caches")) as process:
        yield process


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """Write what a run leaves: its recipe, a checkpoint, and a final model with its manifest."""
    run = tmp_path / "runs" / "heart"
    final = run / "final"
    final.mkdir(parents=True)
    (run / "recipe.yaml").write_text("{}", encoding="utf-8")
    for name in ("config.json", "model.safetensors", "README.md"):
        (final / name).write_text(f"{name} of {tmp_path.name}", encoding="utf-8")
    diagnosis = {"state": "best", "best_step": 3, "base_loss": 2.0, "best_loss": 1.0}
    (final / "state.json").write_text(json.dumps({"step": 3, "diagnosis": diagnosis}), encoding="utf-8")
    write_manifest(final)
    return run


def refusal(path: Path, name: str = "clinic/heart") -> list[str]:
    with pytest.raises(UserError) as refused:
        push_model(path, "huggingface", name, public=False, say=print)
    return refused.value.faults


def test_of_a_run_the_final_model_is_pushed(run_folder, hubs, pusher):
    found = pusher.push(run_folder, "modelscope", "clinic/run")
    assert found.faults == []
    assert sorted(hubs["modelscope"].contents("clinic/run")) == FILES


def test_a_checkpoint_is_pushed_without_its_optimizer(run_folder, hubs, pusher):
    folder = run_folder / "checkpoints" / "step-000003"
    (folder / "state").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "state/state.safetensors", ".cache/x", ".env"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    found = pusher.push(folder, "huggingface", "clinic/checkpoint")
    assert sorted(hubs["huggingface"].contents("clinic/checkpoint")) == ["config.json", "model.safetensors"]
    assert found.lines[0] == f"{folder} has no README.md, so the hub will show no model card"


def test_an_export_is_pushed_as_it_is(run_folder, hubs, pusher):
    folder = run_folder / "export" / "gguf"
    folder.mkdir(parents=True)
    (folder / "heart-q8_0.gguf").write_bytes(b"GGUF" * 5000)
    (folder / "README.md").write_text("# heart", encoding="utf-8")
    (folder / "export.json").write_text('{"check": "with a held-out question"}', encoding="utf-8")  # stays here
    at_once(lambda name: pusher.push(folder, name, "clinic/heart-gguf"))
    for name in HUBS:
        assert sorted(hubs[name].contents("clinic/heart-gguf")) == ["README.md", "heart-q8_0.gguf"]


def test_a_model_that_is_worse_than_its_base_is_pushed_with_a_warning(run_folder, pusher):
    final = run_folder / "final"
    diagnosis = {"state": "worse", "best_step": 3, "base_loss": 2.0, "best_loss": 3.0}
    (final / "state.json").write_text(json.dumps({"step": 3, "diagnosis": diagnosis}), encoding="utf-8")
    write_manifest(final)
    found = pusher.push(run_folder, "modelscope", "clinic/worse")
    assert found.faults == []
    assert found.lines[0].startswith("warning: this model is worse than its base: the eval loss was 2.000")


def test_a_model_that_is_not_as_it_was_written_is_refused(run_folder):
    (run_folder / "final" / "model.safetensors").write_text("another's", encoding="utf-8")
    for path in (run_folder, run_folder / "final"):
        (fault,) = refusal(path)
        assert "has changed since it was written: model.safetensors has" in fault


def test_all_mistakes_are_told_at_once(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}", encoding="utf-8")
    assert refusal(tmp_path, "heart") == [
        "NAME: is 'heart'; write OWNER/NAME in letters, digits, - _ and ., as in clinic/heart-qwen3",
        f"{tmp_path}: holds no model (neither config.json nor a .gguf file); name a run's folder, or a model's",
    ]
    assert "is not a folder" in refusal(tmp_path / "nowhere")[0]


@pytest.mark.parametrize(
    "name",
    ["heart", "/heart", "clinic/", "a/b/c", "clinic/he art", "clinic/../x", "clinic/.x", "clinic/x.", "诊所/心脏", ""],
)
def test_a_name_that_no_hub_takes_is_refused(name, run_folder):
    (fault,) = refusal(run_folder, name)
    assert fault.startswith(f"NAME: is {name!r}; write OWNER/NAME")


@pytest.mark.parametrize("name", HUBS)
def test_the_verb_ends_with_the_address_or_with_one_sentence_and_exit_code_2(name, run_folder, hubs, tmp_path):
    hub = hubs[name]

    def run(*arguments):
        command = [sys.executable, "-m", "thinktune", "push", str(run_folder), "--hub", name, *arguments]
        variables = environment(hub.address, tmp_path, **TOKENS)
        return subprocess.run(command, env=variables, capture_output=True, text=True, encoding="utf-8", timeout=120)

    done = run("clinic/verb")
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout.splitlines()[-1]
    assert last == f"pushed: {hub.address}/{'models/' * (name == 'modelscope')}clinic/verb"
    hub.upload_faults["clinic/refused", "commit"] = Fault(403)
    done = run("clinic/refused")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: --hub {name}: 'clinic/refused' could not be pushed: it does not let this token"
    )
    assert done.stderr.count("\n") == 1
    assert TOKEN not in done.stdout + done.stderr
    assert hub.contents("clinic/refused") == {}
