"""Recurrent states of the running sequences: what linear attention and Mamba keep in place of keys."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from thinktune.model import CausalLM


class RecurrentStates:
    """States of every layer that has one, one row a sequence, in the objects by which transformers updates them."""

    def __init__(self, model: CausalLM) -> None:
        config: Any = model.config
        self.cache: Any = DynamicCache(config=config)

    def __bool__(self) -> bool:
        """Return True if any layer has a state."""
        return any(True for _ in self._layers())

    def append(self, other: "RecurrentStates", *, is_first: bool) -> None:
        """Append the rows of other states, all or none of them; the first ones are taken over as they are."""
        if is_first:
            self.cache = other.cache
            return
        joined = [torch.cat([mine[key], theirs[key]]) for (mine, key), (theirs, _) in self._pairs(other)]
        for (mine, key), tensor in zip(list(self._tensors()), joined, strict=True):
            mine[key] = tensor

    def free(self, row: int) -> None:
        """Remove a row; the last one takes its index."""
        for states, key in list(self._tensors()):
            tensor = states[key]
            tensor[row] = tensor[-1]
            states[key] = tensor[:-1]

    def _pairs(self, other: "RecurrentStates") -> Iterator[tuple[tuple[Any, Any], tuple[Any, Any]]]:
        return zip(self._tensors(), other._tensors(), strict=True)

    def _layers(self) -> Iterator[Any]:
        return (layer for layer in self.cache.layers if isinstance(layer, LinearAttentionCacheLayerMixin))

    def _tensors(self) -> Iterator[tuple[dict[int, Tensor], int]]:
        """Iterate over the tensors (rows, …) of all layers, each as the dictionary that holds it and its key there."""
        for layer in self._layers():
            for states in (layer.conv_states, layer.recurrent_states):
                for key, tensor in states.items():
                    if tensor is not None:
                        yield states, key
