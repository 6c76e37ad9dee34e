"""Cross entropy and its gradient over logits in one Triton kernel, which reads them twice and writes them once."""

# Triton ships no types, and a kernel is a language of its own.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_LOGITS, WARPS = 4096, 8  # 16 logits a thread, in loads of 16 bytes


def cross_entropy_in_place(
    logits: Tensor, target: Tensor, scale: float | None, weights: Tensor | None = None, *, by_probability: bool = False
) -> Tensor:
    """Return the losses (rows,) fp32; with a scale, turn the logits into their scaled gradient, in place.

    The softmax is fp32, by a running maximum (Milakov, Gimelshein, 2018). A loss that is not finite makes the gradient
    of its row NaN.

    Args:
        logits: (rows, vocabulary) in any float dtype, rows contiguous.
        target: (rows, 1) int64.
        scale: factor of the gradient; None for the losses alone.
        weights: (rows,) fp32, a factor of each row's gradient; None where each is 1.
        by_probability: whether the target's probability is a factor of its row's gradient as well.
    """
    rows, vocab_size = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        _cross_entropy[(rows,)](
            logits,
            target,
            losses,
            weights,
            logits.stride(0),
            0.0 if scale is None else scale,
            VOCABULARY=vocab_size,
            BLOCK=BLOCK_LOGITS,
            WITH_GRADIENT=scale is not None,
            BY_PROBABILITY=by_probability,
            num_warps=WARPS,
        )
    return losses


@triton.jit
def _cross_entropy(  # noqa: PLR0913 (a kernel takes no objects)
    logits,
    targets,
    losses,
    weights,
    row_stride,
    scale,
    VOCABULARY: tl.constexpr,  # noqa: N803 (as Triton names constants)
    BLOCK: tl.constexpr,  # noqa: N803
    WITH_GRADIENT: tl.constexpr,  # noqa: N803
    BY_PROBABILITY: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    target = tl.load(targets + row)
    chosen = tl.load(logits + target).to(tl.float32)
    top = float("-inf")
    total = 0.0
    for start in range(0, VOCABULARY, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        values = tl.load(logits + columns, mask=columns < VOCABULARY, other=float("-inf")).to(tl.float32)
        former = top
        top = tl.maximum(top, tl.max(values, 0))
        shift = tl.where(top == float("-inf"), 0.0, top)  # infinity less infinity is no number
        total = total * tl.exp(former - shift) + tl.sum(tl.exp(values - shift), 0)
    normalizer = top + tl.log(total)
    loss = normalizer - chosen
    tl.store(losses + row, loss)
    if WITH_GRADIENT:
        if weights is not None:
            scale *= tl.load(weights + row)
        if BY_PROBABILITY:
            scale *= tl.exp(-loss)
        factor = tl.where(tl.abs(loss) < float("inf"), scale, float("nan"))
        for start in range(0, VOCABULARY, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < VOCABULARY
            values = tl.load(logits + columns, mask=inside, other=float("-inf")).to(tl.float32)
            share = tl.exp(values - normalizer) - tl.where(columns == target, 1.0, 0.0)
            tl.store(logits + columns, (share * factor).to(logits.dtype.element_ty), mask=inside)
