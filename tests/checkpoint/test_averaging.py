"""Averages of two models' weights: the numbers, the files, and that no whole tensor is ever in memory."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.tiny_models import KINDS, tiny_model

from thinktune.checkpoint import averaging
from thinktune.checkpoint.averaging import Average, write_average
from thinktune.checkpoint.base_files import StoredAs
from thinktune.checkpoint.weight_files import write_weights
from thinktune.errors import UserError
from thinktune.model.admission import admit_model
from thinktune.model.folder import stored_tensors
from thinktune.model.loading import load_model
from thinktune.train.final_model import base_places, stored_as

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def write(folder, tensors, file="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / file, {"format": "pt"})
    return folder / file


def average(tmp_path, tuned, base, weight, dtype=torch.float32, stored_as=()):
    """Write the average of two sets, of one file each, and return what was written."""
    base_file = write(tmp_path / "base", base)
    files = [write(tmp_path / "tuned", tuned)]
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    places = {name: (base_file, name) for name in base}
    write_average(files, out, out, Average(weight, places), (dtype, dict(stored_as)))
    return {name: tensor for file in sorted(out.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@hypothesis_settings(max_examples=25)
@given(
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]),
    st.lists(st.sampled_from([(), (0,), (1,), (7,), (5, 3), (4, 2, 3)]), min_size=1, max_size=4),
)
def test_each_weight_is_the_average_of_both_in_wide_arithmetic(tmp_path_factory, tuned, base, out, weight, shapes):
    generator = torch.Generator().manual_seed(1)

    def make(dtype):
        return {f"w{n}": torch.randn(shape, generator=generator).to(dtype) for n, shape in enumerate(shapes)}

    after, before = make(tuned), make(base)
    found = average(tmp_path_factory.mktemp("average"), after, before, weight, out)
    assert found.keys() == after.keys()
    for name, tensor in found.items():
        exact = weight * after[name].double() + (1 - weight) * before[name].double()
        assert tensor.dtype == out
        assert tensor.shape == after[name].shape
        torch.testing.assert_close(tensor.double(), exact, rtol=2 * torch.finfo(out).eps, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_are_the_models_themselves_to_the_bit(tmp_path, dtype):
    generator = torch.Generator().manual_seed(2)
    base, tuned = ({"w": torch.randn(9, 5, generator=generator).to(dtype)} for _ in range(2))
    assert average(tmp_path, tuned, base, 0.0, dtype)["w"].equal(base["w"])
    found = average(tmp_path, tuned, base, 1.0, dtype)["w"]
    assert found.equal(tuned["w"])
    write_weights([tmp_path / "tuned" / "model.safetensors"], tmp_path / "out", tmp_path, dtype, {})
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].equal(found)


def test_what_is_no_number_or_in_the_tuned_model_alone_stays_its_own(tmp_path):
    tuned = {"w": torch.ones(2), "ids": torch.tensor([3, 4]), "mask": torch.tensor([True, False]), "own": torch.ones(3)}
    base = {
        "w": torch.zeros(2),
        "ids": torch.tensor([0, 0]),
        "mask": torch.tensor([False, False]),
        "gone": torch.ones(1),
    }
    found = average(tmp_path, tuned, base, 0.5)
    assert found["w"].tolist() == [0.5, 0.5]
    assert found["ids"].tolist() == [3, 4]
    assert found["mask"].tolist() == [True, False]
    assert found["own"].tolist() == [1, 1, 1]
    assert "gone" not in found


def test_files_names_and_dtypes_are_the_bases_and_a_tied_head_is_stored_twice_where_the_base_stores_it_twice(tmp_path):
    embedding = torch.arange(6.0).view(3, 2)
    tuned = {"model.embed.weight": embedding + 1, "model.norm.weight": torch.full((2,), 3.0)}
    write(tmp_path / "base", {"embed.weight": embedding, "head.weight": embedding.clone()}, "a.safetensors")
    write(tmp_path / "base", {"norm.weight": torch.ones(2)}, "b.safetensors")
    files = [write(tmp_path / "tuned", tuned)]
    stored = {
        "embed.weight": StoredAs("a.safetensors", ("embed.weight", "model.embed.weight")),
        "head.weight": StoredAs(
            "a.safetensors", ("head.weight", "model.head.weight", "embed.weight", "model.embed.weight")
        ),
        "norm.weight": StoredAs("b.safetensors", ("norm.weight", "model.norm.weight"), torch.float32),
    }
    places = {}
    for name, each in stored.items():
        for source in each.sources:
            places.setdefault(source, (tmp_path / "base" / each.file, name))
    out = tmp_path / "out"
    out.mkdir()
    write_average(files, out, out, Average(0.5, places), (torch.bfloat16, stored))
    first, second = (load_file(out / name) for name in ("a.safetensors", "b.safetensors"))
    names = {"model.embed.weight", "model.head.weight"}  # a base without a head's prefix gets the class's names
    assert set(first) == names
    assert first["model.embed.weight"].equal((embedding + 0.5).bfloat16())
    assert first["model.head.weight"].equal(first["model.embed.weight"])
    assert second["model.norm.weight"].dtype == torch.float32
    assert second["model.norm.weight"].tolist() == [2, 2]
    index = json.loads((out / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"] == {"total_parameters": 14, "total_size": 32}
    assert set(index["weight_map"]) == names | {"model.norm.weight"}


def test_only_pieces_of_a_tensor_are_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "PIECE_ELEMENTS", 12)
    sizes = []
    real = torch.lerp
    monkeypatch.setattr(torch, "lerp", lambda *args: sizes.append(args[0].numel()) or real(*args))
    generator = torch.Generator().manual_seed(3)
    base, tuned = (
        {"w": torch.randn(11, 5, generator=generator), "b": torch.randn(7, generator=generator)} for _ in range(2)
    )
    found = average(tmp_path, tuned, base, 0.25)
    assert max(sizes) <= 12
    assert all(found[name].equal(real(base[name], tuned[name], 0.25)) for name in found)


def test_another_shape_in_the_base_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"w has the shape \(2, 2\) there and \(4,\) in the tuned model"):
        average(tmp_path, {"w": torch.ones(4)}, {"w": torch.ones(2, 2)}, 0.5)


QUICK = ("qwen3", "qwen3_moe")


@pytest.mark.parametrize(
    "kind", [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in QUICK)]
)
def test_an_average_of_a_class_loads_as_the_average_of_what_both_load_as(tmp_path, kind):
    """Tied weights, and experts that are stored one by one and fused when they are read."""
    base = tmp_path / "base"
    tiny_model(kind).save_pretrained(base)
    model = load_model(base, torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    after = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "tuned")
    weights = admit_model(base).weights
    places = base_places(weights, stored_tensors(tmp_path / "tuned"), tmp_path)
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "tuned", out, ignore=shutil.ignore_patterns("*.safetensors*"))
    files = sorted((tmp_path / "tuned").glob("*.safetensors"))
    write_average(files, out, out, Average(0.25, places), (torch.float32, stored_as(weights, base)))
    assert stored_tensors(out).keys() == stored_tensors(base).keys()
    found = load_model(out, torch.device("cpu")).state_dict()
    assert found.keys() == after.keys()
    for name, tensor in found.items():
        expected = 0.25 * after[name] + 0.75 * before[name] if tensor.is_floating_point() else after[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)
    lost = sorted(stored_tensors(base))[-1]
    with pytest.raises(UserError, match=r"its base stores .* differently from the tuned model"):
        base_places(weights, stored_tensors(base).keys() - {lost}, tmp_path)
