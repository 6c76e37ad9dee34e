"""Joined products: the same states, gradients, updates and files, with fewer matrix products."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from functorch.compile import make_boxed_func
from support.compiled_layers import fresh_compiler, layered_model, padded_batches
from support.runs import equal, quiet, settings, stop_after
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch.partitioners import min_cut_rematerialization_partition

from thinktune.config.schema import TrainConfig
from thinktune.model import transforms
from thinktune.model.forward import evaluate_loss, hidden_states
from thinktune.model.transforms import compile_layers
from thinktune.optim import Optimizer
from thinktune.planner.resolve import batch_shapes
from thinktune.train import setup, train
from thinktune.train.joined_linear import JoinedLinear, join_products
from thinktune.train.step import warm_up

LENGTHS = (5, 9, 17, 33, 12, 40, 7, 21)
JOINED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
CPU, CARD = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def fresh():
    with fresh_compiler():
        yield


@pytest.fixture
def plain(tokenizer):
    return layered_model(tokenizer, 3)


@pytest.fixture(scope="module")
def batches():
    return padded_batches(LENGTHS, 300)


def gradients(model, batch):
    states = hidden_states(model.train(), batch)
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    (states * weights).mean().backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    return states.detach(), found


def joined_storages(model):
    """How many of the weights that are joined lie in a storage with others."""
    places = [
        weight.untyped_storage().data_ptr()
        for name, weight in model.named_parameters()
        if name.split(".")[-2] in JOINED
    ]
    return sum(places.count(place) > 1 for place in places)


@pytest.mark.slow
def test_joined_products_give_the_same_states_and_gradients_in_as_many_graphs(plain, batches):
    joined = copy.deepcopy(plain)
    assert join_products(joined, torch.float32) == 2 * 3
    for model in (plain, joined):
        compile_layers(model, "aot_eager")
    warm_up(joined, batches[0], torch.float32)
    assert counters["stats"]["unique_graphs"] == 4  # of the layers and of the norm after them, to learn and to evaluate
    for batch in batches:
        (states, found), (expected, wanted) = gradients(joined, batch), gradients(plain, batch)
        torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-6)
        assert list(found) == list(wanted)
        for name, gradient in wanted.items():
            torch.testing.assert_close(
                found[name], gradient, rtol=1e-4, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}"
            )
    losses = [evaluate_loss(model, batches, CPU, torch.float32).mean_losses()["loss"] for model in (joined, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert not counters["graph_break"]


def products(model, batch):
    """Matrix products in the graphs of both passes of a layer."""
    counts = []

    def count(module, _):
        counts.append(sum(node.target == torch.ops.aten.mm.default for node in module.graph.nodes))
        return make_boxed_func(module.forward)

    compile_layers(
        model, aot_autograd(fw_compiler=count, bw_compiler=count, partition_fn=min_cut_rematerialization_partition)
    )
    gradients(model, batch)
    return [count for count in counts if count]  # the norm after the layers has none


def test_a_layer_has_four_products_forward_and_eight_backward(plain, batches):
    joined = copy.deepcopy(plain)
    join_products(joined, torch.float32)
    assert products(plain, batches[0]) == [7, 14]
    torch._dynamo.reset()
    assert products(joined, batches[0]) == [4, 8]


def test_outside_the_compiler_nothing_changes(plain, batches):
    joined = copy.deepcopy(plain)
    join_products(joined, torch.float32)
    assert list(joined.state_dict()) == list(plain.state_dict())
    (states, found), (expected, wanted) = gradients(joined, batches[0]), gradients(plain, batches[0])
    assert states.equal(expected)
    assert all(found[name].equal(gradient) for name, gradient in wanted.items())
    for layer in joined.model.layers:
        assert layer.self_attn.q_proj.joined._parts == {}


@pytest.mark.parametrize("memory", ["exact", "8bit"])
@pytest.mark.parametrize("inside", [False, True])
def test_an_optimizer_updates_joined_weights_as_it_updates_others(plain, batches, memory, inside):
    """The same gradients, so the same bits; and products of later steps see the updated weights."""
    joined = copy.deepcopy(plain)
    settings = TrainConfig(rows_per_step=1, memory=memory, update_in_backward=inside)
    models = {"plain": plain, "joined": joined}
    optimizers = {
        "plain": Optimizer(plain, settings),
        "joined": Optimizer(joined, settings, lambda: join_products(joined, torch.bfloat16)),
    }
    assert joined_storages(plain) == 0
    for step in (1, 2):
        for name, model in models.items():
            optimizers[name].begin_step(step, 1e-2)
            hidden_states(model.train(), batches[step]).float().pow(3).mean().backward()
            optimizers[name].finish_step()
        assert all(weight.equal(plain.state_dict()[name]) for name, weight in joined.state_dict().items())
    assert joined_storages(joined) == 5 * 3
    for name, tensor in optimizers["plain"].state_dict().items():
        assert optimizers["joined"].state_dict()[name].equal(tensor)
    for layer in joined.model.layers:
        own = torch.cat([getattr(layer.self_attn, name).weight for name in JOINED[:3]])
        assert layer.self_attn.q_proj.joined.weight.equal(own)


def test_what_cannot_be_joined_exactly_stays(plain, tokenizer):
    assert join_products(copy.deepcopy(plain), torch.bfloat16) == 0  # would be cast in every pass
    biased = copy.deepcopy(plain)
    biased.model.layers[0].self_attn.k_proj.bias = torch.nn.Parameter(torch.zeros(32))
    shared = copy.deepcopy(plain)
    shared.model.layers[1].mlp.up_proj.weight = shared.model.layers[0].mlp.up_proj.weight
    frozen = copy.deepcopy(plain)
    frozen.model.layers[2].self_attn.q_proj.weight.requires_grad_(False)
    other = copy.deepcopy(plain)
    other.model.layers[0].mlp.gate_proj.__class__ = type("Other", (torch.nn.Linear,), {})
    for model, count in ((biased, 5), (shared, 4), (frozen, 5), (other, 5)):
        assert join_products(model, torch.float32) == count
        assert sum(isinstance(module, JoinedLinear) for module in model.modules()) == joined_storages(model)


def test_a_saved_model_is_the_same_file_by_file(plain, tmp_path):
    joined = copy.deepcopy(plain)
    join_products(joined, torch.float32)
    for name, model in (("plain", plain), ("joined", joined)):
        model.save_pretrained(tmp_path / name)
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "joined" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["exact", "8bit"])
def test_a_run_with_joined_products_resumes_bit_for_bit(tree, memory, monkeypatch):
    """With the compiler's front on the CPU, where runs compile nothing by themselves."""
    monkeypatch.setattr(transforms, "can_compile", lambda _: True)
    monkeypatch.setattr(transforms, "compile_layers", partial(compile_layers, backend="aot_eager"))
    monkeypatch.setattr(setup, "batch_shapes", lambda inputs, *rest: batch_shapes(replace(inputs, device=CARD), *rest))
    joined = []
    monkeypatch.setattr(setup, "join_products", lambda *given: joined.append(join_products(*given)))
    options = {"memory": memory, "activation_budget": 1}
    whole = train(settings(tree, name="whole", train=options), quiet)
    with pytest.raises(KeyboardInterrupt):
        train(settings(tree, name="cut", train=options), stop_after(3))
    cut = train(settings(tree, name="cut", train=options), quiet)
    equal(whole, cut)
    assert joined == 3 * [2 * 2]
    train(settings(tree, name="recomputed", train=options | {"activation_budget": 0.5}), quiet)
    assert len(joined) == 3  # there it does not pay
