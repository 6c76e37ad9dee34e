"""Floating-point operations of training, counted from a model's shape, and what cards can do at their best."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Dense bf16 TFLOP/s without sparsity, as the makers state them, under a part of the name that the driver gives.
PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "A10": 125.0,
    "RTX 5090": 209.5,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "RTX A6000": 154.8,
}


def flops_per_token(config: Any, mean_context_tokens: float) -> float:
    """Forward and backward operations for one token, nothing recomputed (the usual numerator of MFU).

    Six for each weight of a matrix that the token meets, the head among them and the embedding not; for attention
    12 * layers * heads * head size * context, where the context is what a causal token sees in the mean (see
    `mean_context`). Norms, activations and the softmax are left out, as is usual.

    Args:
        config: a transformers configuration of Qwen's kind.
        mean_context_tokens: how many tokens a token attends to, itself among them.
    """
    heads, groups, size = config.num_attention_heads, config.num_key_value_heads, head_size(config)
    attention = config.hidden_size * size * (2 * heads + 2 * groups)
    matrices = config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)
    head = config.vocab_size * config.hidden_size
    return 6 * (matrices + head) + 12 * config.num_hidden_layers * heads * size * mean_context_tokens


def mean_context(lengths: ArrayLike) -> float:
    """How many tokens a token of rows of these lengths sees in the mean, when each row sees only itself."""
    rows = np.asarray(lengths, np.float64)
    return float((rows * (rows + 1) / 2).sum() / rows.sum())


def head_size(config: Any) -> int:
    """Numbers in one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def peak_tflops(device_name: str) -> float | None:
    """What a card's maker states for dense bf16, or None for a card that is not in the table."""
    known = sorted((name for name in PEAK_TFLOPS if name.lower() in device_name.lower()), key=len)
    return PEAK_TFLOPS[known[-1]] if known else None


def mfu(tokens_per_second: float, flops: float, device_name: str) -> float | None:
    """Model FLOPs utilization (Chowdhery et al., PaLM, 2022): the share of the card's peak that learning takes."""
    peak = peak_tflops(device_name)
    return None if peak is None else tokens_per_second * flops / (peak * 1e12)
