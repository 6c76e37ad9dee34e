"""Verdicts on disk: found again while all that they follow from is the same, and reached again after any change."""

import importlib.util
import json
import os
import shutil
import sys
import time
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from thinktune import cache, verdicts
from thinktune.inference import generation_proof
from thinktune.model import proof
from thinktune.model.proof import ModelTraits, prove_class
from thinktune.verdicts import identify_folder, recall, remember, verdict_file


@pytest.fixture(autouse=True)
def own_verdicts(tmp_path, monkeypatch):
    """Give each test a cache of its own, in a process that has proved nothing yet."""
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    for module, name, empty in (
        (proof, "_PROVED", {}),
        (proof, "_COMPUTABLE", set()),
        (generation_proof, "_PROVED", {}),
    ):
        monkeypatch.setattr(module, name, empty)


def forget_process():
    proof._PROVED.clear()


def plant(model_class, config):
    """Write the verdict that another scale was measured: who reads it did not prove."""
    key = proof.proof_key(model_class, config)
    file = proof.proof_file("traits", model_class, key, proof.PROOF_SOURCES)
    remember(file, {"rows": "packed", "logits": {"scale": 7.0, "cap": None}})


def add_release(folder, name, version, monkeypatch):
    """Let another release of a library be found first."""
    facts = folder / f"{name}-{version}.dist-info" / "METADATA"
    facts.parent.mkdir(parents=True)
    facts.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(folder))


def change_config(config, **_):
    config.rope_parameters["rope_theta"] = 123456.0


def change_torch(tmp_path, monkeypatch, **_):
    add_release(tmp_path / "site", "torch", "9.9.9", monkeypatch)


def change_transformers(tmp_path, monkeypatch, **_):
    add_release(tmp_path / "site", "transformers", "9.9.9", monkeypatch)


def change_our_proof(tmp_path, monkeypatch, **_):
    shutil.copytree(cache.PACKAGE_FOLDER, tmp_path / "ours", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "ours" / "model" / "batch.py").open("a") as file:
        file.write("# another release\n")
    monkeypatch.setattr(cache, "PACKAGE_FOLDER", tmp_path / "ours")


def change_machine(monkeypatch, **_):
    monkeypatch.setattr(verdicts.platform, "machine", lambda: "another")


CHANGES = [change_config, change_torch, change_transformers, change_our_proof, change_machine]


@pytest.mark.parametrize("change", CHANGES)
def test_a_proof_is_read_from_the_disk_until_anything_that_it_follows_from_changes(change, tmp_path, monkeypatch):
    config = LlamaConfig(num_hidden_layers=3)
    plant(LlamaForCausalLM, config)
    assert prove_class(LlamaForCausalLM, config).logits.scale == 7, "it was proved again"
    forget_process()
    change(config=config, tmp_path=tmp_path, monkeypatch=monkeypatch)
    assert prove_class(LlamaForCausalLM, config).logits.scale == 1, "it was not proved again"


def made_class(file, monkeypatch):
    """Load a model class from a file, as one of transformers' own."""
    name = "transformers.models.llama.modeling_made"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module.Made


def test_a_class_whose_source_changes_is_proved_again(tmp_path, monkeypatch):
    file = tmp_path / "modeling_made.py"
    source = "from transformers import LlamaForCausalLM\nclass Made(LlamaForCausalLM):\n    pass\n"
    file.write_text(source)
    config = LlamaConfig(num_hidden_layers=3)
    plant(made_class(file, monkeypatch), config)
    assert prove_class(made_class(file, monkeypatch), config).logits.scale == 7
    forget_process()
    file.write_text(source + "# corrected\n")
    assert prove_class(made_class(file, monkeypatch), config).logits.scale == 1


def test_what_was_proved_is_written_for_other_processes():
    config = LlamaConfig(num_hidden_layers=3)
    assert prove_class(LlamaForCausalLM, config) == ModelTraits()
    [file] = cache.cache_folder().with_name("verdicts").glob("*.json")
    assert recall(file) == {"rows": "packed", "logits": {"scale": 1.0, "cap": None}}


class Mine(LlamaForCausalLM):
    """A class of this process, as a folder's own code makes one."""


def test_a_class_that_is_not_transformers_own_is_not_remembered():
    prove_class(Mine, LlamaConfig(num_hidden_layers=3))
    assert not cache.cache_folder().with_name("verdicts").exists()


def test_replies_are_proved_once_for_all_processes():
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=64, vocab_size=64))
    generation_proof.require_generation(model)
    [file] = cache.cache_folder().with_name("verdicts").glob("*.json")
    generation_proof._PROVED.clear()
    state = file.stat().st_mtime_ns
    generation_proof.require_generation(model)
    assert file.stat().st_mtime_ns > state, "what was found on the disk is marked as used"
    assert torch.is_grad_enabled()


def test_what_is_damaged_or_old_or_unwritable_is_as_if_it_were_not_there(tmp_path, monkeypatch):
    file = verdict_file("kind", ["ground"], ["files"])
    assert recall(file) is None
    remember(file, {"scale": 1})
    assert recall(file) == {"scale": 1}
    file.write_text(file.read_text().replace('{"scale": 1}', '{"scale": 2}'))
    assert recall(file) is None, "its digest is another's"
    for text in ("", "[]", "{", json.dumps({"facts": {}, "digest": ""})):
        file.write_text(text)
        assert recall(file) is None
    remember(file, {})
    assert recall(file) == {}
    old = file.with_name("old.json")
    old.write_text("{}")
    os.utime(old, (0, time.time() - 31 * 86_400))
    remember(file, {})
    assert not old.exists()
    (tmp_path / "file").touch()
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "file" / "x"))
    unwritable = verdict_file("kind", ["ground"], ["files"])
    remember(unwritable, {})
    assert recall(unwritable) is None


def test_nothing_is_remembered_of_a_library_under_development(tmp_path, monkeypatch):
    add_release(tmp_path / "site", "transformers", "9.9.9.dev0", monkeypatch)
    assert verdict_file("kind", [], ["files"]) is None
    remember(None, {})
    assert recall(None) is None


def test_any_change_of_a_folder_gives_another_identity(tmp_path):
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "part" / "weights").write_text("12")
    seen = [identify_folder(folder)]
    assert identify_folder(folder) == seen[0]
    assert not seen[0].holds_for(folder), "a change within the same tick of the clock would not show"

    def changed(change):
        time.sleep(0.02)
        change()
        seen.append(identify_folder(folder))

    changed(lambda: (folder / "part" / "weights").write_text("34"))
    changed(lambda: (folder / "new.jinja").touch())
    changed(lambda: (folder / "new.jinja").rename(folder / "other.jinja"))
    changed(lambda: (folder / "other.jinja").unlink())
    changed(lambda: shutil.copystat(folder / "config.json", folder / "part" / "weights"))
    assert all(before.digest != after.digest for before, after in pairwise(seen))
    (folder / "inside").symlink_to(tmp_path, target_is_directory=True)
    assert identify_folder(folder) is None
    assert identify_folder(tmp_path / "nowhere") is None
