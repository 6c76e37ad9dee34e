"""Compiled layers and the activation budget: the same numbers, one graph, less memory as the budget falls."""

import copy

import numpy as np
import pytest
import torch
from support.compiled_layers import fresh_compiler, layered_model, padded_batches
from support.tiny_models import KINDS, tiny_config, tiny_model
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM

from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.inference.kv_cache import KVCache
from thinktune.model.admission import read_config
from thinktune.model.batch import make_padding, pack
from thinktune.model.device import supports_triton
from thinktune.model.forward import cache_argument, evaluate_loss, hidden_states
from thinktune.model.proof import ModelTraits
from thinktune.model.transforms import apply_activation_budget, compile_layers, fits_compiler
from thinktune.tokenization import Rendered
from thinktune.train.step import warm_up

LENGTHS = (5, 9, 17, 33, 12, 40, 7, 21, 30, 2)
CPU = torch.device("cpu")
FAST = "aot_eager"  # the compiler's front and its gradients; slow tests have all of it
LAYER_AND_NORM = 2  # what is compiled of Qwen3: its layer, and the norm after the last one


@pytest.fixture
def layered(tokenizer):
    return layered_model(tokenizer, 4)


@pytest.fixture(autouse=True)
def fresh():
    with fresh_compiler():
        yield


@pytest.fixture(scope="module")
def batches():
    return padded_batches(LENGTHS, 300)


def gradients(model, batch):
    model.train()
    states = hidden_states(model, batch)
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    (states * weights).mean().backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    return states.detach(), found


@pytest.mark.parametrize(
    ("device", "capability", "triton", "compiled"),
    [
        ("cuda", (9, 0), True, True),
        ("cuda", (7, 5), True, True),
        ("cuda", (6, 1), True, False),
        ("cuda", (9, 0), False, False),
        ("npu", None, True, False),
        ("mps", None, True, False),
        ("cpu", None, True, False),
    ],
)
def test_layers_are_compiled_where_the_compiler_is_good(device, capability, triton, compiled):
    assert supports_triton(device, capability, triton) == compiled


def test_layers_that_share_no_graph_are_compiled_one_by_one(tokenizer, batches):
    """Beyond eight graphs of one function torch ends the run, unless it is told of more."""
    model = make_model(tokenizer, ModelShape(num_layers=9))
    model.set_attn_implementation("thinktune_rows")
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.scaling *= 1 + index / 100
    expected = hidden_states(copy.deepcopy(model), batches[0])
    compile_layers(model, "eager")
    torch.testing.assert_close(hidden_states(model, batches[0]), expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 9 + 1


def compiled_equals_plain(layered, batches, backend, close):
    plain = copy.deepcopy(layered)
    compile_layers(layered, backend)
    warm_up(layered, batches[0], torch.float32)
    graphs = 2 * LAYER_AND_NORM  # to learn and to evaluate, whatever the number of layers
    assert counters["stats"]["unique_graphs"] == graphs
    assert all(weight.grad is None for weight in layered.parameters())
    assert len(batches) > 2
    for batch in batches:
        states, found = gradients(layered, batch)
        expected, wanted = gradients(plain, batch)
        torch.testing.assert_close(states, expected, **close)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, **close, msg=lambda text, name=name: f"{name}: {text}")
    mine, theirs = (
        evaluate_loss(model, batches, CPU, torch.float32).mean_losses()["loss"] for model in (layered, plain)
    )
    assert mine == pytest.approx(theirs, rel=1e-6)
    assert counters["stats"]["unique_graphs"] == graphs  # rows differ from batch to batch, shapes never do
    assert not counters["graph_break"]


def test_compiled_layers_give_the_same_in_one_graph(layered, batches):
    compiled_equals_plain(layered, batches, FAST, {"rtol": 1e-4, "atol": 1e-5})


@pytest.mark.slow
def test_all_of_the_compiler_gives_the_same(layered, batches):
    compiled_equals_plain(layered, batches, "inductor", {"rtol": 1e-3, "atol": 1e-5})


def test_compiled_layers_keep_the_names_of_weights(layered, tmp_path):
    names = list(layered.state_dict())
    compile_layers(layered, FAST)
    assert list(layered.state_dict()) == names
    assert [name for name, _ in layered.named_modules() if "_orig_mod" in name] == []
    layered.save_pretrained(tmp_path)
    kept = type(layered).from_pretrained(tmp_path).state_dict()
    assert all(kept[name].equal(weight) for name, weight in layered.state_dict().items())


def test_generation_runs_layers_that_are_not_compiled(layered):
    compile_layers(layered, FAST)
    with torch.no_grad():
        for size in (3, 4, 5):
            layered(torch.arange(3, 3 + size)[None], use_cache=True)
    assert not counters["stats"]["unique_graphs"]


def as_another_release(layer, inside, outside):
    """Make a layer that takes its cache as `outside` call what it wraps with `inside`."""
    forward = layer.forward

    def renamed(*arguments, **options):
        if outside in options:
            options[inside] = options.pop(outside)
        return forward(*arguments, **options)

    layer.forward = renamed


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_prompts_of_any_length_are_read_into_a_cache_without_the_compiler(layered, name):
    plain = copy.deepcopy(layered).eval()
    own = cache_argument(layered)
    for layer in layered.model.layers:
        as_another_release(layer, own, name)
    compile_layers(layered, backend="eager")
    for layer in layered.model.layers:
        as_another_release(layer, name, own)
    layered.eval()
    with torch.no_grad():
        for length in range(3, 14):  # dynamo gives up at its ninth graph of one function
            prompt = list(range(5, 5 + length))
            cache = KVCache(layered)
            torch.testing.assert_close(cache.prefill([prompt]), KVCache(plain).prefill([prompt]))
            cache.extend([[7]])
    assert not counters["stats"]["unique_graphs"]


def kept_bytes(model, batch):
    """Of all that is kept for the backward pass besides the weights, each storage once."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def pack_hook(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        states = hidden_states(model.train(), batch)
    del states
    return sum(kept.values())


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_a_lower_budget_keeps_less_and_learns_the_same(layered, batches, compiled):
    expected, wanted = gradients(copy.deepcopy(layered), batches[0])
    sizes = []
    for budget in (1.0, 0.5, 0.0):
        torch._dynamo.reset()
        model = copy.deepcopy(layered)
        apply_activation_budget(model, budget, compiled)
        if compiled:
            compile_layers(model, FAST)
        states, found = gradients(model, batches[0])
        torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-6)
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
            assert compiled or found[name].equal(gradient)
        sizes.append(kept_bytes(model, batches[0]))
    assert sizes[0] > 1.2 * sizes[1] > 1.4 * sizes[2]


@pytest.mark.parametrize(("budget", "recomputed"), [(1.0, 0), (0.9, 0), (0.7, 1), (0.5, 2), (0.2, 3), (0.0, 4)])
def test_without_the_compiler_the_first_layers_are_run_again(layered, batches, budget, recomputed):
    apply_activation_budget(layered, budget, compiled=False)
    passes = [0] * 4
    for index, layer in enumerate(layered.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, index=index: passes.__setitem__(index, passes[index] + 1))
    gradients(layered, batches[0])
    assert passes == [2] * recomputed + [1] * (4 - recomputed)


class Products:
    """A backend that counts the multiplications of matrices in all graphs, forward and backward."""

    def __init__(self):
        from torch._dynamo.backends.common import aot_autograd
        from torch._functorch.partitioners import min_cut_rematerialization_partition

        self.operations = 0
        self.backend = aot_autograd(
            fw_compiler=self.count, bw_compiler=self.count, partition_fn=min_cut_rematerialization_partition
        )

    def count(self, graph, _examples):
        for node in graph.graph.nodes:
            if node.target in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                left, right = (argument.meta["val"].shape for argument in node.args[-2:])
                self.operations += 2 * left[0] * left[1] * right[1]
        from functorch.compile import make_boxed_func

        return make_boxed_func(graph.forward)


def test_full_recomputation_multiplies_a_quarter_more_and_a_mild_budget_nothing(layered, batches):
    found = {}
    for budget in (1.0, 0.7, 0.0):
        torch._dynamo.reset()
        model, products = copy.deepcopy(layered), Products()
        apply_activation_budget(model, budget, compiled=True)
        compile_layers(model, products.backend)
        gradients(model, batches[0])
        found[budget] = products.operations
    attention, gated, down = 64 * (64 + 32 + 32 + 64), 64 * 2 * 128, 64 * 128  # weights of one layer
    forward = 2 * 64 * (attention + gated + down)
    assert found[1.0] == found[0.7] == 3 * forward
    assert found[0.0] == 4 * forward - 2 * 64 * down  # the last product is not needed again


def test_outputs_that_a_configuration_asks_for_do_not_break_the_graph(batches, tmp_path):
    config = tiny_config("qwen3_moe")
    config.vocab_size = 320
    assert config.output_router_logits
    config.save_pretrained(tmp_path)
    # The experts' other kernel, in its form for float32, has a backward pass that transformers 5.17 cannot trace.
    kinds = {"attn_implementation": "thinktune_rows", "experts_implementation": "batched_mm"}
    model = AutoModelForCausalLM.from_config(read_config(tmp_path), **kinds)
    expected = hidden_states(copy.deepcopy(model).train(), batches[0])
    compile_layers(model, FAST)
    torch.testing.assert_close(hidden_states(model.train(), batches[0]), expected, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == LAYER_AND_NORM


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.rows == "packed"])
def test_every_kind_of_decoder_has_a_graph_for_each_kind_of_layer(name):
    """Gemma 4 has four: more than torch's limit of 8 graphs takes, with two shapes and evaluations."""
    model = tiny_model(name, attention="thinktune_rows").eval()  # without dropout, which draws anew
    model.config.output_router_logits = False  # as `read_config` has it
    if not fits_compiler(model):
        pytest.skip("transformers says that it does not fit the compiler: it is not compiled")
    model.thinktune_traits = ModelTraits("packed")
    drawn = np.random.default_rng(0)
    rows = [Rendered(drawn.integers(3, 150, size).astype(np.int32), np.zeros(size, np.uint8), "r") for size in (5, 33)]
    [batch] = pack(rows, 64, pad=make_padding(0, (5, 33), 64))
    expected = hidden_states(model, batch).detach()
    compile_layers(model, "eager")
    torch.testing.assert_close(hidden_states(model, batch), expected, rtol=1e-4, atol=1e-5)
    kinds = counters["stats"]["unique_graphs"] - 1
    assert 1 <= kinds <= 4
    with torch.no_grad():
        hidden_states(model, batch)
    assert counters["stats"]["unique_graphs"] == 2 * (kinds + 1)
    assert not counters["graph_break"]
