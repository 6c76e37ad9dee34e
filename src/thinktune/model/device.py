"""Device, compute capability and arithmetic of a model."""

import os
from typing import Literal

import torch
from torch import Tensor

from thinktune.config import MemoryTierName
from thinktune.config.schema import Precision
from thinktune.optim import TIERS

# Compute capabilities from which NVIDIA cards have a feature.
MIN_TRITON_CAPABILITY, MIN_FLASH_CAPABILITY, MIN_FLOAT8_CAPABILITY = (7, 0), (8, 0), (8, 9)


def pick_device() -> torch.device:
    """Return this process's accelerator (CUDA, NPU, MPS), or the CPU; of several local ranks each takes its own."""
    # A build for an accelerator names it even on a machine without one, so ask for availability first.
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found and (local_rank := os.environ.get("LOCAL_RANK")):
        torch.accelerator.set_device_index(int(local_rank))
        return torch.device(found.type, int(local_rank))
    return found or torch.device("cpu")


def pick_precision(
    wanted: Precision, device: torch.device, memory: Literal["auto"] | MemoryTierName = "auto"
) -> torch.dtype:
    """Return the dtype of the arithmetic: bf16 if the memory tier keeps weights in bf16; otherwise by `wanted`.

    Auto is bf16 on an accelerator, where it is fast, and fp32 on the CPU. With fp8, the matrix products of the layers
    are in fp8 and everything between them is in bf16.
    """
    if memory != "auto" and TIERS[memory].weights == torch.bfloat16:
        return torch.bfloat16
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.float32 if wanted == "fp32" else torch.bfloat16


def compute_capability(device: torch.device) -> tuple[int, int] | None:
    """Return the compute capability of a CUDA device; None for any other."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    """Return the name that an accelerator gives itself, as in `NVIDIA H200`; its type where it gives none."""
    named = None if device.type == "cpu" else getattr(torch.get_device_module(device), "get_device_name", None)
    return str(named(device)) if named else device.type


def copy_to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a copy of a small tensor of the host on a device; a CUDA device is not waited for.

    A copy from pageable memory would be: the driver reads it before it returns.
    """
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
