"""Cross entropy over learned positions only, in chunks: the full table of logits never exists."""

from typing import Any

import torch
from torch import Tensor

# Bytes of fp32 logits at a time: what a CPU keeps near its cores, and what keeps an accelerator busy.
CPU_CHUNK_BYTES, CHUNK_BYTES = 16 * 2**20, 256 * 2**20


class _LinearCrossEntropy(torch.autograd.Function):
    """Head and loss in one, both gradients made in the forward pass: three matrix products, and no stored logits."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        learning = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        head = weight.to(dtype)
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if learning else None
        weight_gradient = torch.zeros_like(weight) if learning else None
        chunk_bytes = CPU_CHUNK_BYTES if hidden.device.type == "cpu" else CHUNK_BYTES
        rows = min(max(16, chunk_bytes // (4 * len(weight))), max(1, len(targets)))
        # One buffer for all chunks, and only operations in place: fresh pages for each would cost more than the sums.
        buffer = torch.empty(rows, len(weight), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            states, target = hidden[part].to(dtype), targets[part, None]
            logits = _logits(states, head, buffer[: len(target)])
            top = logits.amax(-1, keepdim=True)
            chosen = logits.gather(1, target)
            total = logits.sub_(top).exp_().sum(-1, keepdim=True)
            losses[part] = (total.log() + top - chosen)[:, 0]
            if hidden_gradient is None or weight_gradient is None:
                continue
            gradient = logits.mul_(scale / total)  # softmax less one at the target is the gradient of cross entropy
            gradient.scatter_add_(1, target, torch.full_like(top, -scale))
            gradient = gradient.to(dtype)
            hidden_gradient[part] = gradient @ head
            if dtype == weight.dtype:
                weight_gradient.addmm_(gradient.T, states)
            else:
                weight_gradient += gradient.T @ states
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.mark_non_differentiable(losses)
        return losses.sum() * scale, losses

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        # In place: another copy of the head's gradient would be the largest tensor of the step. So backward runs once.
        return hidden_gradient.mul_(gradients[0]), weight_gradient.mul_(gradients[0]), None, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The loss of predicting `targets` from `hidden` through the head `weight`.

    Args:
        hidden: (m, hidden), the states at the m learned positions.
        weight: (vocabulary, hidden).
        targets: (m,) int64.
        scale: what the summed loss is multiplied with; one over the learned tokens of the whole step.
        dtype: arithmetic of the matrix products; the softmax is always fp32.

    Returns:
        The scaled sum, to call backward on, and the m losses by themselves in fp32, without gradient.
    """
    if not torch.is_grad_enabled():  # which the function itself cannot see; without it, it would make both gradients
        hidden, weight = hidden.detach(), weight.detach()
    return _LinearCrossEntropy.apply(hidden, weight, targets, scale, dtype)  # pyright: ignore[reportReturnType]


def _logits(states: Tensor, head: Tensor, buffer: Tensor) -> Tensor:
    if states.dtype == buffer.dtype:
        return torch.mm(states, head.T, out=buffer)
    return buffer.copy_(states @ head.T)
