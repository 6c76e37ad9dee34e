"""A stand-in for flash-attn: its functions with torch's own variable-length attention behind them.

It is put on the peers' path if flash-attn is not installed, so that every contender gets the same kernel and the
comparison is one of frameworks. Causal attention without dropout, as in training; anything else raises.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen

__version__ = "2.8.3"  # what transformers requires; the metadata next to this package has the same
_PARAMETERS = inspect.signature(varlen.varlen_attn).parameters


def flash_attn_varlen_func(  # noqa: PLR0913 (the interface is flash-attn's)
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    deterministic: bool = False,
    **others: Any,
) -> Tensor:
    """Compute causal attention within each packed row: q (n, heads, head_dim), k and v (n, kv_heads, head_dim)."""
    if not causal or dropout_p or window_size != (-1, -1) or any(value is not None for value in others.values()):
        raise NotImplementedError(f"causal {causal}, dropout {dropout_p}, window {window_size}, {others}")
    options: dict[str, Any] = {"scale": softmax_scale, "window_size": (-1, 0)}  # causal
    if "enable_gqa" in _PARAMETERS:
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    elif torch.version.hip:  # torch 2.11, whose kernel for NVIDIA cards takes groups without being told
        k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], 1) for each in (k, v))
    return varlen.varlen_attn(q, k, v, cu_seqlens_q, cu_seqlens_k, int(max_seqlen_q), int(max_seqlen_k), **options)


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Compute the same for rows of equal length: q (rows, n, heads, head_dim), k, v (rows, n, kv_heads, head_dim)."""
    rows, length = q.shape[:2]
    cu_seqlens = torch.arange(0, (rows + 1) * length, length, dtype=torch.int32, device=q.device)
    flat = (each.flatten(0, 1) for each in (q, k, v))
    return flash_attn_varlen_func(*flat, cu_seqlens, cu_seqlens, length, length, **options).unflatten(0, (rows, length))


def flash_attn_with_kvcache(*arguments: Any, **options: Any) -> Tensor:
    """Raise NotImplementedError: only generation needs it, and no contender generates."""
    raise NotImplementedError("no contender generates")
