"""An attention that stands in for kernels where memory is counted: it computes nothing, and keeps what they keep."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

COUNTED = "thinktune_counted"


def attend_counted() -> None:
    """Make it known to transformers under the name COUNTED."""
    AttentionInterface.register(COUNTED, _attention)
    nothing: Callable[..., Any] = _no_mask
    AttentionMaskInterface.register(COUNTED, nothing)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """What attention kernels make in the forward pass: the output, and a number for each token and head."""
    return torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)


def _attend_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What they make in the backward pass."""
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


attend = torch.library.custom_op("thinktune::attend", _attend, mutates_args=())
attend_backward = torch.library.custom_op("thinktune::attend_backward", _attend_backward, mutates_args=())
attend.register_fake(_attend)
attend_backward.register_fake(_attend_backward)


def _keep(ctx: Any, inputs: Sequence[Tensor], output: Sequence[Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _gradients(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return attend_backward(gradient, *ctx.saved_tensors)


attend.register_autograd(_gradients, setup_context=_keep)


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    # As kernels are given them: under autocast, norms make queries and keys fp32 again.
    return attend(*(part.transpose(1, 2).contiguous().to(value.dtype) for part in (query, key, value)))[0], None


def _no_mask(*_: Any, **__: Any) -> None:
    return None
