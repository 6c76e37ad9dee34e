"""Floating-point operations of training, counted on a model without memory: a layer of each kind × their number."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils._python_dispatch import TorchDispatchMode

from thinktune.model import ModelConfig
from thinktune.model.decoder import decoder_layers
from thinktune.planner.layer_calls import (
    META,
    NO_WINDOW,
    TRACE_ATTENTION,
    fake_mode,
    first_tensor,
    layer_kinds,
    model_without_memory,
    replaced_forwards,
    run_decoder,
    token_inputs,
)

COUNTED_TOKENS = 256  # a multiple of the chunks of linear attention
MATRIX_OPS = {  # products of matrices, and which of their arguments are the two
    "mm": (0, 1),
    "bmm": (0, 1),
    "addmm": (1, 2),
    "baddbmm": (1, 2),
    "_grouped_mm": (0, 1),  # each token by the experts that its router chose
    "grouped_mm_fallback": (0, 1),
}


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One attention of a layer: elements of queries and values of a token, those of its keys and values, and window.

    `query_elements` is heads * (query size + value size); the window is None where every earlier token is seen.
    """

    query_elements: int
    kv_elements: int
    window: int | None


@dataclass(frozen=True, slots=True)
class Operations:
    """Multiplications of one token's forward pass: by matrices beside the head, by the head, and its attentions."""

    matrices: float
    head: int
    attentions: tuple[AttentionShape, ...]  # of every layer

    @property
    def kv_elements(self) -> int:
        """Elements that a token keeps in the KV caches of all layers."""
        return sum(attention.kv_elements for attention in self.attentions)

    def flops_per_token(self, row_lengths: ArrayLike) -> float:
        """Count forward and backward operations per token without recomputation: the numerator of MFU.

        Six per multiplication of the forward pass, where the token's share of attention is what a causal token in rows
        of these lengths sees on average (see `mean_context`). Norms, activations and the softmax are left out, as in
        PaLM (Chowdhery et al., 2022).
        """
        return 6 * (self.matrices + self.head + self.context_multiplications(row_lengths))

    def context_multiplications(self, row_lengths: ArrayLike) -> float:
        """Count the multiplications of a token's attentions, in the mean of rows of these lengths."""
        windows = Counter((each.query_elements, each.window) for each in self.attentions)
        return sum(
            count * elements * mean_context(row_lengths, window) for (elements, window), count in windows.items()
        )


def flops_per_token(config: ModelConfig, row_lengths: ArrayLike) -> float | None:
    """Count the operations of training per token on rows of these lengths; None where the class cannot be traced."""
    found = count_operations(config)
    return found and found.flops_per_token(row_lengths)


def count_operations(config: ModelConfig) -> Operations | None:
    """Count a model's operations per token from its configuration; None where its class cannot be traced."""
    values: Any = config
    with suppress(Exception):  # whatever a class raises that asks a tensor without memory for its values
        return _count(_Described(config, values.to_json_string(use_diff=False)))
    return None


@dataclass(frozen=True, slots=True)
class _Described:
    """A configuration that is equal to another of the same values."""

    config: ModelConfig
    values: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Described) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.values)


@lru_cache(maxsize=8)
def _count(described: _Described) -> Operations:
    with fake_mode(), torch.no_grad():
        model = model_without_memory(described.config, torch.bfloat16, META, TRACE_ATTENTION)
        layers = decoder_layers(model)
        kinds = layer_kinds(layers)
        times = Counter(kinds)
        outputs: dict[int, Any] = {}

        def make(index: int, plain: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*arguments: Any, **options: Any) -> Any:
                kind = kinds[index]
                if kind == index:
                    counted.times = times[kind]
                    outputs[kind] = plain(*arguments, **options)
                    counted.times = 1
                return outputs[kind]

            return forward

        with replaced_forwards(layers, make), CountedOperations() as counted:
            first_tensor(run_decoder(model, *token_inputs(COUNTED_TOKENS, META)))
        head = model.get_output_embeddings().weight
    return Operations(counted.multiplications / COUNTED_TOKENS, head.numel(), tuple(counted.attentions))


class CountedOperations(TorchDispatchMode):
    """Multiplications of matrix products and convolutions, each `times` so often, and the attentions apart from them.

    Counted as torch runs them, so that inactive experts count nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.times = 1
        self.multiplications = 0
        self.attentions: list[AttentionShape] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().rpartition("::")[2].partition(".")[0]
        if name in MATRIX_OPS:
            left, right = (args[place] for place in MATRIX_OPS[name])
            self.multiplications += self.times * left.numel() * right.shape[-1]
        elif name == "convolution":
            weight = args[1]  # (output channels, input channels of a group, …)
            self.multiplications += self.times * result.numel() * prod(weight.shape[1:])
        elif name == "attend":
            query, key, value, window = args  # (1, tokens, heads, size)
            per_token = query.shape[2] * (query.shape[3] + value.shape[3])
            kept = key.shape[2] * key.shape[3] + value.shape[2] * value.shape[3]
            self.attentions += self.times * [AttentionShape(per_token, kept, None if window == NO_WINDOW else window)]
        return result


def mean_context(lengths: ArrayLike, window: int | None = None) -> float:
    """Return how many tokens a token attends to on average, in rows of these lengths that see only themselves.

    Itself included, and at most `window` of them.
    """
    rows = np.asarray(lengths, np.float64)
    full = rows if window is None else np.minimum(rows, window)
    return float((full * (full + 1) / 2 + (rows - full) * full).sum() / rows.sum())
