"""The tiers of memory: what a parameter and AdamW's two moments are kept as, and how many bytes that takes."""

from dataclasses import dataclass
from typing import Literal

import torch

from thinktune.config import MemoryTierName, TrainConfig
from thinktune.optim.quantization import EIGHT_BIT_BLOCK_SIZE, FOUR_BIT_BLOCK_SIZE

STATE_BYTES_PER_PARAMETER = {
    "fp32": 4.0,
    "bf16": 2.0,
    "8bit": 1 + 4 / EIGHT_BIT_BLOCK_SIZE,
    "4bit": 0.5 + 4 / FOUR_BIT_BLOCK_SIZE,
}


@dataclass(frozen=True, slots=True)
class MemoryTier:
    """What a parameter is kept as: its weights, and each of AdamW's two moments.

    `exact` weights are bf16 with an int16 remainder: an fp32 master, bit for bit. `rounded` ones are bf16, rounded
    stochastically. Norms and biases keep fp32 moments where the matrices' are coded; they are too few to count.
    """

    weights: Literal["fp32", "exact", "rounded"]
    states: Literal["fp32", "bf16", "8bit", "4bit"]
    offloaded: bool = False  # the matrices' moments live in the host's memory, and cross the device in chunks

    @property
    def bytes_per_parameter(self) -> float:
        """Weights and moments of a matrix, wherever they are kept, without its gradient."""
        return (2 if self.weights == "rounded" else 4) + 2 * STATE_BYTES_PER_PARAMETER[self.states]

    @property
    def gradient_bytes_per_parameter(self) -> int:
        """Of one parameter's gradient, where it is kept until the backward pass is over."""
        return 4 if self.weights == "fp32" else 2

    @property
    def load_dtype(self) -> torch.dtype:
        """The type that a model is loaded in to be trained in this tier."""
        return torch.bfloat16 if self.weights == "rounded" else torch.float32


TIERS: dict[MemoryTierName, MemoryTier] = {
    "fp32": MemoryTier("fp32", "fp32"),
    "exact": MemoryTier("exact", "fp32"),
    "exact-bf16": MemoryTier("exact", "bf16"),
    "8bit": MemoryTier("rounded", "8bit"),
    "8bit-streamed": MemoryTier("rounded", "8bit", offloaded=True),
    "4bit": MemoryTier("rounded", "4bit"),
}


def pick_memory_tier(settings: TrainConfig, device: torch.device) -> MemoryTierName:
    """The tier for `train.memory`: auto is exact on an accelerator, and fp32 on the CPU or where arithmetic is fp32."""
    if settings.memory != "auto":
        return settings.memory
    return "fp32" if device.type == "cpu" or settings.precision == "fp32" else "exact"
