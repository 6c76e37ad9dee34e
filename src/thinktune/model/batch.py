"""Packed batches: a step's rows as tensors, none cut and none seeing its neighbour."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinktune.data.chat_template import Rendered
from thinktune.data.packing import bin_pack

DEVICE_FIELDS = ("ids", "position_ids", "label_positions", "labels", "label_kinds")  # what a batch has there


@dataclass(frozen=True, slots=True)
class Padding:
    """What batches are filled up with, so that no shape of a run ever changes."""

    token_id: int
    max_rows: int  # for how many rows, that of the padding among them, a batch has room
    max_seqlen: int  # tokens of the longest row; padding is cut into rows of no more


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows as one flat row of n tokens, the learned ones (m of them) listed apart.

    `position_ids` restarts at 0 where a row starts; `cu_seqlens` holds where each row starts and, last, where the padding
    ends, repeated up to a fixed number where there is padding; `max_seqlen` is no less than the longest row's tokens;
    `label_positions` holds the positions whose next token is learned, `labels` those tokens, `label_kinds` their Part.
    """

    ids: Tensor  # (1, n) int64
    position_ids: Tensor  # (1, n) int64
    cu_seqlens: Tensor  # (rows + 1,) int32, on the CPU
    max_seqlen: int
    label_positions: Tensor  # (m,) int64
    labels: Tensor  # (m,) int64
    label_kinds: Tensor  # (m,) int64
    row_sources: tuple[str, ...]
    unpadded_tokens: int  # without padding

    @property
    def label_tokens(self) -> int:
        """How many tokens are learned."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device, copied while that device works; `cu_seqlens` stays on the CPU.

        CUDA copies without the host only from memory that is pinned; `cu_seqlens` may follow later.
        """
        found: dict[str, Tensor] = {name: getattr(self, name) for name in DEVICE_FIELDS}
        cu_seqlens = self.cu_seqlens
        if device.type == "cuda" and self.ids.device.type == "cpu":
            found = {name: tensor.pin_memory() for name, tensor in found.items()}
            cu_seqlens = cu_seqlens.pin_memory()
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in found.items()}
        return replace(self, cu_seqlens=cu_seqlens, **moved)


def make_padding(token_id: int, lengths: Sequence[int] | NDArray[np.integer], capacity: int) -> Padding:
    """The padding of batches of `capacity` tokens, for any choice among rows of these lengths.

    A batch holds most rows where they are the shortest ones, and what they leave free is filled by rows of padding.
    No other choice needs more: a row that is taken out frees no more than one row of padding fills.
    """
    sizes = np.sort(np.asarray(lengths))
    filled = np.cumsum(sizes)
    most, longest = int(np.searchsorted(filled, capacity, side="right")), int(sizes[-1])
    free = capacity - (int(filled[most - 1]) if most else 0)
    return Padding(token_id, most + len(_padding_lengths(free, longest)), longest)


def pack(rows: Sequence[Rendered], capacity: int, *, pad: Padding | None = None) -> list[Batch]:
    """Batches of at most `capacity` tokens that hold each row once, fullest first.

    With `pad`, each is filled up to exactly `capacity` tokens, and its boundaries to a fixed number, so that shapes
    never change; without it no time is spent on padding (the CPU).
    """
    return [
        collate([rows[index] for index in group], capacity, pad)
        for group in bin_pack([len(row) for row in rows], capacity)
    ]


def collate(rows: Sequence[Rendered], capacity: int, pad: Padding | None = None) -> Batch:
    """One batch of rows that fit into it. Without rows it is padding alone, for a rank that has none."""
    if not rows and not pad:
        capacity, pad = 1, Padding(0, 1, 1)
    lengths = [len(row) for row in rows]
    tokens = sum(lengths)
    filling = _padding_lengths(capacity - tokens, pad.max_seqlen) if pad else []
    ids = np.concatenate([row.ids for row in rows] + [np.full(sum(filling), pad.token_id if pad else 0, np.int32)])
    positions = np.concatenate([np.arange(length) for length in (*lengths, *filling)])
    parts = np.concatenate([np.zeros(0, np.uint8), *(row.kinds for row in rows)])
    learned = np.flatnonzero(parts)
    ends = np.cumsum([0, *lengths, *filling])
    if pad:
        assert len(ends) <= pad.max_rows + 1, "the padding was made for other rows"
        ends = np.pad(ends, (0, pad.max_rows + 1 - len(ends)), mode="edge")
    return Batch(
        ids=torch.from_numpy(ids.astype(np.int64))[None],
        position_ids=torch.from_numpy(positions.astype(np.int64))[None],
        cu_seqlens=torch.from_numpy(ends.astype(np.int32)),
        max_seqlen=pad.max_seqlen if pad else max(lengths),
        label_positions=torch.from_numpy(learned - 1),
        labels=torch.from_numpy(ids[learned].astype(np.int64)),
        label_kinds=torch.from_numpy(parts[learned].astype(np.int64)),
        row_sources=tuple(row.source for row in rows),
        unpadded_tokens=tokens,
    )


def _padding_lengths(free: int, max_seqlen: int) -> list[int]:
    """`free` tokens as rows of at most `max_seqlen`."""
    whole, rest = divmod(free, max_seqlen)
    return [max_seqlen] * whole + [rest] * (rest > 0)


def pick_padding(device: torch.device, tokenizer: Any, lengths: NDArray[np.integer], capacity: int) -> Padding | None:
    """What fills batches to a fixed size; nothing on the CPU, where padding costs as much as real tokens."""
    return None if device.type == "cpu" else make_padding(tokenizer.pad_token_id or 0, lengths, capacity)
