"""Attention of passes with a KV cache, for any class: its own masks over our rows, its own options, nothing left out.

A class builds its masks by transformers' interface, which names a function of two positions for each kind of layer
(causal, sliding window, chunks). Here that function is asked at the positions of our rows, so that windows, chunks and
whatever comes next are the class's own.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function

from thinktune.inference.requests import GenerationError
from thinktune.model import CausalLM
from thinktune.model.attention import AttentionName, reads_cu_seqlens_on_device
from thinktune.model.device import copy_to_device
from thinktune.model.protocols import CACHE_ARGUMENTS

NAME = "thinktune_cached"  # in transformers' registry

# Options that leave attention as it is: what is asked of other kernels, of the loss, or given to the layer before.
# A window stands in the mask already.
IDLE_OPTIONS = frozenset(
    {
        "sliding_window",
        "position_ids",
        "position_embeddings",
        *CACHE_ARGUMENTS,
        "use_cache",
        "cache_position",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "layer_type",
        "layer_idx",
        "logits_to_keep",
    }
)
READ_OPTIONS = frozenset({"s_aux", "softcap", "scaling", "dropout", "is_causal"})
MAX_PACKED_HEAD = 256  # size of a head that all packed kernels take


@dataclass(frozen=True, slots=True)
class Pass:
    """Where the tokens of a forward pass with a cache are, and what they may see.

    Of a packed pass every token sees those of its own row in the pass. Of any other pass row r of the batch sees the
    columns of row r of the cache.
    """

    positions: Tensor  # (rows, tokens) int64; of a packed pass (1, n), from 0 in each row
    columns: int  # that attention sees: of the cache, or of a packed pass
    row_indices: Tensor | None = None  # (n,) of a packed pass: the row of each token
    kernel: Callable[..., tuple[Tensor, None]] | None = None  # attention of a packed pass that is plainly causal
    is_padded: bool = False  # there are columns that no row of a pass of one token each has filled yet

    @property
    def sees_all(self) -> bool:
        """Return True for a single token: it sees all columns, as far as causality goes."""
        return self.row_indices is None and self.positions.numel() == 1 and not self.is_padded

    def mask(self, may_see: Callable[..., Any] | None = None) -> Tensor:
        """Return the mask (rows, 1, tokens, columns) of bool: True where `may_see` is, and the token's own row is.

        Args:
            may_see: transformers' function of (batch, head, query position, key position); None for causality alone.
        """
        device = self.positions.device
        queries = self.positions[:, None, :, None]
        if self.row_indices is None:
            keys = torch.arange(self.columns, device=device)[None, None, None]
        else:
            keys = self.positions[:, None, None, :]
        causal = keys <= queries
        if self.row_indices is not None:
            causal = causal & (self.row_indices[:, None] == self.row_indices[None])
        if may_see is None:
            return causal
        batch = torch.arange(len(self.positions), device=device)[:, None, None, None]
        return causal & may_see(batch, torch.zeros_like(batch[:1]), queries, keys)


_present: ContextVar[Pass | None] = ContextVar("thinktune_cached_pass", default=None)


@contextmanager
def cached_attention(model: CausalLM, present: Pass) -> Generator[None]:
    """Let a model attend by this module within the context, for one pass; its own attention is set again after it."""
    config: Any = model.config
    own, token = config._attn_implementation, _present.set(present)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = own
        _present.reset(token)


def packed_pass(model: CausalLM, positions: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Pass:
    """Return the pass of whole prompts side by side; `cu_seqlens` (rows + 1,) int32 on the CPU.

    The kernel that trains packed rows is used where the model has one and the mask is plainly causal.
    """
    name = getattr(model.config, "_attn_implementation", None)
    kernel: Any = None
    if name in get_args(AttentionName):
        on_device = copy_to_device(cu_seqlens, positions.device) if reads_cu_seqlens_on_device(model) else cu_seqlens
        kernel = partial(AttentionInterface()[name], cu_seqlens=on_device, max_seqlen=max_seqlen)
    lengths = cu_seqlens.diff().long()
    rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return Pass(positions, positions.shape[1], copy_to_device(rows, positions.device), kernel)


def _make_mask(
    *_: Any, mask_function: Callable[..., Any], allow_is_causal_skip: bool = True, **__: Any
) -> Tensor | None:
    """Make the mask of a kind of layer for the present pass.

    It is None where plain causality decides and needs no mask, unless the class reads the mask itself. transformers
    calls it, with sizes that it derives from a cache whose rows are equally long; they are not used.
    """
    present = _present_pass()
    is_causal = mask_function is causal_mask_function and allow_is_causal_skip
    if is_causal and (present.sees_all or present.kernel):
        return None
    return present.mask(mask_function)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Compute attention (rows, tokens, heads, size) under the mask, with sinks and a cap where the class has them.

    Raises GenerationError for an option that is not known: ignored, it would make other text.
    """
    present = _present_pass()
    _refuse_unknown(module, options)
    plain, scale = all(options.get(name) is None for name in ("s_aux", "softcap")), options.get("scaling")
    if plain and attention_mask is None and present.kernel and _fits_kernel(query, key, value):
        return present.kernel(module, query, key, value, None, scaling=scale)
    if attention_mask is None and not present.sees_all:
        attention_mask = present.mask()
    if plain and present.is_padded:
        assert attention_mask is not None
        return _attend_grouped(query, key, value, attention_mask, scale), None
    if plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scale)
    return _attend_with_sinks(query, key, value, attention_mask, options), None


def _attend_grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """Compute attention of one token a row: heads that share keys are queries of one head, and no key is repeated.

    Repeated, the keys of the whole cache would be read, written and read again for each token.
    """
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    found = scaled_dot_product_attention(grouped, key, value, mask.expand(-1, -1, grouped.shape[2], -1), scale=scale)
    return found.reshape(rows, 1, heads, value.shape[-1])


def _attend_with_sinks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """Compute attention with a cap of the scores (Gemma 2) and a learned score of each head for nothing (gpt-oss)."""
    sinks, cap, scale = (options.get(name) for name in ("s_aux", "softcap", "scaling"))
    rows, heads, tokens, size = query.shape
    times = heads // key.shape[1]
    if times > 1:
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scores = query @ key.mT * (size**-0.5 if scale is None else scale)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        column = sinks.to(scores.dtype).reshape(1, -1, 1, 1).expand(rows, -1, tokens, 1)
        scores = torch.cat([scores, column], -1)
    shares = scores.softmax(-1, dtype=torch.float32)[..., : key.shape[2]]
    return (shares.to(value.dtype) @ value).transpose(1, 2).contiguous()


def _refuse_unknown(module: nn.Module, options: dict[str, Any]) -> None:
    given = {name for name, value in options.items() if value is not None and value is not False}
    unknown = sorted(given - IDLE_OPTIONS - READ_OPTIONS)
    if unknown or options.get("is_causal") is False:
        what = f"takes {', '.join(unknown)}, which is not known" if unknown else "sees what comes after a token"
        raise GenerationError(
            f"transformers {version('transformers')}: the attention of {type(module).__name__} {what}, so it "
            "cannot generate; use another model"
        )


def _fits_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return query.shape[-1] == key.shape[-1] == value.shape[-1] <= MAX_PACKED_HEAD


def _present_pass() -> Pass:
    present = _present.get()
    assert present is not None, f"{NAME} is set only within a pass of the KV cache"
    return present


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _make_mask)  # pyright: ignore
