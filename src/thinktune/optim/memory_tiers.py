"""Memory tiers: how weights and AdamW's two moments are stored, where, and how many bytes they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from thinktune.config import MemoryTierName, TrainConfig
from thinktune.optim.quantization import EIGHT_BIT, FOUR_BIT, BlockFormat, MomentFormat, moment_bytes

REMAINDER_BYTES = 2  # of an exact master's int16 remainder


@dataclass(frozen=True, slots=True)
class MemoryTier:
    """The formats of a parameter's weight and moments, and where its moments are kept.

    A bf16 weight with a `remainder` is an fp32 master, exact to the bit; without one it is rounded stochastically.
    Norms and biases keep fp32 moments where those of matrices are block-quantized; they are too few to count.
    """

    weights: torch.dtype  # of the model's weights, which compute, and of their gradients
    moments: MomentFormat
    remainder: bool = False
    offloaded: bool = False  # block-quantized moments are kept in host memory and cross the device in chunks

    @property
    def load_dtype(self) -> torch.dtype:
        """Dtype to load a model in that is trained in this tier: that of the master."""
        return torch.float32 if self.remainder else self.weights

    @property
    def uses_fused_adamw(self) -> bool:
        """Return True if weights and moments are plain fp32, which torch's own fused AdamW updates."""
        return self.weights == self.moments == torch.float32

    @property
    def weight_bytes_per_parameter(self) -> int:
        """Bytes of a weight, with the remainder of an exact master."""
        return self.weights.itemsize + REMAINDER_BYTES * self.remainder

    @property
    def moment_bytes_per_parameter(self) -> float:
        """Bytes of both moments of a parameter in a matrix, wherever they are kept."""
        block = self.moments.block_size if isinstance(self.moments, BlockFormat) else 1
        return 2 * sum(moment_bytes(self.moments, block)) / block

    @property
    def gradient_bytes_per_parameter(self) -> int:
        """Bytes of a gradient, where it is kept until the backward pass ends."""
        return self.weights.itemsize

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes of a weight and its moments, wherever they are kept, without its gradient."""
        return self.weight_bytes_per_parameter + self.moment_bytes_per_parameter

    def moments_of(self, ndim: int) -> MomentFormat:
        """Return the format of the moments of a parameter of so many dimensions."""
        return self.moments if ndim >= 2 or isinstance(self.moments, torch.dtype) else torch.float32

    def weights_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Count the bytes of all weights, with the remainders of exact masters."""
        return sum(map(prod, shapes)) * self.weight_bytes_per_parameter

    def moments_bytes(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        """Count the bytes of all moments on the device and on the host, where pinned memory comes in powers of two."""
        device = host = 0
        for shape in shapes:
            moments = self.moments_of(len(shape))
            tensors = moment_bytes(moments, prod(shape))
            if self.offloaded and isinstance(moments, BlockFormat):
                host += 2 * sum(map(_next_power_of_two, tensors))
            else:
                device += 2 * sum(tensors)
        return device, host


TIERS: dict[MemoryTierName, MemoryTier] = {  # best first
    "fp32": MemoryTier(torch.float32, torch.float32),
    "exact": MemoryTier(torch.bfloat16, torch.float32, remainder=True),
    "exact-bf16": MemoryTier(torch.bfloat16, torch.bfloat16, remainder=True),
    "8bit": MemoryTier(torch.bfloat16, EIGHT_BIT),
    "8bit-streamed": MemoryTier(torch.bfloat16, EIGHT_BIT, offloaded=True),
    "4bit": MemoryTier(torch.bfloat16, FOUR_BIT),
}


def pick_memory_tier(settings: TrainConfig, device: torch.device) -> MemoryTierName:
    """Choose the tier of `train.memory`: auto is exact on an accelerator, fp32 on the CPU or with fp32 arithmetic."""
    if settings.memory != "auto":
        return settings.memory
    return "fp32" if device.type == "cpu" or settings.precision == "fp32" else "exact"


def candidate_tiers(settings: TrainConfig) -> tuple[MemoryTierName, ...]:
    """List the tiers that a plan may choose from, best first: the recipe's own, else those of its arithmetic."""
    if settings.memory != "auto":
        return (settings.memory,)
    arithmetic = torch.float32 if settings.precision == "fp32" else torch.bfloat16
    return tuple(name for name, tier in TIERS.items() if tier.weights == arithmetic)


def _next_power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
