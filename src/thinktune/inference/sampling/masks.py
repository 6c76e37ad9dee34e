"""Masks of tokens: one bit each, set where a row's next token may be that one; a row without a mask may have any."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from thinktune.model.device import copy_to_device

ANY_TOKEN = 0xFF

Mask = NDArray[np.uint8]  # (tokens / 8,), the lowest bit of a byte first


def mask_rows(logits: Tensor, masks: Sequence[Mask | None]) -> Tensor:
    """Return logits (rows, vocabulary) fp32 that are -inf where a row's mask is not set; other rows keep their bits."""
    masked = [(row, mask) for row, mask in enumerate(masks) if mask is not None]
    if not masked:
        return logits
    rows = copy_to_device(torch.tensor([row for row, _ in masked]), logits.device)
    given = copy_to_device(torch.from_numpy(np.stack([mask for _, mask in masked])), logits.device)
    return logits.index_copy(0, rows, mask_logits(logits[rows], given))


def mask_logits(logits: Tensor, masks: Tensor) -> Tensor:
    """Return logits (rows, vocabulary) fp32 that are -inf where `masks` (rows, tokens / 8) uint8 are not set.

    NaN stays: it says that the model is broken. The host reads nothing, so a graph can hold it.
    """
    bits = masks[..., None] >> torch.arange(8, dtype=torch.uint8, device=masks.device) & 1
    allowed = functional.pad(bits.flatten(1), (0, max(0, logits.shape[1] - 8 * masks.shape[1])))[:, : logits.shape[1]]
    return logits.masked_fill((allowed == 0) & ~logits.isnan(), float("-inf"))
