"""Sharded loading of any class: buffers are what a single device has, and what cannot be sharded is refused in words."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from support.planned_models import planned_config
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoConfig, AutoModelForCausalLM

from thinktune.model import loading
from thinktune.model.folder import stored_tensors
from thinktune.model.stored_weights import MatchedWeights, match_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("rank") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
    dist.destroy_process_group()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write a model of a kind; its class is taken as admitted."""

    def admit(folder, **_):
        config = AutoConfig.from_pretrained(folder)
        model = loading.meta_model(folder, config, torch.float32)
        return SimpleNamespace(config=config, weights=match_weights(model, stored_tensors(folder), folder), notes=())

    monkeypatch.setattr(loading, "admit_model", admit)

    def write(kind):
        model = AutoModelForCausalLM.from_config(planned_config(kind), dtype=torch.float32)
        for name, buffer in model.named_buffers():
            if name in model.state_dict():
                buffer.uniform_(0.5, 1)  # as training may have left it
        model.save_pretrained(tmp_path)
        return model

    return write


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "dynamic rope",
        "partial rope",
        "windows",
        "shared keys",
        "convolutions",
        "state and attention in one layer",
    ],
)
def test_weights_and_buffers_of_any_class_are_those_of_a_single_device(kind, folder, mesh, tmp_path):
    model = folder(kind)
    sharded = loading.load_sharded_model(tmp_path, mesh, CPU, torch.float32)
    buffers, weights = dict(sharded.named_buffers()), dict(sharded.named_parameters())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert all(torch.equal(weights[name].full_tensor(), weight) for name, weight in model.named_parameters())


def test_a_buffer_that_only_building_computes_is_refused(folder, tmp_path):
    folder("plain")
    config = AutoConfig.from_pretrained(tmp_path)
    model = loading.meta_model(tmp_path, config, torch.float32)
    weights = match_weights(model, stored_tensors(tmp_path), tmp_path)
    assert loading.sharding_fault(model, weights, tmp_path) is None
    model.model.layers[1].register_buffer("scales", torch.ones(3, device="meta"), persistent=False)
    fault = loading.sharding_fault(model, weights, tmp_path)
    assert "several ranks cannot compute model.layers.1.scales, which the class computes while it is built" in fault
    assert "train it on one card" in fault


def test_experts_that_are_fused_when_they_are_read_are_refused_on_many_ranks(tmp_path):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(planned_config("experts"))
    names = {name: name for name, _ in model.named_parameters() if ".experts." not in name}
    fault = loading.sharding_fault(model, MatchedWeights({}, names, ()), tmp_path)
    assert "model.layers.0.mlp.experts.down_proj" in fault
    assert "several ranks cannot read yet; train it on one card" in fault
