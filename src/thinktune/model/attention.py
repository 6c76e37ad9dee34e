"""Packed-row attention under transformers' attention interface: one function per kind of device."""

import inspect
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import attention as torch_attention
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations import npu_flash_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from thinktune.model.device import MIN_FLASH_CAPABILITY, compute_capability
from thinktune.model.protocols import CausalLM

# Names in transformers' registry. They must not contain "flash", or transformers looks for a kernel.
AttentionName = Literal["thinktune_rows", "thinktune_varlen", "thinktune_ascend"]

HALF_DTYPES = (torch.bfloat16, torch.float16)  # the only dtypes that FlashAttention takes

# Newer kernels: their name in torch's switch, the module that brings them, and the major compute capabilities.
FLASH_KERNELS = (("FA3", "flash_attn_interface", (9,)), ("FA4", "flash_attn.cute", (10,)))


def pick_attention(device_type: str, dtype: torch.dtype, capability: tuple[int, int] | None) -> AttentionName:
    """Pick the attention for packed rows on a device.

    `thinktune_varlen` (torch's FlashAttention) in half precision on NVIDIA and AMD cards that have it,
    `thinktune_ascend` on Ascend (experimental: never run on one), elsewhere one call of torch's attention per row.

    Args:
        device_type: `torch.device.type`.
        dtype: the dtype that attention computes in.
        capability: the card's compute capability; None if the device has none.
    """
    if dtype in HALF_DTYPES and device_type == "cuda" and capability is not None and capability >= MIN_FLASH_CAPABILITY:
        return "thinktune_varlen"
    if dtype in HALF_DTYPES and device_type == "npu":
        return "thinktune_ascend"
    return "thinktune_rows"


def pick_flash_kernel(capability: tuple[int, int], is_installed: Callable[[str], bool]) -> str | None:
    """Pick FlashAttention 3 or 4 if its package is installed and made for the card; None means the kernel in torch."""
    for kernel, module, majors in FLASH_KERNELS:
        if capability[0] in majors and is_installed(module):
            return kernel
    return None


def set_attention(model: CausalLM, dtype: torch.dtype) -> AttentionName:
    """Set a model's attention by its device, once, so that compiled code never asks.

    A model with attention dropout, which the packed kernels lack, gets one call per row on every device.
    """
    device = model.device
    if model.config.attention_dropout:
        model.set_attn_implementation("thinktune_rows")
        return "thinktune_rows"
    capability = compute_capability(device)
    chosen = pick_attention(device.type, dtype, capability)
    if chosen == "thinktune_varlen" and capability and (newer := pick_flash_kernel(capability, _is_installed)):
        _activate_flash_kernel(newer)
    model.set_attn_implementation(chosen)
    return chosen


def reads_cu_seqlens_on_device(model: CausalLM) -> bool:
    """Return True if the model's attention reads `cu_seqlens` on the device; the others read it on the host."""
    # transformers keeps the name in a private field and offers no public one.
    return getattr(model.config, "_attn_implementation", None) == "thinktune_varlen"


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seqlens: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention within each packed row, by one call of torch's attention per row.

    Args:
        module: the attention layer, from transformers.
        query: (1, heads, n, head_dim).
        key: (1, kv_heads, n, head_dim).
        value: (1, kv_heads, n, head_dim).
        attention_mask: used without `cu_seqlens` (generation), as in transformers' own attention.
        cu_seqlens: (rows + 1,) int32 on the CPU: the start of each row, then the end of the last; equal ones are
            empty rows.
        options: other options from transformers; `scaling` and `dropout` are read.

    Returns:
        (1, n, heads, head_dim) and None (no attention weights).
    """
    if cu_seqlens is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if torch.compiler.is_compiling():  # the compiler would specialize on the lengths, and recompile for each list
        return _rows_op(query, key, value, cu_seqlens, options["scaling"]), None
    return _attend_each_row(query, key, value, cu_seqlens, options.get("scaling"), options.get("dropout", 0.0)), None


def varlen_attention(  # noqa: PLR0913 (the interface is transformers')
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int = 0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute the same by one FlashAttention kernel for all rows, which reads `cu_seqlens` on the device.

    `max_seqlen` must be at least the tokens of the longest row: positions beyond it would never be written.
    """
    if cu_seqlens is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # Under autocast, norms turn queries and keys back to fp32; values never pass a norm.
    parts = (part[0].transpose(0, 1).to(value.dtype) for part in (query, key, value))
    return _varlen(*parts, cu_seqlens, max_seqlen, options.get("scaling"))[None], None


def ascend_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seqlens: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute the same by Ascend's fused packed kernel. Experimental: written from its documentation."""
    if cu_seqlens is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    ends = cu_seqlens.unique_consecutive()  # on the CPU; this kernel takes lengths as numbers of the host
    parts = (part[0].transpose(0, 1).to(value.dtype) for part in (query, key, value))
    fused: Any = npu_flash_attention.npu_flash_attn_varlen_func
    return fused(*parts, ends, ends, softmax_scale=options.get("scaling"), causal=True)[None], None


def wrap_varlen_attn(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """Wrap torch's `varlen_attn` as causal `call(query, key, value, cu_seqlens, max_seqlen, scale)` for any release.

    Torch 2.10 takes `is_causal`, later releases a window. Grouped keys came in 2.12; before, keys are repeated.
    """
    known = inspect.signature(function).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in known else {}

    def call(
        query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float | None
    ) -> Tensor:
        if not grouped and (times := query.shape[1] // key.shape[1]) > 1:
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        return function(
            query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, scale=scale, **causal, **grouped
        )

    return call


_varlen = wrap_varlen_attn(varlen.varlen_attn)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing
        return False


def _activate_flash_kernel(kernel: str) -> None:
    """Switch torch to a newer kernel; if torch's prototype of a switch fails, warn and keep the kernel in torch."""
    switch: Any = getattr(torch_attention, "activate_flash_attention_impl", None)
    if switch is None:
        return
    try:
        switch(kernel)
    except Exception as error:
        warnings.warn(f"FlashAttention: {kernel} is installed but does not start ({error})", stacklevel=2)


def _attend_each_row(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scale: float | None, dropout: float = 0.0
) -> Tensor:
    # The backward of split is one concatenation; slicing would fill a tensor of full size for every row.
    lengths = _row_lengths(cu_seqlens)
    rows = [
        scaled_dot_product_attention(
            *parts, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=query.shape[1] != key.shape[1]
        ).transpose(1, 2)
        for parts in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(rows, dim=1)


def _row_lengths(cu_seqlens: Tensor) -> list[int]:
    return [length for length in cu_seqlens.diff().tolist() if length]


@torch.library.custom_op("thinktune::attend_rows", mutates_args=())
def _rows_op(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    """Run `_attend_each_row` as one operator that is opaque to the compiler; its gradient is registered below."""
    return _attend_each_row(query, key, value, cu_seqlens, scale).contiguous()


@torch.library.custom_op("thinktune::attend_rows_backward", mutates_args=())
def _rows_backward_op(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    lengths = _row_lengths(cu_seqlens)
    parts = (part.split(lengths, 2) for part in (gradient.transpose(1, 2), query, key, value))
    rows = [_row_gradients(*row, scale=scale) for row in zip(*parts, strict=True)]
    queries, keys, values = zip(*rows, strict=True)
    return torch.cat(queries, 2), torch.cat(keys, 2), torch.cat(values, 2)


def _row_gradients(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of one row's query, key and value, computed in fp32: autograd cannot enter an operator."""
    groups, times, size = key.shape[1], query.shape[1] // key.shape[1], query.shape[2]
    keys, values = (part.repeat_interleave(times, 1).float() for part in (key, value))
    masked = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)
    shares = (query.float() @ keys.mT * scale).masked_fill(masked, -torch.inf).softmax(-1)
    of_shares = gradient.float() @ values.mT
    of_scores = shares * (of_shares - (shares * of_shares).sum(-1, keepdim=True)) * scale
    of_key, of_value = (
        wide.unflatten(1, (groups, times)).sum(2).to(query.dtype)
        for wide in (of_scores.mT @ query.float(), shares.mT @ gradient.float())
    )
    return (of_scores @ keys).to(query.dtype), of_key, of_value


@_rows_op.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


@_rows_backward_op.register_fake
def _(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.scale = inputs[4]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *_rows_backward_op(gradient, *ctx.saved_tensors, ctx.scale), None, None


_rows_op.register_autograd(_backward, setup_context=_setup_context)


# At import, because transformers looks these names up wherever a model is made. It builds no mask for them.
_mask: Callable[..., Any] = sdpa_mask
for _name, _function in zip(get_args(AttentionName), (rows_attention, varlen_attention, ascend_attention), strict=True):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, _mask)
