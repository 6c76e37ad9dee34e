"""Operations are those that torch counts on a real model, for every kind of layer; Qwen3's are known by hand."""

from collections import Counter

import pytest
import torch
from support.planned_models import KINDS, planned_config
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3Config

from thinktune.planner.flops import COUNTED_TOKENS, count_operations, flops_per_token, mean_context
from thinktune.planner.hardware import mfu, peak_bf16_tflops

SHAPES = {  # hidden, layers, heads, inner, GFLOP/token by hand at a mean context of 600: (matrices, head, attention)
    "0.6B": (1024, 28, 16, 3072, (2.64, 0.93, 0.41)),
    "1.7B": (2048, 28, 16, 6144, (8.46, 1.87, 0.41)),
    "4B": (2560, 36, 32, 9728, (21.80, 2.33, 1.06)),
}
QUICK = ("plain", "shared keys", "latent attention, one dense layer", "linear attention")


@pytest.mark.parametrize("name", SHAPES)
def test_flops_are_those_of_the_published_shapes(name):
    hidden, layers, heads, inner, parts = SHAPES[name]
    config = Qwen3Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=inner,
        vocab_size=151936,
    )
    assert flops_per_token(config, [1199]) / 1e9 == pytest.approx(sum(parts), rel=0.01)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_token_takes_the_operations_that_torch_counts_on_a_real_model(kind):
    """A real forward pass, with eager attention and experts: attention there sees all tokens, whatever the mask."""
    config, tokens = planned_config(kind), COUNTED_TOKENS
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    with torch.no_grad(), FlopCounterMode(display=False) as real:
        model(torch.randint(3, 300, (1, tokens)), use_cache=False)
    found = count_operations(config)
    whole = sum(attention.query_elements for attention in found.attentions) * tokens
    assert 2 * (found.matrices + found.head + whole) * tokens == pytest.approx(real.get_total_flops(), rel=1e-6)


def test_windows_are_those_of_their_layers_and_shorten_the_context():
    config = planned_config("windows")
    found = count_operations(config)
    assert Counter(attention.window for attention in found.attentions) == {None: 2, 16: 2}
    assert mean_context([3]) == 2  # 1, 2 and 3 tokens seen
    assert mean_context([1, 3]) == pytest.approx(7 / 4)
    seen = [min(place, 16) for length in (5, 16, 40) for place in range(1, length + 1)]
    assert mean_context([5, 16, 40], 16) == pytest.approx(sum(seen) / 61)
    heads = 4 * (32 + 32)
    contexts = 2 * heads * (mean_context([40]) + mean_context([40], 16))
    assert flops_per_token(config, [40]) == pytest.approx(6 * (found.matrices + found.head + contexts))


def test_a_token_keeps_the_keys_and_values_of_every_layer():
    assert count_operations(planned_config("plain")).kv_elements == 4 * 2 * (2 * 32)
    assert count_operations(planned_config("latent attention, one dense layer")).kv_elements == 4 * 4 * (24 + 24)
    assert count_operations(planned_config("linear attention")).kv_elements == 1 * 2 * (2 * 32)


def test_a_class_that_cannot_be_traced_has_no_figure(monkeypatch):
    monkeypatch.setattr("transformers.models.qwen3.modeling_qwen3.Qwen3MLP.forward", lambda _, x: x * x.sum().item())
    assert flops_per_token(planned_config("plain", hidden_size=64), [10]) is None


def test_a_cards_peak_is_found_by_the_words_of_its_name():
    peaks = {
        "NVIDIA H100 PCIe": 756,
        "NVIDIA H100 80GB HBM3": 989,
        "NVIDIA H200": 989,
        "NVIDIA A100-SXM4-80GB": 312,
        "NVIDIA GeForce RTX 4090": 165.2,
        "NVIDIA RTX A1000": None,  # no A100
        "NVIDIA A10G": 70.0,  # no A10
        "NVIDIA GeForce RTX 4090 Laptop GPU": None,
        "NVIDIA GeForce RTX 4060 Ti": None,
        "unheard of": None,
    }
    assert {name: peak_bf16_tflops(name) for name in peaks} == peaks
    assert mfu(1e5, 989e7, "NVIDIA H200") == 1
    assert mfu(1e5, 1e9, "unheard of") is None
