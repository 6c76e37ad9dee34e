"""Protocols of transformers' models and configurations: the members that we use, typed."""

from collections.abc import Iterator
from typing import Any, Protocol, Self

import torch
from torch import Tensor

# What transformers' layers call a KV cache: from 5.24 on, before it, and where the layers have a state.
CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")


class ModelConfig(Protocol):
    """A decoder's configuration."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    attention_dropout: float
    dtype: torch.dtype | None  # of the saved weights

    def to_dict(self) -> dict[str, Any]:
        """Return every value by its name."""
        ...


class CausalLM(Protocol):
    """A decoder with its language-model head, on one device or sharded over ranks."""

    config: ModelConfig
    generation_config: Any
    model: Any  # the decoder without its head: embedding, layers, norm
    training: bool

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Iterate over the weights, tied ones once."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Iterate over the weights with their names."""
        ...

    def train(self, mode: bool = True) -> Self:
        """Set training mode: dropout is on, where the model has any."""
        ...

    def eval(self) -> Self:
        """Set evaluation mode."""
        ...

    def set_attn_implementation(self, attn_implementation: str, /) -> None:
        """Use an attention function of transformers' registry."""
        ...

    def gradient_checkpointing_enable(self) -> None:
        """Turn activation checkpointing on for the layers marked `gradient_checkpointing`."""
        ...

    def get_input_embeddings(self) -> Any:
        """Return the embedding, whose `weight` is (vocabulary, hidden)."""
        ...

    def get_output_embeddings(self) -> Any:
        """Return the head, whose `weight` is (vocabulary, hidden)."""
        ...

    def forward(self, *inputs: Tensor, **options: Any) -> Any:
        """Run a forward pass without hooks."""
        ...

    def __call__(self, *inputs: Tensor, **options: Any) -> Any:
        """Run a forward pass."""
        ...
