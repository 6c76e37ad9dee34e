"""CuDNN's packed attention in the place of FlashAttention, to be measured on a card: thinktune does not take it."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from thinktune.model import attention
from thinktune.model.row_attention import causal_operations

MAX_HEAD_DIM = 128


def use_cudnn() -> None:
    """Let `thinktune_varlen` compute layers that see whole rows by cuDNN, before any layer is compiled."""
    flash = attention._varlen

    def call(  # noqa: PLR0913 (as the kernel has them)
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        scale: float | None,
        window: int | None = None,
    ) -> Tensor:
        if query.shape[2] > MAX_HEAD_DIM or (window is not None and window < max_seqlen):
            return flash(query, key, value, cu_seqlens, max_seqlen, scale, window)
        times = query.shape[1] // key.shape[1]  # torch itself hands it no groups
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        scale = query.shape[2] ** -0.5 if scale is None else scale
        return attend_cudnn(query, key, value, cu_seqlens, max_seqlen, scale)[0]

    attention._varlen = call


@torch.library.custom_op("benchmark::attend_cudnn", mutates_args=())
def attend_cudnn(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Run cuDNN's packed kernel, causal and without windows; needs a card of compute capability 9 or 10.

    An operator of ours, because torch 2.11's own way there hands its backward kernel the arguments of FlashAttention's.

    Returns:
        (n, heads, head_dim), the logarithms of the softmax's sums (n, heads, 1), and the seed of a dropout of 0.
    """
    found = torch.ops.aten._cudnn_attention_forward(
        query, key, value, None, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, True, 0.0, True, False, scale=scale
    )
    return found[0], found[1], torch.zeros(2, dtype=torch.int64, device=query.device)


@torch.library.custom_op("benchmark::attend_cudnn_backward", mutates_args=())
def _cudnn_backward_op(  # noqa: PLR0913 (an operator takes no objects)
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    output: Tensor,
    sums: Tensor,
    seed: Tensor,
    max_seqlen: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten._cudnn_attention_backward(
        gradient.contiguous(),
        query,
        key,
        value,
        output,
        sums,
        seed,
        seed,
        None,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        0.0,
        True,
        scale=scale,
    )


@attend_cudnn.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, heads, _ = query.shape
    sums = query.new_empty(tokens, heads, 1, dtype=torch.float32)
    return query.new_empty(tokens, heads, value.shape[2]), sums, query.new_empty(2, dtype=torch.int64)


@_cudnn_backward_op.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.max_seqlen, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return *_cudnn_backward_op(gradient, *ctx.saved_tensors, ctx.max_seqlen, ctx.scale), None, None, None


attend_cudnn.register_autograd(_backward, setup_context=_setup_context)
flop_registry[torch.ops.benchmark.attend_cudnn] = lambda query, *others, **_: causal_operations(*query.shape, others[3])
