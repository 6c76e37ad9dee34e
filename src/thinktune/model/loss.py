"""Fused linear cross entropy over labelled positions only, in chunks, and what training makes of it.

The full logits never exist.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from thinktune.model.device import runs_triton
from thinktune.tokenization import TokenKind

# Bytes of logits at a time: what fits in a CPU's cache; on a card a fraction of its memory, because matrix products
# of few rows leave it idle, and each chunk reads and writes the head's whole gradient.
CPU_CHUNK_BYTES, CHUNK_BYTES, CHUNK_MEMORY_FRACTION = 16 * 2**20, 256 * 2**20, 1 / 64
SMALL_CARD_BYTES, SMALL_CARD_CHUNK_FRACTION = 12 * 2**30, 1 / 32  # where a 64th would be some hundred rows
MIN_CHUNK_ROWS = 16


@dataclass(frozen=True, slots=True)
class LogitChunks:
    """Chunks in which logits are made. They change speed and memory, not results; None means as suits the device."""

    rows: int | None = None  # rows of logits that exist at a time
    fused: bool | None = None  # whether the softmax is one kernel, so that logits stay in the dtype of the products


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What a class makes of its head's products: `scale` times them, then `cap * tanh(x / cap)`."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, products: Tensor) -> Tensor:
        """Return the logits of the head's products, in their dtype."""
        scaled = products if self.scale == 1 else products * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)

    def apply_inplace(self, products: Tensor) -> Tensor | None:
        """Turn products into logits in place; return a copy of capped ones, which their derivative needs."""
        if self.scale != 1:
            products.mul_(self.scale)
        if self.cap is None:
            return None
        products.div_(self.cap).tanh_()
        bounded = products.clone()
        products.mul_(self.cap)
        return bounded

    def derive_inplace(self, gradient: Tensor, bounded: Tensor | None) -> None:
        """Turn the gradient of logits into that of the products, in place; `bounded` is from `apply_inplace`."""
        if bounded is not None:
            gradient.mul_(1 - bounded.square_())
        if self.scale != 1:
            gradient.mul_(self.scale)


PLAIN_LOGITS = LogitTransform()


@dataclass(frozen=True, slots=True)
class LabelWeights:
    """What the cross entropy of each label is multiplied by, besides the scale of all; a constant for the gradient.

    `fixed` is (m,) fp32, None where each is 1; with `probability` the label's own probability is a factor as well.
    """

    fixed: Tensor | None = None
    probability: bool = False

    @property
    def are_equal(self) -> bool:
        """Whether each label has the weight 1."""
        return self.fixed is None and not self.probability

    def part(self, part: slice) -> "LabelWeights":
        """Return those of some of the labels."""
        return self if self.fixed is None else LabelWeights(self.fixed[part], self.probability)

    def apply_inplace(self, factors: Tensor, losses: Tensor) -> Tensor:
        """Multiply factors (rows,) by the weights of labels with these cross entropies, and return them."""
        if self.fixed is not None:
            factors.mul_(self.fixed)
        return factors.mul_(losses.neg().exp_()) if self.probability else factors


EQUAL_WEIGHTS = LabelWeights()


@dataclass(frozen=True, slots=True)
class Objective:
    """What training minimizes: the mean over labels of cross entropy, each by the weight of its part of the reply.

    The token that ends a reply is of the answer's part. With `by_probability` each label's own probability p, taken as
    a constant, is a factor as well: -sg(p) log p (Dynamic Fine-Tuning; Wu et al., 2025, arXiv 2508.05629). The mean
    divides by the weights of the parts alone: over p, a step of improbable tokens would count as much as any other,
    which is what DFT takes away, and ranks would have to exchange p before the first gradient.
    """

    reasoning_weight: float = 1.0
    answer_weight: float = 1.0
    by_probability: bool = False

    @property
    def weighs_parts(self) -> bool:
        """Whether a part counts more than the other."""
        return self.reasoning_weight != self.answer_weight

    def label_weights(self, label_kinds: Tensor) -> LabelWeights:
        """Return the weights of labels by their kinds (m,); the device is handed nothing that it waits for."""
        if not self.weighs_parts:
            return LabelWeights(probability=self.by_probability)
        fixed = torch.full_like(label_kinds, self.answer_weight, dtype=torch.float32)
        fixed.masked_fill_(label_kinds == TokenKind.REASONING, self.reasoning_weight)
        return LabelWeights(fixed, self.by_probability)

    def summed_weight(self, label_tokens: int, reasoning_tokens: int) -> float:
        """Return what divides the loss of so many labels: their number, where the parts weigh the same."""
        if not self.weighs_parts:
            return label_tokens
        return self.reasoning_weight * reasoning_tokens + self.answer_weight * (label_tokens - reasoning_tokens)


CROSS_ENTROPY = Objective()


class _LinearCrossEntropy(torch.autograd.Function):
    """Head and loss in one, with both gradients made in the forward pass: three matrix products, no stored logits."""

    @staticmethod
    def forward(  # noqa: PLR0913 (autograd takes no keywords)
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        scale: float,
        dtype: torch.dtype,
        chunks: LogitChunks,
        transform: LogitTransform,
        weights: LabelWeights,
    ) -> tuple[Tensor, Tensor]:
        fused = _is_fused(hidden.device, chunks.fused)
        with_gradients = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        head = weight.to(dtype)
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if with_gradients else None
        weight_gradient = torch.zeros_like(weight) if with_gradients else None
        # Tensors without memory have no kernels; one pass per operation takes the same memory.
        is_traced = hidden.device.type == "meta" or isinstance(hidden, FakeTensor)
        softmax = _fused_cross_entropy if fused and not is_traced else _cross_entropy_inplace
        # One buffer for all chunks, in place: new pages for each would cost more than the arithmetic.
        chunk_rows = chunks.rows or pick_chunk_rows(hidden.device, len(weight), dtype)
        chunk_rows = min(chunk_rows, max(1, len(labels)))
        buffer = torch.empty(chunk_rows, len(weight), dtype=dtype if fused else torch.float32, device=hidden.device)
        for start in range(0, len(labels), chunk_rows):
            part = slice(start, start + chunk_rows)
            states, target = hidden[part].to(dtype), labels[part, None]
            logits = _logits(states, head, buffer[: len(target)])
            bounded = transform.apply_inplace(logits)
            losses[part] = softmax(logits, target, scale if with_gradients else None, weights.part(part))
            if hidden_gradient is None or weight_gradient is None:
                continue
            transform.derive_inplace(logits, bounded)
            gradient = logits.to(dtype)
            hidden_gradient[part] = gradient @ head
            if dtype == weight.dtype:
                weight_gradient.addmm_(gradient.T, states)
            else:
                weight_gradient += gradient.T @ states
            del gradient, bounded  # before the next chunk's logits are made
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.mark_non_differentiable(losses)
        weighted = losses if weights.are_equal else weights.apply_inplace(losses.clone(), losses)
        return weighted.sum() * scale, losses

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        # As they are: a pass over the head's gradient would read and write the largest tensor of the step. The host
        # asks nothing, so that it does not wait; where this is not so, the device ends the run.
        is_last: Any = torch.ops.aten._assert_async.msg
        is_last(gradients[0] == 1, "the loss is the last number: its scale is given, not multiplied")
        return hidden_gradient, weight_gradient, *[None] * 6


def pick_chunk_rows(
    device: torch.device,
    vocab_size: int,
    dtype: torch.dtype,
    memory_bytes: int | None = None,
    fused: bool | None = None,
) -> int:
    """Pick how many rows of logits exist at a time: much work at once, in a small part of the memory.

    Args:
        device: the CPU, or any other device for an accelerator.
        vocab_size: logits in a row.
        dtype: dtype of the arithmetic.
        memory_bytes: memory of the card, for a plan; None asks a CUDA card.
        fused: whether the softmax is one kernel, so that logits stay in `dtype`; None means as on this device.
    """
    if device.type == "cpu":
        return max(MIN_CHUNK_ROWS, CPU_CHUNK_BYTES // (4 * vocab_size))
    if memory_bytes is None and device.type == "cuda":
        memory_bytes = int(torch.cuda.get_device_properties(device).total_memory)
    size = CHUNK_BYTES
    if memory_bytes:
        small = memory_bytes < SMALL_CARD_BYTES
        size = int(memory_bytes * (SMALL_CARD_CHUNK_FRACTION if small else CHUNK_MEMORY_FRACTION))
    return max(MIN_CHUNK_ROWS, size // ((dtype.itemsize if _is_fused(device, fused) else 4) * vocab_size))


def linear_cross_entropy(  # noqa: PLR0913 (the parts of a loss, by name)
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: float,
    dtype: torch.dtype,
    chunks: LogitChunks | None = None,
    transform: LogitTransform = PLAIN_LOGITS,
    weights: LabelWeights = EQUAL_WEIGHTS,
) -> tuple[Tensor, Tensor]:
    """Compute the cross entropy of `labels` given `hidden` through the head `weight`.

    Args:
        hidden: (m, hidden), the states at the m positions that predict a label.
        weight: (vocabulary, hidden).
        labels: (m,) int64.
        scale: factor of the summed loss: one over the label tokens of the whole step, or over their weights.
        dtype: dtype of the matrix products; the softmax is always fp32.
        chunks: rows of logits that exist at a time; None means `pick_chunk_rows`.
        transform: how the class makes logits of the head's products.
        weights: factors of the labels' losses.

    Returns:
        The scaled sum of weighted losses, to call backward on, and the m losses as they are, in fp32, without gradient.
    """
    if not torch.is_grad_enabled():  # the autograd function cannot see this, and would make both gradients
        hidden, weight = hidden.detach(), weight.detach()
    chunks = chunks or LogitChunks()
    return _LinearCrossEntropy.apply(hidden, weight, labels, scale, dtype, chunks, transform, weights)  # pyright: ignore[reportReturnType]


def _is_fused(device: torch.device, override: bool | None) -> bool:
    return runs_triton(device) if override is None else override


def _logits(states: Tensor, head: Tensor, buffer: Tensor) -> Tensor:
    if states.dtype == buffer.dtype:
        return torch.mm(states, head.T, out=buffer)
    return buffer.copy_(states @ head.T)


def _cross_entropy_inplace(logits: Tensor, target: Tensor, scale: float | None, weights: LabelWeights) -> Tensor:
    """Return the losses (rows,); with a scale, turn the fp32 logits into their scaled, weighted gradient, in place.

    A loss that is not finite makes the gradient of its row NaN, and with it that of the head.
    """
    top = logits.amax(-1, keepdim=True)
    chosen = logits.gather(1, target)
    total = logits.sub_(top).exp_().sum(-1, keepdim=True)
    losses = (total.log() + top - chosen)[:, 0]
    if scale is not None:  # the gradient of cross entropy: softmax minus one at the target
        factor = weights.apply_inplace(torch.full_like(losses, scale), losses)
        factor = factor.masked_fill_(~losses.isfinite(), torch.nan)[:, None]
        logits.mul_(total.reciprocal() * factor).scatter_add_(1, target, -factor)
    return losses


def _fused_cross_entropy(logits: Tensor, target: Tensor, scale: float | None, weights: LabelWeights) -> Tensor:
    """Compute the same in one kernel, for logits of any float dtype: 6 bytes of a bf16 logit cross the memory."""
    from thinktune.model.kernels.cross_entropy import cross_entropy_in_place  # only where Triton is installed

    return cross_entropy_in_place(logits, target, scale, weights.fixed, by_probability=weights.probability)
