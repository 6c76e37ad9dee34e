"""Cross entropy over learned positions only, in chunks: the full table of logits never exists."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

# Bytes of logits at a time: what a CPU keeps near its cores; on a card a share of all its memory, because matrix
# products of few rows leave it idle.
CPU_CHUNK_BYTES, CHUNK_BYTES, CHUNK_MEMORY_FRACTION = 16 * 2**20, 256 * 2**20, 1 / 64


MIN_CHUNK_ROWS = 16


FUSED_DEVICE_TYPES = (
    "cuda",
)  # devices on which the softmax is one compiled kernel; elsewhere it is a pass for each operation


class _LinearCrossEntropy(torch.autograd.Function):
    """Head and loss in one, both gradients made in the forward pass: three matrix products, and no stored logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        scale: float,
        dtype: torch.dtype,
        chunk_rows: int,
        fused: bool,
    ) -> tuple[Tensor, Tensor]:
        learning = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        head = weight.to(dtype)
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if learning else None
        weight_gradient = torch.zeros_like(weight) if learning else None
        # Where there is no memory there are no kernels: what works in place stands for one that does.
        softmax = _fused_kernel() if fused and hidden.device.type != "meta" else _cross_entropy_inplace
        # A tensor: a number would become part of the compiled code, and it differs from step to step.
        factor = torch.full((), scale, device=hidden.device) if learning else None
        # One buffer for all chunks, and only operations in place: fresh pages for each would cost more than the sums.
        chunk_rows = min(chunk_rows, max(1, len(labels)))
        buffer = torch.empty(chunk_rows, len(weight), dtype=dtype if fused else torch.float32, device=hidden.device)
        for start in range(0, len(labels), chunk_rows):
            part = slice(start, start + chunk_rows)
            states, target = hidden[part].to(dtype), labels[part, None]
            logits = _logits(states, head, buffer[: len(target)])
            losses[part] = softmax(logits, target, factor)
            if hidden_gradient is None or weight_gradient is None:
                continue
            gradient = logits.to(dtype)
            hidden_gradient[part] = gradient @ head
            if dtype == weight.dtype:
                weight_gradient.addmm_(gradient.T, states)
            else:
                weight_gradient += gradient.T @ states
            del gradient  # else it would still be there while the next chunk's logits are made
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.mark_non_differentiable(losses)
        return losses.sum() * scale, losses

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        # In place: another copy of the head's gradient would be the largest tensor of the step. So backward runs once.
        return hidden_gradient.mul_(gradients[0]), weight_gradient.mul_(gradients[0]), None, None, None, None, None


def pick_chunk_rows(
    device: torch.device,
    vocab_size: int,
    dtype: torch.dtype,
    memory_bytes: int | None = None,
    fused: bool | None = None,
) -> int:
    """How many rows of logits exist at a time: much work at once, in little of the memory.

    Args:
        device: where they are; the CPU, or any other for an accelerator.
        vocabulary: logits in a row.
        dtype: of the arithmetic.
        memory_bytes: of the card, as a plan counts it; none means what a CUDA card says of itself.
        fused: whether the softmax is one kernel, so that logits are kept in `dtype`; none means as on this device.
    """
    if device.type == "cpu":
        return max(MIN_CHUNK_ROWS, CPU_CHUNK_BYTES // (4 * vocab_size))
    if memory_bytes is None and device.type == "cuda":
        memory_bytes = int(torch.cuda.get_device_properties(device).total_memory)
    size = int(memory_bytes * CHUNK_MEMORY_FRACTION) if memory_bytes else CHUNK_BYTES
    return max(MIN_CHUNK_ROWS, size // ((dtype.itemsize if _is_fused(device, fused) else 4) * vocab_size))


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: float,
    dtype: torch.dtype,
    chunk_rows: int | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of predicting `labels` from `hidden` through the head `weight`.

    Args:
        hidden: (m, hidden), the states at the m learned positions.
        weight: (vocabulary, hidden).
        targets: (m,) int64.
        scale: what the summed loss is multiplied with; one over the learned tokens of the whole step.
        dtype: arithmetic of the matrix products; the softmax is always fp32.
        rows: how many rows of logits exist at a time; none means `pick_chunk_rows`. Changes speed and memory, not results.
        fused: whether the softmax is one kernel; none means as on this device.

    Returns:
        The scaled sum, to call backward on, and the m losses by themselves in fp32, without gradient.
    """
    if not torch.is_grad_enabled():  # which the function itself cannot see; without it, it would make both gradients
        hidden, weight = hidden.detach(), weight.detach()
    chunk_rows, fused = (
        chunk_rows or pick_chunk_rows(hidden.device, len(weight), dtype),
        _is_fused(hidden.device, fused),
    )
    return _LinearCrossEntropy.apply(hidden, weight, labels, scale, dtype, chunk_rows, fused)  # pyright: ignore[reportReturnType]


def _is_fused(device: torch.device, override: bool | None) -> bool:
    return device.type in FUSED_DEVICE_TYPES if override is None else override


def _logits(states: Tensor, head: Tensor, buffer: Tensor) -> Tensor:
    if states.dtype == buffer.dtype:
        return torch.mm(states, head.T, out=buffer)
    return buffer.copy_(states @ head.T)


def _cross_entropy_inplace(logits: Tensor, target: Tensor, scale: Tensor | None) -> Tensor:
    """The losses (rows,); with a scale, the fp32 logits become their own scaled gradient, in place."""
    top = logits.amax(-1, keepdim=True)
    chosen = logits.gather(1, target)
    total = logits.sub_(top).exp_().sum(-1, keepdim=True)
    losses = (total.log() + top - chosen)[:, 0]
    if scale is not None:  # softmax less one at the target is the gradient of cross entropy
        logits.mul_(total.reciprocal() * scale).scatter_add_(1, target, -scale.expand_as(top).to(logits.dtype))
    return losses


def _cross_entropy_fused(logits: Tensor, target: Tensor, scale: Tensor | None) -> Tensor:
    """The same as the compiler likes it, for logits of any float type: read twice, written once."""
    exact = logits.float()
    total = exact.logsumexp(-1, keepdim=True)
    losses = (total - exact.gather(1, target))[:, 0]
    if scale is not None:
        at_target = torch.arange(logits.shape[1], device=logits.device) == target
        logits.copy_(((exact - total).exp() - at_target.float()) * scale)
    return losses


_kernels: list[Any] = []


def _fused_kernel() -> Any:
    """`_cross_entropy_fused` as kernels, compiled once for any number of rows; plain where there is no compiler."""
    if not _kernels:
        able = find_spec("triton") is not None
        _kernels.append(torch.compile(_cross_entropy_fused, dynamic=True) if able else _cross_entropy_fused)
    return _kernels[0]
