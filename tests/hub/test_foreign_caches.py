"""Models that other programs left in the hubs' caches: found without the hub, whole or refused with what is wrong."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.hub_client import contents, locate
from support.hub_server import HubServer

OFFLINE = {"modelscope": "MODELSCOPE_OFFLINE", "huggingface": "HF_HUB_OFFLINE"}
NOWHERE = "http://127.0.0.1:9"
WEIGHTS = "model.safetensors"
# Below ModelScope's cache: with MODELSCOPE_CACHE and without it, since 2025, before, and before names were masked.
LAYOUTS = {
    "Qwen/Qwen3-1.7B": "models/Qwen/Qwen3-1___7B",
    "Qwen/Qwen3-0.6B": "hub/models/Qwen/Qwen3-0___6B",
    "Qwen/Qwen2.5-7B": "hub/Qwen/Qwen2___5-7B",
    "Qwen/QwQ-32B.1": "Qwen/QwQ-32B___1",
    "qwen/Qwen1.5-4B": "hub/qwen/Qwen1.5-4B",
}


def record(folder: Path, names: list[str], revision: str = "master") -> None:
    """Write what a former client of ModelScope keeps beside a model's files."""
    entries = [{"Path": name, "Revision": "0123456789abcdef0123456789abcdef01234567"} for name in names]
    (folder / ".msc").write_bytes(pickle.dumps(entries))
    (folder / ".mdl").write_bytes(pickle.dumps({"id": "Qwen/Qwen3-1.7B"}))
    (folder / ".mv").write_text(f"Revision:{revision},CreatedAt:1741000000")


def former_modelscope(start: Path, cache: Path, place: str) -> Path:
    folder = Path(shutil.copytree(start, cache / place))
    record(folder, sorted(contents(start)))
    return folder


def ask(hub: str, names: str, caches: Path, revision: str = ""):
    return locate(names, hub, revision=revision, address=NOWHERE, caches=caches, **{OFFLINE[hub]: "1"})


def test_every_former_layout_of_modelscope_is_found_and_no_pickle_of_the_folder_is_read_as_a_file(start, tmp_path):
    for place in LAYOUTS.values():
        former_modelscope(start, tmp_path / "MODELSCOPE_CACHE", place)
    done = ask("modelscope", " ".join(LAYOUTS), tmp_path)
    assert done.returncode == 0, done.stderr
    found = [Path(line) for line in done.stdout.split()]
    assert found == [tmp_path / "MODELSCOPE_CACHE" / place for place in LAYOUTS.values()]
    held = contents(start)
    assert {name: body for name, body in contents(found[0]).items() if name in held} == held
    again = ask("modelscope", "Qwen/Qwen3-1.7B", tmp_path, "master")
    assert again.returncode == 0, again.stderr


class Attack:
    def __reduce__(self):
        return os.mkdir, (os.environ["ATTACKED"],)


def index_without_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    (folder / WEIGHTS).unlink()
    record(folder, [name for name in contents(folder) if not name.startswith(".")])


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    record(folder, [name for name in contents(folder) if not name.startswith(".")])


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


HARMED = {
    "lacks tokenizer.json, which its client recorded": lambda folder: (folder / "tokenizer.json").unlink(),
    f"{WEIGHTS} is incomplete": cut,
    "also holds more.safetensors": lambda folder: save_file({"a": torch.ones(1)}, folder / "more.safetensors"),
    "lacks model-00001-of-00001.safetensors": index_without_shard,
    ".msc cannot be read": lambda folder: (folder / ".msc").write_bytes(pickle.dumps([Attack()])),
    "names files outside its folder": lambda folder: record(folder, ["../config.json"]),
    "lacks config.json": without_config,
}


def test_a_former_clients_model_that_is_not_whole_is_refused_and_its_pickle_runs_nothing(start, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTACKED", str(tmp_path / "attacked"))
    names = [f"clinic/model{number}" for number in range(len(HARMED))]
    for name, harm in zip(names, HARMED.values(), strict=True):
        harm(former_modelscope(start, tmp_path / "MODELSCOPE_CACHE", f"models/{name}"))
    done = ask("modelscope", " ".join(names), tmp_path)
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if line.startswith("REFUSED")]
    assert [words in line for words, line in zip(HARMED, said, strict=True)] == [True] * len(HARMED), said
    assert not (tmp_path / "attacked").exists()


def test_a_former_clients_model_of_another_revision_is_not_taken_for_the_one_asked_for(start, tmp_path):
    former_modelscope(start, tmp_path / "MODELSCOPE_CACHE", "models/clinic/small")
    done = ask("modelscope", "clinic/small", tmp_path, "v2")
    assert "is of revision master" in done.stderr


def huggingface_cache(start: Path, caches: Path, name: str, left_out: tuple[str, ...] = ()) -> Path:
    """Lay a model out as Hugging Face's client does for programs that list nothing: links to files named by digest."""
    repository = caches / "HF_HOME" / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for file, body in contents(start).items():
        if file in left_out:
            continue
        large = file.endswith(".safetensors")
        digest = hashlib.sha256(body) if large else hashlib.sha1(b"blob %d\0" % len(body) + body)
        (repository / "blobs" / digest.hexdigest()).write_bytes(body)
        (snapshot / file).symlink_to(Path("..", "..", "blobs", digest.hexdigest()))
    return snapshot


def test_what_transformers_unsloth_or_trl_left_in_the_cache_is_verified_by_the_digests_in_its_names(start, tmp_path):
    whole = huggingface_cache(start, tmp_path, "unsloth/small")
    spoiled = huggingface_cache(start, tmp_path, "unsloth/spoiled")
    body = bytearray((spoiled / WEIGHTS).read_bytes())
    body[-1] ^= 1
    (spoiled / WEIGHTS).resolve().write_bytes(body)
    huggingface_cache(start, tmp_path, "unsloth/headless", (WEIGHTS,))
    copied = huggingface_cache(start, tmp_path, "unsloth/copied")
    body = (copied / "config.json").read_bytes()
    (copied / "config.json").unlink()
    (copied / "config.json").write_bytes(body)
    done = ask("huggingface", "unsloth/small unsloth/spoiled unsloth/headless unsloth/copied", tmp_path)
    assert done.stdout.split() == [str(whole)]
    said = [line for line in done.stderr.splitlines() if line.startswith("REFUSED")]
    words = (f"{WEIGHTS} is not as its digest says", f"lacks {WEIGHTS}", "config.json cannot be verified")
    assert [each in line for each, line in zip(words, said, strict=True)] == [True] * 3, said


def test_of_a_listed_snapshot_only_what_no_model_reads_may_be_missing(start, tmp_path):
    upstream = Path(shutil.copytree(start, tmp_path / "upstream"))
    (upstream / "README.md").write_text("A model.")
    with HubServer({"models/clinic/small": upstream}) as hub:
        first = locate("clinic/small", "huggingface", address=hub.address, caches=tmp_path)
    assert first.returncode == 0, first.stderr
    (Path(first.stdout.strip()) / "README.md").unlink()
    assert ask("huggingface", "clinic/small", tmp_path).returncode == 0
    (Path(first.stdout.strip()) / "tokenizer_config.json").unlink()
    assert ask("huggingface", "clinic/small", tmp_path).returncode == 1


def test_headers_tell_whole_weights_from_cut_ones(start, tmp_path):
    from thinktune.hub.foreign_caches import require_whole_model
    from thinktune.hub.verification import IncompleteSnapshotError

    folder = Path(shutil.copytree(start, tmp_path / "model"))
    require_whole_model(folder)
    assert load_file(folder / WEIGHTS)
    for body in (b"", b"\xff" * 8, (9).to_bytes(8, "little") + b"[1, 2, 3]", (folder / WEIGHTS).read_bytes() + b"\0"):
        (folder / WEIGHTS).write_bytes(body)
        with pytest.raises(IncompleteSnapshotError, match="is incomplete"):
            require_whole_model(folder)
