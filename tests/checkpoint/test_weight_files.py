"""Weight files of `final/`: names, files and dtypes as the base has them, from whatever files a checkpoint has."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.bases import keep_head_alone, make_base, make_base_of_kind
from support.runs import quiet, settings, small_tree_of

from thinktune.checkpoint.base_files import StoredAs
from thinktune.checkpoint.weight_files import write_weights
from thinktune.model.folder import stored_tensors
from thinktune.train import train

MASTERS = {
    "model.embed.weight": torch.arange(24.0).view(6, 4) / 7,
    "model.layers.0.weight": torch.arange(16.0).view(4, 4) / 3,
    "model.layers.0.steps": torch.tensor([3, 4]),
    "model.norm.weight": torch.arange(4.0) / 9,
}


@pytest.fixture(params=["one file", "a file for each"])
def checkpoint(request, tmp_path) -> list[Path]:
    """Write the same weights as one rank does, and as many do."""
    groups = [[*MASTERS]] if request.param == "one file" else [[name] for name in MASTERS]
    files = [tmp_path / f"checkpoint-{number}.safetensors" for number in range(len(groups))]
    for file, names in zip(files, groups, strict=True):
        save_file({name: MASTERS[name] for name in names}, file)
    return files


def written(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def write(checkpoint, folder: Path, stored_as, dtype=torch.bfloat16):
    folder.mkdir()
    write_weights(checkpoint, folder, folder, dtype, stored_as)
    return written(folder)


AS_BASE = {
    "model.embed.weight": StoredAs("b.safetensors", ("model.embed.weight", "model.embed.weight")),
    "head.weight": StoredAs("b.safetensors", ("head.weight", "head.weight", "model.embed.weight")),
    "model.layers.0.weight": StoredAs("a.safetensors", ("model.layers.0.weight",)),
    "model.layers.0.steps": StoredAs("a.safetensors", ("model.layers.0.steps",)),
    "model.norm.weight": StoredAs("a.safetensors", ("model.norm.weight",), torch.float32),
}


def test_names_files_and_dtypes_are_the_bases(checkpoint, tmp_path):
    found = write(checkpoint, tmp_path / "final", AS_BASE)
    assert {file: set(weights) for file, weights in found.items()} == {
        "a.safetensors": {"model.layers.0.weight", "model.layers.0.steps", "model.norm.weight"},
        "b.safetensors": {"model.embed.weight", "head.weight"},
    }
    weights = {name: weight for each in found.values() for name, weight in each.items()}
    for name, source in [("model.embed.weight", "model.embed.weight"), ("head.weight", "model.embed.weight")]:
        assert weights[name].equal(MASTERS[source].bfloat16())
    assert weights["model.norm.weight"].equal(MASTERS["model.norm.weight"])
    assert weights["model.layers.0.steps"].equal(MASTERS["model.layers.0.steps"])
    index = json.loads((tmp_path / "final" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: AS_BASE[name].file for name in AS_BASE}
    assert index["metadata"] == {
        "total_parameters": sum(weight.numel() for weight in weights.values()),
        "total_size": sum(weight.nbytes for weight in weights.values()),
    }
    with safe_open(tmp_path / "final" / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("misfit", ["a weight of the base is not in the checkpoint", "a weight has no place", "a part"])
def test_where_the_bases_places_do_not_fit_the_weights_stay_whole_under_their_own_names(checkpoint, tmp_path, misfit):
    places = dict(AS_BASE)
    if misfit == "a part":
        places = {}
    elif misfit == "a weight has no place":
        del places["model.norm.weight"]
    else:
        places["other.weight"] = StoredAs("a.safetensors", ("other.weight",))
    found = write(checkpoint, tmp_path / "final", places, torch.float32)
    assert sorted(found) == [path.name for path in checkpoint]
    weights = {name: weight for each in found.values() for name, weight in each.items()}
    assert weights.keys() == MASTERS.keys()
    assert all(weights[name].equal(MASTERS[name]) for name in MASTERS)


def test_a_body_without_its_head_becomes_a_model_with_one(checkpoint, tmp_path):
    places = {
        name.removeprefix("model."): StoredAs("model.safetensors", (name.removeprefix("model."), name))
        for name in MASTERS
    }
    assert write(checkpoint, tmp_path / "final", places)["model.safetensors"].keys() == MASTERS.keys()


def test_one_file_of_the_usual_name_has_no_index(checkpoint, tmp_path):
    single = {name: StoredAs("model.safetensors", (name,)) for name in MASTERS}
    assert write(checkpoint, tmp_path / "final", single).keys() == {"model.safetensors"}
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["model.safetensors"]


def test_a_damaged_checkpoint_is_named(checkpoint, tmp_path):
    checkpoint[0].unlink()
    with pytest.raises(OSError, match="checkpoint-0"):
        write(checkpoint, tmp_path / "final", AS_BASE)


def places_of(folder: Path) -> dict[str, tuple]:
    return {name: (each.file.name, each.shape, each.dtype) for name, each in stored_tensors(folder).items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a head alone", "qwen3_moe", "deepseek_v3", "gpt_oss", "gpt2", "gemma3_text", "lfm2"])
def test_trained_models_of_other_kinds_have_their_bases_weight_files(tmp_path, kind):
    if kind == "a head alone":
        base = keep_head_alone(make_base(tmp_path / "base", "tied"))
    else:
        base = make_base_of_kind(tmp_path / "base", kind)
    run = train(settings({**small_tree_of(tmp_path, base), "generate": {"sample_questions": 0}}), quiet)
    assert places_of(run / "final") == places_of(base)
    assert kind == "a head alone" or len({file for file, _, _ in places_of(base).values()}) > 1
