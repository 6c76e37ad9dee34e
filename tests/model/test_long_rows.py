"""Long rows: layer inputs in host memory and MLPs in tiles give the numbers of a plain pass, in less memory."""

import copy
import gc
import weakref

import pytest
import torch
from support.compiled_layers import fresh_compiler, layered_model, padded_batches
from support.tiny_models import KINDS, tiny_config
from torch._dynamo.utils import counters
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from thinktune.errors import UserError
from thinktune.model.forward import compute_loss
from thinktune.model.long_rows import activation_offload
from thinktune.model.long_rows.activation_offload import ActivationOffloader, offload_layer_inputs
from thinktune.model.long_rows.tiled_mlp import tile_mlps, tileable_activation
from thinktune.model.transforms import apply_activation_budget, compile_layers, uncompile_layers
from thinktune.model.twin import fill_weights
from thinktune.planner.trace import LiveBytes

LENGTHS = (5, 9, 17, 33, 12, 40, 7, 21, 30, 2)
CPU = torch.device("cpu")
LAYERS = 6


@pytest.fixture
def layered(tokenizer):
    return layered_model(tokenizer, LAYERS).train()


@pytest.fixture(autouse=True)
def fresh():
    with fresh_compiler():
        yield


@pytest.fixture(scope="module")
def batches():
    return padded_batches(LENGTHS, 150)


def gradients(model, batches, precision=torch.float32):
    """Return the losses of all batches, and the gradients that add up over them, a backward pass each."""
    losses = []
    for batch in batches:
        scaled, each = compute_loss(model, batch, 0.01, precision, None)
        scaled.backward()
        losses.append(each)
    found = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    return torch.cat(losses), found


def assert_equal(mine, theirs, **close):
    torch.testing.assert_close(mine[0], theirs[0], **close)
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(mine[1][name], gradient, **close, msg=lambda text, name=name: f"{name}: {text}")


BITS = {"rtol": 0, "atol": 0}


def test_offloaded_inputs_change_no_bit_of_losses_and_gradients(layered, batches):
    wanted = gradients(copy.deepcopy(layered), batches)
    offload_layer_inputs(layered, compiled=False)
    assert_equal(gradients(layered, batches), wanted, **BITS)
    assert_equal(gradients(layered, batches), wanted, **BITS)  # and again, on what the first passes left behind


def test_compiled_layers_hand_over_their_inputs_alone_and_need_no_graph_of_their_own(layered, batches, monkeypatch):
    packed = counted_packs(monkeypatch)
    plain = copy.deepcopy(layered)
    for model in (plain, layered):
        apply_activation_budget(model, 0.0, compiled=True)
        compile_layers(model, "aot_eager")
    offload_layer_inputs(layered, compiled=True)
    found = gradients(layered, batches)
    assert counters["stats"]["unique_graphs"] == 2  # of the layers, and of the norm after them
    assert packed == [(1, 64, layered.config.hidden_size)] * LAYERS * len(batches)
    torch._dynamo.reset()
    assert_equal(found, gradients(plain, batches), **BITS)


def counted_packs(monkeypatch):
    """Return a list that gets the shape of each tensor whose copy to the host begins."""
    packed, own = [], ActivationOffloader.pack

    def pack(offloader, tensor):
        packed.append(tuple(tensor.shape))
        return own(offloader, tensor)

    monkeypatch.setattr(ActivationOffloader, "pack", pack)
    return packed


def test_an_input_that_is_saved_in_another_shape_leaves_too(monkeypatch):
    packed = counted_packs(monkeypatch)
    weight = torch.randn(8, 8, requires_grad=True)
    states = torch.randn(1, 6, 8, requires_grad=True)

    def layer(hidden):
        return (hidden.view(6, 8)[2:] @ weight).sum() + hidden.square().sum()  # a product saves a part of its view

    wanted = torch.autograd.grad(layer(states), (weight, states))
    offloaded = activation_offload._offloading(layer, ActivationOffloader(CPU), recompute=False)
    found = torch.autograd.grad(offloaded(states), (weight, states))
    assert all(mine.equal(theirs) for mine, theirs in zip(found, wanted, strict=True))
    assert packed == [(1, 6, 8)]


def test_a_pass_without_gradients_copies_nothing(layered, batches, monkeypatch):
    packed = counted_packs(monkeypatch)
    offload_layer_inputs(layered, compiled=False)
    with torch.no_grad():
        compute_loss(layered, batches[0], 1.0, torch.float32, None)
    assert not packed


def test_a_pass_that_is_given_up_leaves_nothing_behind(layered, batches):
    """As in the compiler's warm-up: gradients of the last layer only, and what is left goes with the graph."""
    wanted = gradients(copy.deepcopy(layered), batches)
    offload_layer_inputs(layered, compiled=False)
    scaled, _ = compute_loss(layered, batches[0], 1.0, torch.float32, None)
    torch.autograd.grad(scaled, list(layered.model.layers[-1].parameters()))
    del scaled
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is activation_offload.OffloadedInput]
    assert_equal(gradients(layered, batches), wanted, **BITS)


@pytest.mark.parametrize("offloaded", [False, True])
def test_the_device_holds_a_few_inputs_whatever_the_number_of_layers(offloaded):
    """Forward through many layers on a device without memory, whose live storages are counted."""
    held = []
    for layers in (8, 16):
        with torch._subclasses.fake_tensor.FakeTensorMode(), LiveBytes(torch.device("meta")) as live:
            offloader = ActivationOffloader(torch.device("meta"))
            states, kept = torch.empty(1, 64, 32, device="meta"), []
            for _ in range(layers):
                kept.append(offloader.pack(states) if offloaded else states)
                states = torch.empty_like(states)
            held.append(live.peak_bytes / states.nbytes)
            live.reset_peak()
            del states
            while kept:
                found = offloader.unpack(kept.pop()) if offloaded else kept.pop()
                del found
            held.append(live.peak_bytes / (64 * 32 * 4))
    assert (max(held) <= activation_offload.LEAVING_INPUTS + 2) == offloaded
    assert (held[:2] == held[2:]) == offloaded


@pytest.mark.parametrize("compiled", [False, True])
def test_after_a_forward_pass_the_last_inputs_alone_are_on_the_device(layered, batches, compiled):
    """No storage of the others is left, whatever autograd keeps of the hooks that took them."""
    if compiled:
        apply_activation_budget(layered, 0.0, compiled=True)
        compile_layers(layered, "aot_eager")
    offload_layer_inputs(layered, compiled=compiled)
    inputs = []
    for layer in layered.model.layers:
        layer.register_forward_pre_hook(lambda _, given: inputs.append(weakref.ref(given[0].untyped_storage())))
    scaled, _ = compute_loss(layered, batches[0], 1.0, torch.float32, None)
    left = [storage() is not None for storage in inputs]
    assert left == [False] * (LAYERS - activation_offload.LEAVING_INPUTS) + [True] * activation_offload.LEAVING_INPUTS
    scaled.backward()


def test_a_view_of_an_input_in_another_dtype_stays_what_it_is(monkeypatch):
    packed = counted_packs(monkeypatch)
    weight, states = (
        torch.ones(6, 8, 2, requires_grad=True),
        torch.randn(6, 8, dtype=torch.complex64, requires_grad=True),
    )

    def layer(hidden):
        return (torch.view_as_real(hidden) * weight).sum()

    wanted = torch.autograd.grad(layer(states), weight)
    offloaded = activation_offload._offloading(layer, ActivationOffloader(CPU), recompute=False)
    assert torch.autograd.grad(offloaded(states), weight)[0].equal(wanted[0])
    assert not packed


def test_a_class_that_cannot_be_recomputed_is_refused(layered):
    layered.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match=r"expert\.offload_activations: is true, and Qwen3"):
        offload_layer_inputs(layered, compiled=False)


TILES = {"rtol": 0, "atol": 1e-6}


@pytest.mark.parametrize("tile", [1, 7, 64])
def test_tiles_of_any_size_give_the_same(layered, batches, tile):
    wanted = gradients(copy.deepcopy(layered), batches)
    assert tile_mlps(layered, tile)
    assert_equal(gradients(layered, batches), wanted, **TILES)


def test_tiles_in_compiled_layers_and_with_inputs_on_the_host(layered, batches):
    wanted = gradients(copy.deepcopy(layered), batches)
    assert tile_mlps(layered, 16)
    apply_activation_budget(layered, 0.0, compiled=True)
    compile_layers(layered, "aot_eager")
    offload_layer_inputs(layered, compiled=True)
    assert_equal(gradients(layered, batches), wanted, **TILES)
    assert counters["stats"]["unique_graphs"] == 2  # of the layers, and of the norm after them


def test_tiles_keep_the_rounding_of_bf16(layered, batches):
    """Against fp32, tiles are as far as a plain pass in bf16 is: gradients of weights are summed in fp32."""
    exact = gradients(copy.deepcopy(layered), batches)
    plain = layered.to(torch.bfloat16)
    tiled = copy.deepcopy(plain)
    assert tile_mlps(tiled, 8)
    names = [name for name in exact[1] if "mlp" in name]
    assert len(names) == 3 * LAYERS

    def distance(model):
        found = gradients(model, batches, torch.bfloat16)[1]
        return sum(float((found[name].float() - exact[1][name]).square().sum()) for name in names) ** 0.5

    assert distance(tiled) < 1.1 * distance(plain)


ACTIVATION = {
    "qwen3": "silu", "llama": "silu", "gemma2": "gelu_tanh", "gemma3_text": "gelu_tanh",
    "seed_oss": None,  # which drops some of what its MLP gives
    "gpt_oss": None, "qwen3_moe": None, "phi3": None, "gpt2": None,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].rows == "packed"])
def test_what_is_tiled_is_right_and_what_is_not_is_left_alone(name, batches):
    """Of every kind of decoder: tiles give the same, or the class is not taken for a plain gated MLP."""
    if KINDS[name].type not in CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {KINDS[name].type}")
    config = tiny_config(name)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).train()
    fill_weights(model, 0)
    model.set_attn_implementation("thinktune_rows")
    found = tileable_activation(model)
    assert found == ACTIVATION.get(name, found)
    plain = copy.deepcopy(model)
    assert tile_mlps(model, 16) == (found is not None)
    if found:
        assert_equal(gradients(model, batches), gradients(plain, batches), rtol=1e-4, atol=1e-5)


def test_layers_that_are_let_go_run_as_before_without_what_was_wrapped_around_them(layered, batches):
    plain = [layer.forward for layer in layered.model.layers]
    wanted = gradients(copy.deepcopy(layered), batches)
    compile_layers(layered, "aot_eager")
    offload_layer_inputs(layered, compiled=True)
    uncompile_layers(layered)
    assert [layer.forward for layer in layered.model.layers] == plain
    offload_layer_inputs(layered, compiled=False)
    counters.clear()
    assert_equal(gradients(layered, batches), wanted)
    assert not counters["stats"]
