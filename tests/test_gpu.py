"""Tests that need a card: `pytest -m gpu`; without a card they are skipped."""

import copy

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy

from thinktune.config.schema import TrainConfig
from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.distributed.world import World
from thinktune.inference import SamplingParams
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.sampling.sampler import Sampler, draw
from thinktune.model.attention import set_attention
from thinktune.model.batch import make_padding, pack
from thinktune.model.forward import evaluate_loss, hidden_states
from thinktune.model.loss import LabelWeights, LogitChunks, linear_cross_entropy
from thinktune.model.low_precision.float8 import apply_float8, float8_problem
from thinktune.model.transforms import apply_activation_budget, can_compile, compile_layers
from thinktune.optim.optimizer import Optimizer
from thinktune.tokenization import Rendered
from thinktune.train.samples import any_operations
from thinktune.train.step import step, warm_up

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card on this machine: nothing here was checked"),
]
CARD = torch.device("cuda")
LENGTHS = (50, 90, 170, 330, 120, 400, 70, 210, 300, 20)
GRAPHS = 4  # of a run: the layer and the norm after the last one, to learn and to evaluate
SIZE = ModelShape(hidden_size=256, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=64, intermediate_size=512)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch._functorch.config.activation_memory_budget = 1.0


@pytest.fixture
def made(tokenizer):
    return make_model(tokenizer, SIZE).to(CARD)


@pytest.fixture(scope="module")
def card_rows():
    generator = np.random.default_rng(0)
    return [
        Rendered(
            generator.integers(3, 300, size).astype(np.int32), np.array([0, *[2] * (size - 1)], np.uint8), f"r:{size}"
        )
        for size in LENGTHS
    ]


def packed(rows, capacity=640):
    return [batch.to(CARD) for batch in pack(rows, capacity, pad=make_padding(0, LENGTHS, capacity))]


def near(mine, theirs, tolerance, name=""):
    """Compare by the norm of the difference: single numbers near zero mean nothing in bf16."""
    error = (mine.float() - theirs.float()).norm() / theirs.float().norm().clamp(min=1e-12)
    assert error < tolerance, f"{name}: differs by {error.item():.2e} of its norm"


# On a CPU, too, the gradient of one bf16 norm differs from fp32's by 2.8e-2 of itself.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_packed_equals_alone(made, card_rows, dtype, tolerance):
    """Compare each row by transformers' own attention in fp32 with the path of this card: states and gradients."""
    generator = torch.Generator(CARD).manual_seed(0)
    alone = copy.deepcopy(made)
    alone.set_attn_implementation("sdpa")
    chosen = set_attention(made.to(dtype), dtype)
    assert chosen == ("thinktune_rows" if dtype == torch.float32 else "thinktune_varlen")
    by_name = {row.source: row for row in card_rows}
    for batch in packed(card_rows):
        mine = hidden_states(made, batch)[: batch.unpadded_tokens]
        ids = [torch.from_numpy(by_name[name].ids.astype("int64"))[None].to(CARD) for name in batch.row_sources]
        theirs = torch.cat([alone.model(each).last_hidden_state[0] for each in ids])
        near(mine, theirs, tolerance)
        weights = torch.randn(theirs.shape, device=CARD, generator=generator)
        (mine.float() * weights).sum().backward()
        (theirs * weights).sum().backward()
    for (name, weight), other in zip(made.named_parameters(), alone.parameters(), strict=True):
        near(weight.grad, other.grad, tolerance, name)


@pytest.mark.parametrize("memory", ["fp32", "exact", "8bit"])
@pytest.mark.parametrize("compiled", [False, True])
def test_no_step_waits_for_the_card(made, card_rows, memory, compiled):
    """CUDA's own check raises at the first wait, copies of the next batch included."""
    update = Optimizer(made, TrainConfig(rows_per_step=1, memory=memory))
    set_attention(made, torch.bfloat16)
    if compiled:
        compile_layers(made)
    for number in (1, 2):  # compilation and allocation at first use may wait
        update.begin_step(number, 1e-4)
        warm_up(made, packed(card_rows)[0], torch.bfloat16)
        step(made, packed(card_rows), update, World(), torch.bfloat16)
    evaluate_loss(made, pack(card_rows, 640, pad=make_padding(0, LENGTHS, 640)), CARD, torch.bfloat16)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for number in (3, 4, 5):
        update.begin_step(number, 1e-4)
        report = step(made, packed(card_rows), update, World(), torch.bfloat16)
        evaluate_loss(made, pack(card_rows, 640, pad=make_padding(0, LENGTHS, 640)), CARD, torch.bfloat16)
    with pytest.raises(RuntimeError, match="synchroniz"):
        report.gradient_norm.item()  # otherwise the check was off
    torch.cuda.set_sync_debug_mode("default")
    assert report.gradient_norm.isfinite()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("rows", [None, 64, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_in_one_kernel_is_the_plain_one(dtype, tolerance, rows, weighted):
    torch.manual_seed(0)
    hidden, weight = torch.randn(300, 64, device=CARD) / 8, torch.randn(5000, 64, device=CARD)
    targets = torch.randint(5000, (300,), device=CARD)
    plain = [part.clone().requires_grad_() for part in (hidden, weight)]
    mine = [part.to(dtype).requires_grad_() for part in (hidden, weight)]
    expected = cross_entropy(plain[0] @ plain[1].T, targets, reduction="none")
    weights = LabelWeights(torch.rand(300, device=CARD), probability=True) if weighted else LabelWeights()
    factors = weights.fixed * (-expected.detach()).exp() if weighted else 1
    (0.25 * (factors * expected).sum()).backward()
    for scale in (0.5, 0.25):
        for part in mine:
            part.grad = None
        scaled, each = linear_cross_entropy(
            *mine, targets, scale=scale, dtype=dtype, chunks=LogitChunks(rows), weights=weights
        )
        scaled.backward()
    near(each, expected, 1e-6 if dtype == torch.float32 else tolerance)
    near(mine[0].grad, plain[0].grad, tolerance)
    near(mine[1].grad, plain[1].grad, tolerance)


@pytest.mark.parametrize("tier", ["fp32", "exact"])
def test_compiled_layers_learn_the_same_at_every_budget_in_less_memory(made, card_rows, tier):
    if not can_compile(CARD):
        pytest.skip("this card or this machine has no compiler")
    precision = torch.float32 if tier == "fp32" else torch.bfloat16
    made.to(precision)
    set_attention(made, precision)
    plain, found = copy.deepcopy(made), []
    [batch, *_] = packed(card_rows)
    for budget, compiled in ((1.0, False), (1.0, True), (0.5, True), (0.0, True)):
        torch._dynamo.reset()
        model = copy.deepcopy(plain)
        apply_activation_budget(model, budget, compiled)
        if compiled:
            compile_layers(model)
            warm_up(model, batch, precision)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        states = hidden_states(model.train(), batch)
        kept = torch.cuda.memory_allocated() - before
        (states.float() ** 3).mean().backward()
        found.append((states.detach(), [weight.grad for weight in model.parameters()], kept))
    tolerance = 1e-4 if tier == "fp32" else 5e-2
    for states, gradients, _ in found[1:]:
        near(states[: batch.unpadded_tokens], found[0][0][: batch.unpadded_tokens], tolerance)
        for mine, theirs in zip(gradients, found[0][1], strict=True):
            if theirs is not None:
                near(mine, theirs, tolerance)
    kept = [size for *_, size in found]
    assert kept[0] > kept[1] > kept[2] > kept[3], kept


def test_a_run_of_batches_compiles_each_layer_once(made, card_rows):
    made.to(torch.bfloat16)
    set_attention(made, torch.bfloat16)
    compile_layers(made)
    warm_up(made, packed(card_rows)[0], torch.bfloat16)
    assert counters["stats"]["unique_graphs"] == GRAPHS
    update = Optimizer(made, TrainConfig(rows_per_step=1, memory="8bit"))
    for seed in range(4):
        chosen = [card_rows[index] for index in np.random.default_rng(seed).permutation(len(card_rows))[:7]]
        update.begin_step(seed + 1, 1e-4)
        step(made, packed(chosen), update, World(), torch.bfloat16)
        if not seed:
            graphs = counters["stats"]["unique_graphs"]  # an update that is compiled is so by now
        evaluate_loss(made, packed(chosen), CARD, torch.bfloat16)
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


def test_prompts_and_tokens_of_any_number_compile_nothing(made):
    made.to(torch.bfloat16).eval()
    set_attention(made, torch.bfloat16)
    compile_layers(made)
    with torch.inference_mode():
        for length in range(3, 14):  # more than torch compiles of one function, unless it is told of more
            cache = KVCache(made)
            logits = cache.prefill([list(range(5, 5 + length)), [7] * (length + 1)])
            assert cache.extend([[7], [8]]).isfinite().all()
            assert logits.isfinite().all()
    assert not counters["stats"]["unique_graphs"]


def test_a_deterministic_run_can_sample(made):
    """With the operations of which torch may know no deterministic form, as samples of a run are made."""
    logits = torch.randn(3, 300, device=CARD)
    torch.use_deterministic_algorithms(True)
    try:
        with any_operations():
            samplers = [Sampler(SamplingParams(8, 0.7, 0.9, 20, seed)) for seed in range(3)]
            assert all(0 <= token < 300 for token in draw(logits, samplers).tokens.tolist())
    finally:
        torch.use_deterministic_algorithms(False)


def test_states_on_the_host_are_updated_as_those_on_the_card(made, card_rows):
    """To the bit, from the first step on, which copies into buffers that were just filled with zeros."""
    kept = []
    for memory in ("8bit", "8bit-streamed"):
        model = copy.deepcopy(made)
        update = Optimizer(model, TrainConfig(rows_per_step=1, memory=memory))
        set_attention(model, torch.bfloat16)
        for number in (1, 2, 3):
            update.begin_step(number, 1e-3)
            generator = torch.Generator(CARD).manual_seed(number)
            for weight in model.parameters():
                weight.grad = torch.randn(weight.shape, device=CARD, generator=generator).to(weight.dtype)
            update.finish_step()
        kept.append([weight.detach().clone() for weight in model.parameters()])
        kept[-1] += [state.cpu() for state in update.state_dict().values()]
    assert all(one.cpu().equal(other.cpu()) for one, other in zip(*kept, strict=True))


@pytest.mark.parametrize("scaling", ["tensor", "row"])
@pytest.mark.parametrize("hold", [False, True])
def test_learning_in_8_bits_stays_near_bf16(made, card_rows, scaling, hold):
    if problem := float8_problem("cuda", torch.cuda.get_device_capability()):
        pytest.skip(f"fp8: {problem}")
    losses = []
    for coded in (False, True):
        model = copy.deepcopy(made).to(torch.bfloat16)
        if coded:
            apply_float8(model, scaling, hold=hold)
        set_attention(model, torch.bfloat16)
        compile_layers(model)
        update = Optimizer(model, TrainConfig(rows_per_step=1, memory="exact"))
        for number in range(1, 11):
            update.begin_step(number, 1e-3)
            step(model, packed(card_rows), update, World(), torch.bfloat16)
        losses.append(evaluate_loss(model, packed(card_rows), CARD, torch.bfloat16).mean_losses()["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
