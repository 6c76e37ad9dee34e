"""Floating-point operations of training, counted from a model's shape."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def flops_per_token(config: Any, mean_context_tokens: float) -> float:
    """Forward and backward operations for one token, nothing recomputed (the usual numerator of MFU).

    Six for each weight of a matrix that the token meets, the head among them and the embedding not; for attention
    12 * layers * heads * head size * context, where the context is what a causal token sees in the mean (see
    `mean_context`). Norms, activations and the softmax are left out, as is usual.

    Args:
        config: a transformers configuration of Qwen's kind.
        mean_context_tokens: how many tokens a token attends to, itself among them.
    """
    heads, groups, size = config.num_attention_heads, config.num_key_value_heads, head_dim(config)
    attention = config.hidden_size * size * (2 * heads + 2 * groups)
    matrices = config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)
    head = config.vocab_size * config.hidden_size
    return 6 * (matrices + head) + 12 * config.num_hidden_layers * heads * size * mean_context_tokens


def mean_context(lengths: ArrayLike) -> float:
    """How many tokens a token of rows of these lengths sees in the mean, when each row sees only itself."""
    rows = np.asarray(lengths, np.float64)
    return float((rows * (rows + 1) / 2).sum() / rows.sum())


def head_dim(config: Any) -> int:
    """Numbers in one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
