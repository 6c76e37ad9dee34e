"""Choose the device and the arithmetic of a model."""

import os
from typing import Literal

import torch

from thinktune.config import MemoryTierName
from thinktune.config.schema import Precision
from thinktune.optim import TIERS


def pick_device() -> torch.device:
    """The machine's accelerator (CUDA, NPU, MPS), else the CPU; of several processes each takes its own."""
    # A build for an accelerator names it even on a machine that has none, so availability is asked for first.
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found and (place := os.environ.get("LOCAL_RANK")):
        torch.accelerator.set_device_index(int(place))
        return torch.device(found.type, int(place))
    return found or torch.device("cpu")


def pick_precision(
    wanted: Precision, device: torch.device, memory: Literal["auto"] | MemoryTierName = "auto"
) -> torch.dtype:
    """The arithmetic for `train.precision`: auto is that of the weights where `train.memory` keeps them in bf16.

    Otherwise it is bf16 on an accelerator, where it is fast, and fp32 on the CPU. With fp8, only the matrix products
    of the layers are fp8; all that stands between them is bf16.
    """
    if memory != "auto" and TIERS[memory].weights == torch.bfloat16:
        return torch.bfloat16
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.float32 if wanted == "fp32" else torch.bfloat16
