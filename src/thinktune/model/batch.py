"""Batches: whole rows side by side in one sequence, none of which sees another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinktune.data.batch_shapes import BatchShapes, most_rows
from thinktune.data.packing import bin_pack, group_by_length
from thinktune.tokenization import Rendered

# The tensors that a step reads on the device.
DEVICE_FIELDS = ("ids", "position_ids", "label_positions", "labels", "label_kinds")


@dataclass(frozen=True, slots=True)
class Padding:
    """Padding that gives all batches of a run one of a few shapes."""

    token_id: int
    shapes: BatchShapes


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows as one sequence of n tokens, m of which are labels (trained tokens).

    `position_ids` restarts at 0 where a row starts. `cu_seqlens` has the start of each row, then the end of the last;
    with padding, the end is repeated up to a fixed length. `max_seqlen` is at least the tokens of the longest row.
    `label_positions` predict the labels, `labels` are those next tokens, `label_kinds` their `TokenKind`.
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
    label_sources: Tensor | None = None  # (m,) int64: the source of each label's row, where a run has several
    first_token: int = 0  # of the whole batch, where this is a slice of it (`context_parallel`)

    @property
    def label_tokens(self) -> int:
        """Return the number of labels, m."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device while that device works; `cu_seqlens` stays on the CPU.

        CUDA copies asynchronously only from pinned memory; `cu_seqlens` is pinned too, for kernels that read it there.
        """
        found: dict[str, Tensor] = {name: getattr(self, name) for name in DEVICE_FIELDS}
        if self.label_sources is not None:
            found["label_sources"] = self.label_sources
        cu_seqlens = self.cu_seqlens
        if device.type == "cuda" and self.ids.device.type == "cpu":
            found = {name: tensor.pin_memory() for name, tensor in found.items()}
            cu_seqlens = cu_seqlens.pin_memory()
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in found.items()}
        return replace(self, cu_seqlens=cu_seqlens, **moved)


def make_padding(token_id: int, lengths: Sequence[int] | NDArray[np.integer], capacity: int) -> Padding:
    """Return the padding of batches of `capacity` tokens, enough for any choice among rows of these lengths."""
    sizes: list[int] = np.asarray(lengths).tolist()
    longest = max(sizes)
    return Padding(token_id, BatchShapes((capacity,), tuple(most_rows([sizes], [capacity], longest)), longest))


def pack(rows: Sequence[Rendered], capacity: int, *, pad: Padding | None = None, packed: bool = True) -> list[Batch]:
    """Pack rows into batches of at most `capacity` tokens, each row once, fullest batch first.

    With `pad`, each batch is padded to exactly `capacity` tokens, one of its shapes. Without it no time is spent on
    padding (the CPU). With `packed` False the batches are for a class whose rows run apart: `capacity` holds them
    padded to the longest.
    """
    group_rows = bin_pack if packed else group_by_length
    return [
        collate([rows[index] for index in group], capacity, pad)
        for group in group_rows([len(row) for row in rows], capacity)
    ]


def collate(rows: Sequence[Rendered], capacity: int, pad: Padding | None = None) -> Batch:
    """Make one batch of rows that fit. Without rows it is padding alone, for a rank that has none.

    With `pad`, it has the shape of `capacity` tokens: `cu_seqlens`, too, has a fixed length.
    """
    if not rows and not pad:
        capacity, pad = 1, Padding(0, BatchShapes((1,), (1,), 1))
    lengths = [len(row) for row in rows]
    tokens = sum(lengths)
    padding = _padding_lengths(capacity - tokens, pad.shapes.longest) if pad else []
    ids = np.concatenate([row.ids for row in rows] + [np.full(sum(padding), pad.token_id if pad else 0, np.int32)])
    position_ids = np.concatenate([np.arange(length) for length in (*lengths, *padding)])
    kinds = np.concatenate([np.zeros(0, np.uint8), *(row.kinds for row in rows)])
    labels = np.flatnonzero(kinds)
    cu_seqlens = np.cumsum([0, *lengths, *padding])
    if pad:
        most = pad.shapes.rows_of(capacity)
        assert len(cu_seqlens) <= most + 1, "the padding was made for other rows"
        cu_seqlens = np.pad(cu_seqlens, (0, most + 1 - len(cu_seqlens)), mode="edge")
    return Batch(
        ids=torch.from_numpy(ids.astype(np.int64))[None],
        position_ids=torch.from_numpy(position_ids.astype(np.int64))[None],
        cu_seqlens=torch.from_numpy(cu_seqlens.astype(np.int32)),
        max_seqlen=pad.shapes.longest if pad else max(lengths),
        label_positions=torch.from_numpy(labels - 1),
        labels=torch.from_numpy(ids[labels].astype(np.int64)),
        label_kinds=torch.from_numpy(kinds[labels].astype(np.int64)),
        row_sources=tuple(row.source for row in rows),
        unpadded_tokens=tokens,
    )


def _padding_lengths(free: int, max_seqlen: int) -> list[int]:
    """Split `free` tokens into rows of at most `max_seqlen`."""
    whole, rest = divmod(free, max_seqlen)
    return [max_seqlen] * whole + [rest] * (rest > 0)
