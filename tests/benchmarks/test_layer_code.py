"""The code that torch's compiler writes for a layer on a card: few kernels, few bytes, nothing repeated."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch._inductor import config as inductor

from thinktune.planner.activation_budgets import trace_layers
from thinktune.planner.roofline import FLOAT8_CAST_BYTES, FLOAT8_TOKEN_BYTES

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from jobs import QWEN3
from layer_code import TOKENS, Float8, layer_code

pytestmark = pytest.mark.slow
needs_cuda_build = pytest.mark.skipif(
    torch.version.cuda is None or find_spec("triton") is None,
    reason="torch here is no build for CUDA, or Triton is missing: no code for a card was written or looked at",
)
GUARD = "mix_order_reduction_max_reads"
has_guard = hasattr(inductor.triton, GUARD)


@pytest.fixture(autouse=True)
def fresh():
    yield
    torch._functorch.config.activation_memory_budget = 1.0
    torch._dynamo.reset()


def kernels(found):
    return found.forward.triton_kernels + found.backward.triton_kernels


def guarded(most, shape):
    """Return the most bytes of a token that the installed compiler's own kernels may move, for those of torch 2.11.

    That of 2.13 has kernels with sums over rows and columns read at most ten tensors, so that no registers spill
    (pytorch#179423). A layer's last kernel is two for it, which move four times the hidden states more.
    """
    return most + 4 * shape.hidden_size * torch.bfloat16.itemsize * has_guard


@needs_cuda_build
def test_a_layer_of_1_7b_is_few_kernels_and_few_bytes():
    found = layer_code(QWEN3["1.7B"], 1.0, joined=False)
    assert [found.forward.products, found.backward.products] == [7, 14]
    assert [found.forward.attentions, found.backward.attentions] == [1, 1]
    assert kernels(found) <= 16 + 4
    assert found.bytes_per_token <= guarded(250_000, QWEN3["1.7B"])


@needs_cuda_build
@pytest.mark.skipif(not has_guard, reason="this compiler has no guard against spilled registers that could be lifted")
def test_all_that_a_newer_compiler_moves_more_is_its_guard_against_spilled_registers():
    with inductor.patch({f"triton.{GUARD}": 0}):
        found = layer_code(QWEN3["1.7B"], 1.0, joined=False)
    assert found.bytes_per_token <= 250_000


@needs_cuda_build
def test_joined_products_move_fewer_bytes_where_they_are_taken():
    """Queries, keys and values as one product, gate and up as one: 4 instead of 7, and fewer bytes in all."""
    apart, joined = (layer_code(QWEN3["1.7B"], 1.0, joined=joined) for joined in (False, None))
    assert [joined.forward.products, joined.backward.products] == [4, 8]
    assert kernels(joined) <= 16 + 4
    assert joined.kept_bytes_per_token == apart.kept_bytes_per_token
    assert joined.all_bytes_per_token < 0.97 * apart.all_bytes_per_token


@needs_cuda_build
def test_half_of_the_activations_is_kept_without_attention_being_computed_again():
    found = layer_code(QWEN3["1.7B"], 0.5)
    assert [found.forward.attentions, found.backward.attentions] == [1, 1]
    assert found.kept_bytes_per_token < 0.5 * layer_code(QWEN3["1.7B"], 1.0).kept_bytes_per_token
    assert kernels(found) <= 18 + 4


@needs_cuda_build
@pytest.mark.parametrize("size", ["0.6B", "4B"])
def test_the_plan_counts_no_less_than_a_layer_keeps(size):
    """The plan traces a stand-in for attention, in any build of torch; it counts the queries once more than a card."""
    shape = QWEN3[size]
    planned = trace_layers(shape.config(), torch.bfloat16, torch.device("meta"), compiled=True)
    kept = layer_code(shape, 1.0).kept_bytes_per_token
    assert kept <= planned[1.0][0].saved.per_token <= 1.1 * kept
    assert layer_code(shape, 0.5).kept_bytes_per_token <= planned[0.5][0].saved.per_token


@needs_cuda_build
@pytest.mark.parametrize(("scaling", "launches", "own_bytes"), [("tensor", 35 + 2, 380e3), ("row", 17 + 2, 300e3)])
def test_products_in_fp8_move_little_more_where_weights_are_cast_once_a_step(scaling, launches, own_bytes):
    """The plan counts what is moved for a token, and with its bytes of bf16 no less than what is kept."""
    shape, plain = QWEN3["1.7B"], layer_code(QWEN3["1.7B"], 1.0, joined=False)
    held, cast = (layer_code(shape, 1.0, float8=Float8(scaling, each)) for each in (True, False))
    assert kernels(held) <= launches
    assert held.bytes_per_token <= guarded(own_bytes, shape)
    assert held.kept_bytes_per_token <= plain.kept_bytes_per_token
    widths, elements = 2 * 4096 + 3 * 8192, 2 * 2048**2 + 3 * 2048 * 6144
    more = held.bytes_per_token - plain.bytes_per_token
    assert more == pytest.approx(FLOAT8_TOKEN_BYTES[scaling] * widths, rel=0.05)
    casts = (cast.bytes_per_token - held.bytes_per_token) * TOKENS
    assert casts == pytest.approx(FLOAT8_CAST_BYTES * elements, rel=0.05)
