"""Attention row by row: windows, caps and sinks by torch's own attention, and one operator for the compiler."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.flop_counter import flop_registry

SINK_DIMS = 8  # added to a head for its sink: one would do, but kernels want a multiple of 8


@dataclass(frozen=True, slots=True)
class Scores:
    """What a layer does to its attention scores: their factor, window (tokens seen, itself included), cap and sinks."""

    scale: float | None = None  # None: one over the root of the head's size
    window: int | None = None
    cap: float | None = None  # scores become cap * tanh(score / cap)
    sinks: Tensor | None = None  # (heads,): a score that takes its share of the softmax and gives nothing

    @property
    def is_plain(self) -> bool:
        """Return True for scores that every kernel computes."""
        return self.cap is None and self.sinks is None


def attend_each_row(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scores: Scores, dropout: float = 0.0
) -> Tensor:
    """Return (1, n, heads, head_dim): causal attention within each row of packed queries, keys and values."""
    # The backward of split is one concatenation; slicing would fill a tensor of full size for every row.
    lengths = _row_lengths(cu_seqlens)
    rows = [
        attend(*parts, scores=scores, dropout=dropout).transpose(1, 2)
        for parts in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(rows, dim=1)


def _row_lengths(cu_seqlens: Tensor) -> list[int]:
    return [length for length in cu_seqlens.diff().tolist() if length]


def seen_keys(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Return which keys a query sees, (queries, keys), where the last query is at the last key."""
    distance = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    return (distance >= 0) & (distance < (keys + 1 if window is None else window))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    scores: Scores,
    dropout: float = 0.0,
) -> Tensor:
    """Return (batch, heads, queries, head_dim); without a mask each query sees what is before it, or in its window."""
    queries, keys = query.shape[2], key.shape[2]
    if mask is None and scores.window is not None and scores.window < keys:
        mask = seen_keys(queries, keys, scores.window, query.device)
    if scores.cap is not None:
        return _attend_capped(query, key, value, mask, scores, dropout)
    scale = scores.scale
    if scores.sinks is not None:
        query, key, value, mask, scale = _with_sink(query, key, value, mask, scores)
    attended = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None and query.shape[2] > 1,
        scale=scale,
        dropout_p=dropout,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended[:, :, -queries:]


def _with_sink(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scores: Scores
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, float]:
    """Turn sinks into one more key that every query sees, whose value is zero: kernels know keys, not sinks.

    A head's sink over the scale is one more number of its queries, and 1 at that place in the added key alone.
    """
    assert scores.sinks is not None
    scale = query.shape[3] ** -0.5 if scores.scale is None else scores.scale
    batch, heads, queries, _ = query.shape
    sink = (scores.sinks.to(query.dtype) / scale).view(1, heads, 1, 1).expand(batch, heads, queries, 1)
    query = torch.cat([query, pad(sink, (0, SINK_DIMS - 1))], 3)
    added = torch.zeros_like(key[:, :, :1])
    key = torch.cat([pad(added, (0, SINK_DIMS)), pad(key, (0, SINK_DIMS))], 2)
    key[:, :, 0, -SINK_DIMS] = 1
    value = torch.cat([torch.zeros_like(value[:, :, :1]), value], 2)
    if mask is not None:
        mask = torch.cat([mask.new_full((*mask.shape[:-1], 1), mask.dtype == torch.bool), mask], -1)
    elif queries > 1:
        query = pad(query, (0, 0, 1, 0))  # causal: the added key needs a query at its place, which is dropped
    return query, key, value, mask, scale


def _attend_capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scores: Scores, dropout: float
) -> Tensor:
    """Compute attention with a cap from its scores, (heads, queries, keys) of them in fp32: no kernel has a cap."""
    scale = query.shape[3] ** -0.5 if scores.scale is None else scores.scale
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    found = _cap((query @ key.mT).float() * scale, scores.cap)
    if mask is None:
        mask = seen_keys(query.shape[2], key.shape[2], None, query.device)
    found = found.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else found + mask
    if scores.sinks is not None:
        found = torch.cat([_sink_column(scores.sinks, found), found], 3)
    shares = found.softmax(-1)[..., -key.shape[2] :].to(value.dtype)
    return nn.functional.dropout(shares, dropout) @ value


def _cap(scores: Tensor, cap: float | None) -> Tensor:
    return scores if cap is None else cap * torch.tanh(scores / cap)


def _sink_column(sinks: Tensor, scores: Tensor) -> Tensor:
    return sinks.float().view(1, -1, 1, 1).expand(len(scores), -1, scores.shape[2], 1)


@torch.library.custom_op("thinktune::attend_rows", mutates_args=())
def rows_op(  # noqa: PLR0913 (an operator takes no objects)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Run `attend_each_row` as one operator that is opaque to the compiler; its gradient is registered below."""
    return attend_each_row(query, key, value, cu_seqlens, Scores(scale, window, cap, sinks)).contiguous()


@torch.library.custom_op("thinktune::attend_rows_backward", mutates_args=())
def _rows_backward_op(  # noqa: PLR0913
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    scale: float,
    window: int | None,
    cap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lengths, scores = _row_lengths(cu_seqlens), Scores(scale, window, cap, sinks)
    parts = (part.split(lengths, 2) for part in (gradient.transpose(1, 2), query, key, value))
    rows = [_row_gradients(*row, scores=scores) for row in zip(*parts, strict=True)]
    queries, keys, values, of_sinks = zip(*rows, strict=True)
    return torch.cat(queries, 2), torch.cat(keys, 2), torch.cat(values, 2), torch.stack(of_sinks).sum(0)


def _row_gradients(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *, scores: Scores
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of one row's query, key, value and sinks (none: empty), computed in fp32.

    Autograd cannot enter an operator.
    """
    scale = query.shape[3] ** -0.5 if scores.scale is None else scores.scale
    groups, times, size = key.shape[1], query.shape[1] // key.shape[1], query.shape[2]
    keys, values = (part.repeat_interleave(times, 1).float() for part in (key, value))
    found = _cap(query.float() @ keys.mT * scale, scores.cap)
    masked = found.masked_fill(~seen_keys(size, size, scores.window, query.device), -torch.inf)
    with_sinks = masked if scores.sinks is None else torch.cat([_sink_column(scores.sinks, masked), masked], 3)
    shares = with_sinks.softmax(-1)[..., -size:]
    of_shares = gradient.float() @ values.mT
    mean = (shares * of_shares).sum(-1, keepdim=True)
    of_scores = shares * (of_shares - mean) * scale
    if scores.cap is not None:
        of_scores = of_scores * (1 - (found / scores.cap).square())
    of_sinks = query.new_zeros(0)
    if scores.sinks is not None:
        of_sinks = -((1 - shares.sum(-1, keepdim=True)) * mean).sum((0, 2, 3)).to(scores.sinks.dtype)
    of_key, of_value = (
        wide.unflatten(1, (groups, times)).sum(2).to(query.dtype)
        for wide in (of_scores.mT @ query.float(), shares.mT @ gradient.float())
    )
    return (of_scores @ keys).to(query.dtype), of_key, of_value, of_sinks


@rows_op.register_fake
def _(  # noqa: PLR0913
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


@_rows_backward_op.register_fake
def _(  # noqa: PLR0913
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    scale: float,
    window: int | None,
    cap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_sinks = query.new_empty(0) if sinks is None else sinks.new_empty(sinks.shape)
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape), of_sinks


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, value, cu_seqlens, *ctx.numbers, sinks = inputs
    ctx.save_for_backward(query, key, value, cu_seqlens, sinks)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, sinks = ctx.saved_tensors
    *found, of_sinks = _rows_backward_op(gradient, *tensors, *ctx.numbers, sinks)
    return *found, None, None, None, None, None if sinks is None else of_sinks


rows_op.register_autograd(_backward, setup_context=_setup_context)


def causal_operations(tokens: int, heads: int, head_dim: int, seen: int) -> int:
    """Count the operations of causal attention over packed tokens, as if all rows were as long as the longest may be.

    The compiler weighs them against those of matrix products when it must choose what to keep for the backward pass.
    Rows are shorter on average, by about as much as a card is slower at attention than at products: both are left out.

    Args:
        tokens: all rows together.
        heads: of the queries.
        head_dim: of one head.
        seen: tokens that the longest row has, or that a window leaves of them.
    """
    return 2 * tokens * heads * head_dim * seen  # two products of 2 operations, of which a causal half


def _count_rows(query: Tensor, *others: Any, **_: Any) -> int:
    heads, tokens, head_dim = query.shape[1:]
    window = others[4] if len(others) > 4 else None
    return causal_operations(tokens, heads, head_dim, min(tokens, window or tokens))


flop_registry[torch.ops.thinktune.attend_rows] = _count_rows
