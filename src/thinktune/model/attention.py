"""Packed-row attention under transformers' attention interface: one function per kind of device.

Row boundaries reach it as the option `cu_seqlens`. Layers that pass no options on give it the mask, so the boundaries
are in the mask's place too (`boundaries_as_mask`): a layer cannot lose both in silence.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import attention as torch_attention
from torch.nn.attention import varlen
from torch.utils.flop_counter import flop_registry
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations import npu_flash_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from thinktune.errors import UserError
from thinktune.model.device import MIN_FLASH_CAPABILITY, compute_capability
from thinktune.model.protocols import CACHE_ARGUMENTS, CausalLM
from thinktune.model.row_attention import Scores, attend, attend_each_row, causal_operations, rows_op, seen_keys

# Names in transformers' registry. They must not contain "flash", or transformers looks for a kernel.
AttentionName = Literal["thinktune_rows", "thinktune_varlen", "thinktune_ascend"]

CONTEXT_SUFFIX = "_context"  # of the name, where ranks share the tokens of a batch (`context_parallel`)

HALF_DTYPES = (torch.bfloat16, torch.float16)  # the only dtypes that FlashAttention takes
MAX_FLASH_HEAD_DIM = 256

# What layers hand to attention beside queries, keys and values, and what it means where it is neither None nor False.
# All else is refused: an option that is not known may be one more window, bias or mask.
READ_OPTIONS = frozenset({"scaling", "dropout", "sliding_window", "s_aux", "softcap", "is_causal"})
NEUTRAL_OPTIONS = frozenset(
    {
        "position_ids",
        "position_embeddings",
        "layer_idx",
        "layer_type",
        "use_cache",
        "cache_position",
        "max_seqlen",
        "host_cu_seqlens",
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "max_length_q",
        "max_length_k",
        "seq_idx",
        "output_router_logits",
        "return_dict",
        *CACHE_ARGUMENTS,
    }
)

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
    if has_attention_dropout(model.config):
        model.set_attn_implementation("thinktune_rows")
        return "thinktune_rows"
    capability = compute_capability(device)
    chosen = pick_attention(device.type, dtype, capability)
    if chosen == "thinktune_varlen" and capability and (newer := pick_flash_kernel(capability, _is_installed)):
        _activate_flash_kernel(newer)
    model.set_attn_implementation(chosen)
    return chosen


def has_attention_dropout(config: Any) -> bool:
    """Return True if a configuration, of any class, drops attention weights in training."""
    values: dict[str, Any] = config.to_dict()
    return any(value for name, value in values.items() if re.fullmatch(r"att.*_(dropout|pdrop|dropout_prob)", name))


def boundaries_as_mask(cu_seqlens: Tensor) -> Tensor:
    """Return row boundaries in the form of a finished mask, (1, 1, 1, rows + 1): transformers makes none of its own."""
    return cu_seqlens[None, None, None]


def reads_cu_seqlens_on_device(model: CausalLM) -> bool:
    """Return True if the model's attention reads `cu_seqlens` on the device; the others read it on the host."""
    # transformers keeps the name in a private field and offers no public one.
    name: str = getattr(model.config, "_attn_implementation", None) or ""
    return name.removesuffix(CONTEXT_SUFFIX) == "thinktune_varlen"


def read_scores(options: Mapping[str, Any], known: Iterable[str] = ()) -> Scores:
    """Read the options of an attention layer; raises UserError for one that is neither `known` nor read here."""
    unknown = {name for name, value in options.items() if value is not None and value is not False}
    unknown -= {*READ_OPTIONS, *NEUTRAL_OPTIONS, *known}
    if unknown:
        raise UserError(
            f"model.name: its attention needs {', '.join(sorted(unknown))}, which is not supported; use another model"
        )
    if options.get("is_causal") is False:
        raise UserError("model.name: its attention sees what comes after a token; use a model that writes text")
    return Scores(options.get("scaling"), options.get("sliding_window"), options.get("softcap"), options.get("s_aux"))


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
        value: (1, kv_heads, n, value's head_dim).
        attention_mask: without row boundaries (generation, one row an entry) as in transformers' own attention.
        cu_seqlens: (rows + 1,) int32 on the CPU: the start of each row, then the end of the last; equal ones are
            empty rows.
        options: other options from transformers, as `read_scores` takes them, and `dropout`.

    Returns:
        (1, n, heads, head_dim) and None (no attention weights).
    """
    cu_seqlens = row_boundaries(cu_seqlens, attention_mask)
    if cu_seqlens is None:
        return _attend_entries(module, query, key, value, attention_mask, options), None
    scores = read_scores(options)
    if torch.compiler.is_compiling():  # the compiler would specialize on the lengths, and recompile for each list
        scale = query.shape[3] ** -0.5 if scores.scale is None else scores.scale
        return rows_op(query, key, value, cu_seqlens, scale, scores.window, scores.cap, scores.sinks), None
    return attend_each_row(query, key, value, cu_seqlens, scores, options.get("dropout", 0.0)), None


def varlen_attention(  # noqa: PLR0913 (the interface is transformers')
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int = 0,
    host_cu_seqlens: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute the same by one FlashAttention kernel for all rows, which reads `cu_seqlens` on the device.

    `max_seqlen` must be at least the tokens of the longest row: positions beyond it would never be written. Layers that
    the kernel cannot compute (sinks, a cap, large heads, values of another size) go row by row, with the boundaries
    that are on the host, if they are given.
    """
    cu_seqlens = row_boundaries(cu_seqlens, attention_mask)
    if cu_seqlens is None:
        return _attend_entries(module, query, key, value, attention_mask, options), None
    scores = read_scores(options)
    fits = query.shape[3] == value.shape[3] <= MAX_FLASH_HEAD_DIM
    if not fits or not scores.is_plain or options.get("dropout"):
        starts = cu_seqlens if host_cu_seqlens is None else host_cu_seqlens
        return rows_attention(module, query, key, value, None, starts, **options)
    parts, longest = _as_kernels_take(query, key, value), max_seqlen or query.shape[2]
    return _varlen(*parts, cu_seqlens, longest, scores.scale, scores.window)[None], None


def _as_kernels_take(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of a packed pass as (n, heads, head_dim), in one dtype."""
    # Under autocast, norms turn queries and keys back to fp32; values never pass a norm.
    query, key, value = (part[0].transpose(0, 1).to(value.dtype) for part in (query, key, value))
    return query, key, value


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
    cu_seqlens = row_boundaries(cu_seqlens, attention_mask)
    if cu_seqlens is None:
        return _attend_entries(module, query, key, value, attention_mask, options), None
    scores = read_scores(options)
    if not scores.is_plain or scores.window is not None or query.shape[3] != value.shape[3]:
        return rows_attention(module, query, key, value, None, cu_seqlens, **options)
    ends = cu_seqlens.unique_consecutive()  # on the CPU; this kernel takes lengths as numbers of the host
    parts = _as_kernels_take(query, key, value)
    fused: Any = npu_flash_attention.npu_flash_attn_varlen_func
    return fused(*parts, ends, ends, softmax_scale=scores.scale, causal=True)[None], None


def row_boundaries(cu_seqlens: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
    """Return the row boundaries of a packed pass, from their option or the mask; None for any other pass.

    Raises UserError where a layer has made a mask of its own for packed rows.
    """
    in_mask = attention_mask is not None and attention_mask.dtype == torch.int32
    if cu_seqlens is not None and attention_mask is not None and not in_mask:
        raise UserError(
            "model.name: its layers build their own attention masks, which does not work with packed rows; use "
            "another model"
        )
    if cu_seqlens is None and in_mask and attention_mask is not None:
        return attention_mask[0, 0, 0]
    return cu_seqlens


def wrap_varlen_attn(
    function: Callable[..., Any], *, for_amd: bool = torch.version.hip is not None
) -> Callable[..., Tensor]:
    """Wrap torch's `varlen_attn` as causal `call(query, key, value, cu_seqlens, max_seqlen, scale, window)`.

    Grouped keys are handed to the kernel as they are. Torch 2.12 and later must be told so; 2.11 does not look at the
    number of heads, and its kernel for NVIDIA cards takes groups, forward and backward. Of its kernel for AMD cards
    (`for_amd`) that is not known, so keys are repeated there.

    Where a release can split a row's keys over blocks of the card, that is turned off: how it splits depends on the
    longest row, and a row must get the same beside any other. It also pins the kernel: 2.14 takes cuDNN's by itself
    otherwise, which users found four times slower on packed rows (pytorch#187770).
    """
    known = inspect.signature(function).parameters
    fixed: dict[str, Any] = {"num_splits": 1} if "num_splits" in known and not for_amd else {}
    fixed |= {"enable_gqa": True} if "enable_gqa" in known else {}
    repeats_keys = for_amd and "enable_gqa" not in known

    def call(  # noqa: PLR0913 (as the kernel has them)
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        scale: float | None,
        window: int | None = None,
    ) -> Tensor:
        seen = (window - 1, 0) if window is not None and window < max_seqlen else (-1, 0)
        if repeats_keys:
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        boundaries = cu_seqlens, cu_seqlens, max_seqlen, max_seqlen
        return function(query, key, value, *boundaries, scale=scale, window_size=seen, **fixed)

    return call


_varlen = wrap_varlen_attn(varlen.varlen_attn)


def _count_varlen(query: Tensor, *others: Any, **_: Any) -> int:
    """Count the operations of torch's operator under `varlen_attn`, as it orders its arguments."""
    longest, window = others[4], (others[8] if len(others) > 8 else None)
    seen = longest if window is None or window[0] < 0 else min(longest, window[0] + 1)
    return causal_operations(query.shape[0], query.shape[1], query.shape[2], seen)


# Torch 2.11 has no formula for it; that of later releases takes every padded row for a longest one.
flop_registry[torch.ops.torch_attn._varlen_attn] = _count_varlen


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


def _attend_entries(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """Return (batch, n, heads, head_dim) of a batch whose entries are one row each, as transformers' attention does."""
    scores = read_scores(options, known=("position_bias",))  # which torch's attention takes
    if scores.is_plain:
        if mask is None and scores.window is not None and scores.window < key.shape[2]:
            mask = seen_keys(query.shape[2], key.shape[2], scores.window, query.device)
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    if mask is None and query.shape[2] > 1:
        mask = seen_keys(query.shape[2], key.shape[2], scores.window, query.device)
    return attend(query, key, value, mask, scores=scores, dropout=options.get("dropout", 0.0)).transpose(1, 2)


# At import, because transformers looks these names up wherever a model is made. It builds no mask for them.
_mask: Callable[..., Any] = sdpa_mask
ATTENTIONS: dict[AttentionName, Callable[..., Any]] = dict(
    zip(get_args(AttentionName), (rows_attention, varlen_attention, ascend_attention), strict=True)
)
for _name, _function in ATTENTIONS.items():
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, _mask)
