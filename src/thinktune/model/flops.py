"""Floating-point operations of training, counted from a model's shape."""

import numpy as np
from numpy.typing import ArrayLike

from thinktune.model.protocols import ModelConfig


def flops_per_token(config: ModelConfig, mean_context_tokens: float) -> float:
    """Count forward and backward operations per token without recomputation: the numerator of MFU.

    Six per weight of a matrix that the token passes, with the head and without the embedding, plus
    12 * layers * heads * head_dim * context for attention, where context is what a causal token attends to on average
    (see `mean_context`). Norms, activations and the softmax are left out, as in PaLM (Chowdhery et al., 2022).

    Args:
        config: a transformers configuration of Qwen's kind.
        mean_context_tokens: tokens that a token attends to, itself included.
    """
    heads, groups, size = config.num_attention_heads, config.num_key_value_heads, head_dim(config)
    attention = config.hidden_size * size * (2 * heads + 2 * groups)
    matrices = config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)
    head = config.vocab_size * config.hidden_size
    return 6 * (matrices + head) + 12 * config.num_hidden_layers * heads * size * mean_context_tokens


def mean_context(lengths: ArrayLike) -> float:
    """Return how many tokens a token attends to on average, in rows of these lengths that see only themselves."""
    rows = np.asarray(lengths, np.float64)
    return float((rows * (rows + 1) / 2).sum() / rows.sum())


def head_dim(config: ModelConfig) -> int:
    """Return the size of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
