"""Transforms of the decoder layers: torch.compile and activation checkpointing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from thinktune.errors import UserError
from thinktune.model.decoder import decoder_layers, last_norm
from thinktune.model.device import runs_triton
from thinktune.model.protocols import CACHE_ARGUMENTS, CausalLM

MAX_GRAPHS = 64  # of one function; torch's own limit is 8


def can_compile(device: torch.device) -> bool:
    """Return True on a device of this machine for which torch's compiler writes good code: it writes Triton."""
    return runs_triton(device)


def fits_compiler(model: CausalLM) -> bool:
    """Return True for a class whose layers are one graph, as transformers says of it: experts, for one, are not."""
    return bool(getattr(model, "_can_compile_fullgraph", False))


def compile_layers(model: CausalLM, backend: str = "inductor") -> None:
    """Compile the decoder layer, one graph for all layers of a kind, and the norm after the last one.

    Packed batches run compiled. Calls without `cu_seqlens` or with a KV cache (generation, whose shapes change with
    every token) run eagerly. Weight names stay the same. `backend` is torch.compile's.
    """
    # Beyond its limit torch ends the run. Kinds of layers, a run's few shapes, and learning or not bound the graphs.
    limits: Any = torch._dynamo.config  # pyright: ignore
    limits.recompile_limit = max(limits.recompile_limit, MAX_GRAPHS)
    passes = _Passes()
    for layer in decoder_layers(model):
        vars(layer)["plain_forward"] = layer.forward
        layer.forward = _compile_packed_forward(layer.forward, backend, passes)
    if norm := last_norm(model):
        vars(norm)["plain_forward"] = norm.forward
        norm.forward = _compile_norm(norm.forward, backend, passes)


def uncompile_layers(model: CausalLM) -> None:
    """Let a model's layers and its last norm run as before `compile_layers`, without what was wrapped around since."""
    for module in (*decoder_layers(model), last_norm(model)):
        if module is not None and "plain_forward" in vars(module):
            module.forward = vars(module).pop("plain_forward")


@dataclass(slots=True)
class _Passes:
    """What the layers know of the pass that runs, for the norm after them, which is given hidden states alone."""

    packed: bool = False


def _compile_packed_forward(plain: Callable[..., Tensor], backend: str, passes: _Passes) -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(plain, fullgraph=True, dynamic=False, backend=backend)

    @wraps(plain)
    def forward(*arguments: Any, **options: Any) -> Tensor:
        # Whatever the installed release calls the cache: compiled, each length of a prompt would be another graph.
        cached = options.get("use_cache") or any(options.get(name) is not None for name in CACHE_ARGUMENTS)
        passes.packed = options.get("cu_seqlens") is not None and not cached
        return (compiled if passes.packed else plain)(*arguments, **options)

    return forward


def _compile_norm(plain: Callable[..., Tensor], backend: str, passes: _Passes) -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(plain, fullgraph=True, dynamic=False, backend=backend)

    @wraps(plain)
    def forward(*arguments: Any, **options: Any) -> Tensor:
        return (compiled if passes.packed else plain)(*arguments, **options)

    return forward


def compiler_budget(budget: float) -> dict[str, Any]:
    """Return the values of `torch._functorch.config` by which the compiler keeps a share of the activations.

    Attention is an operator that is not torch's own. Without the second flag the compiler holds such operators to be
    free to compute again, whatever it is told of their operations, and does so before all else.
    """
    return {"activation_memory_budget": budget, "is_non_builtin_to_include": True}


def apply_activation_budget(model: CausalLM, budget: float, compiled: bool) -> None:
    """Keep a share of the layers' activations for the backward pass, and recompute the rest there.

    The loss and its gradients are the same at every budget. Call it before the first forward pass.

    Args:
        model: the causal language model.
        budget: 1 keeps all activations, 0 only the input of each layer.
        compiled: whether the layers are compiled. If so, torch's compiler chooses what to keep within each layer and
            recomputes the cheapest first. If not, the first layers keep only their input: the first, because the
            others' activations are gone when the backward pass reaches them.
    """
    if compiled:
        # Process-wide flags, read when a layer is compiled; a process trains one model.
        for name, value in compiler_budget(budget).items():
            setattr(torch._functorch.config, name, value)  # pyright: ignore[reportAttributeAccessIssue]
        return
    layers = decoder_layers(model)
    recomputed = round((1 - budget) * len(layers))
    if not recomputed:
        return
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(
            f"expert.activation_budget: is {budget}, and {type(model).__name__} cannot recompute its activations; set "
            "expert.activation_budget: 1"
        )
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name from transformers 5.23 on
    (enable or model.gradient_checkpointing_enable)()
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index < recomputed
