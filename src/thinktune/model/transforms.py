"""The decoder layers: compiled, how much of their activations is kept, and their matrix products in 8 bits."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from thinktune.errors import UserError

MIN_TRITON_CAPABILITY, MIN_FLOAT8_CAPABILITY = (7, 0), (8, 9)  # compute capabilities from which cards have them


FLOAT8_MULTIPLE = 16  # of both sides of a matrix that the card multiplies in 8 bits


def supports_compile(device_type: str, capability: tuple[int, int] | None, has_triton: bool) -> bool:
    """Whether layers are compiled: on cards for which torch's compiler writes good code, and where Triton is there.

    Not on the CPU: what compiling takes is longer than what it saves there.
    """
    return device_type == "cuda" and capability is not None and capability >= MIN_TRITON_CAPABILITY and has_triton


def can_compile(device: torch.device) -> bool:
    """`supports_compile` of this machine."""
    return supports_compile(device.type, _capability(device), find_spec("triton") is not None)


def compile_layers(model: Any, backend: str = "inductor") -> None:
    """Compile the decoder layer, once for all of them: one graph, whatever their number.

    Packed batches run compiled. What comes without boundaries or with a cache (generation, whose shapes change with
    every token) runs the layers as they are. The names of weights stay what they were. `backend` is torch.compile's.
    """
    for layer in model.model.layers:
        layer.forward = _compile_packed_forward(layer.forward, backend)


def _compile_packed_forward(plain: Callable[..., Tensor], backend: str) -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(plain, fullgraph=True, dynamic=False, backend=backend)

    def forward(*arguments: Any, **options: Any) -> Tensor:
        trains = options.get("cu_seqlens") is not None and options.get("past_key_values") is None
        return (compiled if trains else plain)(*arguments, **options)

    return forward


def apply_activation_budget(model: Any, budget: float, compiled: bool) -> None:
    """Keep that share of the layers' activations for the backward pass, and compute the rest again there.

    The loss and its gradients are the same at every budget. Call it before the first forward pass.

    Args:
        model: the causal language model.
        budget: 1 keeps all, 0 only what enters each layer.
        compiled: whether the layers are. Then torch's compiler chooses what to keep within each layer, the cheapest
            to compute again first; else so many of the layers, the first ones, keep nothing but their input. They are
            the first because the others' activations are gone when their turn comes in the backward pass.
    """
    if compiled:
        # A setting of the process, read when a layer is compiled; there is one model in training.
        torch._functorch.config.activation_memory_budget = budget  # pyright: ignore
        return
    layers = model.model.layers
    recomputed = round((1 - budget) * len(layers))
    if not recomputed:
        return
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name from transformers 5.23 on
    (enable or model.gradient_checkpointing_enable)()
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index < recomputed


def require_float8(device: torch.device) -> None:
    """Raise UserError where `train.precision: fp8` cannot run: on this card, or without its package."""
    if problem := float8_problem(device.type, _capability(device), find_spec("torchao") is not None):
        raise UserError(f"train.precision: is fp8, {problem}")


def float8_problem(device_type: str, capability: tuple[int, int] | None, installed: bool) -> str | None:
    """Why fp8 cannot run, and what to do; None where it can."""
    if device_type != "cuda" or capability is None or capability < MIN_FLOAT8_CAPABILITY:
        which = (
            device_type
            if capability is None
            else f"{device_type} of compute capability {'.'.join(map(str, capability))}"
        )
        return (
            f"which needs an NVIDIA card of compute capability {MIN_FLOAT8_CAPABILITY[0]}.{MIN_FLOAT8_CAPABILITY[1]} or more "
            f"(Ada, Hopper, Blackwell), and this is {which}; take bf16"
        )
    return None if installed else "which needs torchao; install it with pip install 'thinktune[fp8]', or take bf16"


def apply_float8(model: Any, *, emulate: bool = False) -> None:
    """Multiply the layers' matrices in 8 bits, forward and backward, each tensor scaled by its largest number.

    Weights, their names and all else stay as they are; embedding and head stay in full. By torchao's float8 training
    (tensorwise dynamic scaling; Micikevicius et al., FP8 formats for deep learning, 2022).

    Args:
        model: the causal language model, before its layers are compiled.
        emulate: round as 8 bits do, but multiply in full; for machines without such cards.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    convert_to_float8_training(
        model.model.layers,
        config=Float8LinearConfig(emulate=emulate, pad_inner_dim=True),
        module_filter_fn=_fits_float8,
    )


def _fits_float8(module: nn.Module, _name: str) -> bool:
    return isinstance(module, nn.Linear) and not any(size % FLOAT8_MULTIPLE for size in module.weight.shape)


def _capability(device: torch.device) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None
