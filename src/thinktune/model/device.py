"""Device, compute capability and arithmetic of a model."""

import math
import os
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from thinktune.config import MemoryTierName
from thinktune.config.schema import Precision
from thinktune.errors import UserError, shorten_error
from thinktune.optim import TIERS
from thinktune.progress import Say
from thinktune.run.card_lock import hold_cards

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


def device_count() -> int:
    """Return the number of accelerators of this machine; the CPU is not one."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


@contextmanager
def hold_own_cards(say: Say, *, wait: bool, most: int | None = None) -> Generator[int]:
    """Hold the locks of the cards that a verb here uses, and yield how many they are; 0 is the CPU, which has one, too.

    They are all that are visible, or the first `most`, and named by what CUDA_VISIBLE_DEVICES says, since asking a card
    would take memory of it. With `wait`, other verbs on them are waited for. Raises UserError where torchrun was
    started by hand: its processes cannot wait alike.
    """
    if wait and "RANK" in os.environ:
        raise UserError("--wait: works where thinktune starts the processes; leave it out under torchrun")
    count = device_count()
    kind = torch.accelerator.current_accelerator() if count else None
    with hold_cards(card_names(kind.type, count)[:most] if kind else ["cpu"], say, wait=wait):
        yield count if most is None else min(count, most)


def card_names(kind: str, count: int) -> list[str]:
    """Name the first visible cards as their locks do, in the order in which this process numbers them."""
    named = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    numbers = [re.sub(r"[^\w-]", "-", part) for part in named][:count] if len(named) >= count else range(count)
    return [f"{kind}-{number}" for number in numbers]


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


def supports_triton(device_type: str, capability: tuple[int, int] | None, installed: bool) -> bool:
    """Return True on cards for which Triton, and torch's compiler with it, writes good code, if it is installed.

    Not on the CPU, where compiling takes longer than it saves.
    """
    return device_type == "cuda" and capability is not None and capability >= MIN_TRITON_CAPABILITY and installed


def runs_triton(device: torch.device) -> bool:
    """Return True where a Triton kernel runs on a device of this machine, and is right.

    Triton needs more than its package: a C compiler and Python's headers. Where they are missing a warning says so,
    once, and all that needs Triton takes another way.
    """
    if not supports_triton(device.type, compute_capability(device), find_spec("triton") is not None):
        return False
    return _runs_kernel(device)


@cache
def _runs_kernel(device: torch.device) -> bool:
    from thinktune.model.kernels.cross_entropy import cross_entropy_in_place

    logits, target = torch.zeros(2, 8, device=device), torch.zeros(2, 1, dtype=torch.int64, device=device)
    try:
        losses = cross_entropy_in_place(logits, target, None).tolist()
        if all(abs(loss - math.log(8)) < 1e-4 for loss in losses):
            return True
        reason = f"a loss of log 8 came out as {losses[0]:g}"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the compilers behind it raise
        reason = shorten_error(error)
    warnings.warn(
        f"Triton is installed and does not run on {device} ({reason}), so nothing is compiled and training is slower; "
        "install a C compiler and Python's headers (gcc, python3-dev), or another release of torch",
        stacklevel=2,
    )
    return False


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
