"""Operations are counted from shapes: Qwen3's published shapes give the figures that were worked out by hand."""

import pytest
import torch
from transformers import Qwen3Config

from thinktune.model.flops import flops_per_token, mean_context
from thinktune.planner.hardware import mfu, peak_bf16_tflops

SHAPES = {  # hidden, layers, heads, inner, GFLOP/token by hand at a mean context of 600: (matrices, head, attention)
    "0.6B": (1024, 28, 16, 3072, (2.64, 0.93, 0.41)),
    "1.7B": (2048, 28, 16, 6144, (8.46, 1.87, 0.41)),
    "4B": (2560, 36, 32, 9728, (21.80, 2.33, 1.06)),
}


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
    assert flops_per_token(config, 600) / 1e9 == pytest.approx(sum(parts), rel=0.01)


def test_forward_operations_are_a_third_of_what_torch_counts_beside_attention(model):
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.arange(32)[None]
    with FlopCounterMode(display=False) as counted:
        model(ids, use_cache=False)
    products = sum(number for kind, number in counted.get_flop_counts()["Global"].items() if "mm" in str(kind))
    assert flops_per_token(model.config, 0) * ids.numel() / 3 == pytest.approx(products, rel=1e-6)


def test_a_tokens_mean_context_is_counted_within_its_own_row():
    assert mean_context([3]) == 2  # 1, 2 and 3 tokens seen
    assert mean_context([1, 3]) == pytest.approx(7 / 4)


def test_a_cards_peak_is_found_by_the_words_of_its_name():
    peaks = {
        "NVIDIA H100 PCIe": 756,
        "NVIDIA H100 80GB HBM3": 989,
        "NVIDIA H200": 989,
        "NVIDIA A100-SXM4-80GB": 312,
        "NVIDIA GeForce RTX 4090": 165.2,
        "NVIDIA RTX A1000": None,  # no A100
        "NVIDIA A10G": None,  # no A10
        "NVIDIA GeForce RTX 4090 Laptop GPU": None,
        "NVIDIA GeForce RTX 4060 Ti": None,
        "unheard of": None,
    }
    assert {name: peak_bf16_tflops(name) for name in peaks} == peaks
    assert mfu(1e5, 989e7, "NVIDIA H200") == 1
    assert mfu(1e5, 1e9, "unheard of") is None
