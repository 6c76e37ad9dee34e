"""Rows to steps, and steps to packed batches: nothing is cut, nothing is split, and no row sees its neighbour."""

import random
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinktune.render import Part, Rendered

LOOKAHEAD_ROWS = 64  # how far past a row that does not fit the dealer looks for one that does
ON_DEVICE = ("ids", "positions", "learned_at", "targets", "parts")  # what a batch has there
BRIM_ROWS = 64  # of how many rows a batch is filled to the brim; more would cost time and bring nothing


@dataclass(frozen=True, slots=True)
class Step:
    """Which rows share an optimizer step, decided by recipe and seed alone, and how many tokens it learns in all."""

    rows: tuple[int, ...]
    learned_tokens: int


@dataclass(frozen=True, slots=True)
class Padding:
    """What batches are filled up with, so that no shape of a run ever changes."""

    token: int
    rows: int  # for how many rows, that of the padding among them, a batch has room
    longest: int  # tokens of the longest row; padding is cut into rows of no more


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows as one flat row of n tokens, the learned ones (m of them) listed apart.

    `positions` restarts at 0 where a row starts; `boundaries` holds where each row starts and, last, where the padding
    ends, repeated up to a fixed number where there is padding; `longest` is no less than the longest row's tokens;
    `learned_at` holds the positions whose next token is learned, `targets` those tokens, `parts` their Part.
    """

    ids: Tensor  # (1, n) int64
    positions: Tensor  # (1, n) int64
    boundaries: Tensor  # (rows + 1,) int32, on the CPU
    longest: int
    learned_at: Tensor  # (m,) int64
    targets: Tensor  # (m,) int64
    parts: Tensor  # (m,) int64
    rows: tuple[str, ...]
    tokens: int  # without padding

    @property
    def learned_tokens(self) -> int:
        """How many tokens are learned."""
        return len(self.targets)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device, copied while that device works; boundaries stay on the CPU.

        CUDA copies without the host only from memory that is pinned; the boundaries may follow later.
        """
        found: dict[str, Tensor] = {name: getattr(self, name) for name in ON_DEVICE}
        boundaries = self.boundaries
        if device.type == "cuda" and self.ids.device.type == "cpu":
            found = {name: tensor.pin_memory() for name, tensor in found.items()}
            boundaries = boundaries.pin_memory()
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in found.items()}
        return replace(self, boundaries=boundaries, **moved)


def padding(token: int, lengths: Sequence[int] | NDArray[np.integer], capacity: int) -> Padding:
    """The padding of batches of `capacity` tokens, for any choice among rows of these lengths.

    A batch holds most rows where they are the shortest ones, and what they leave free is filled by rows of padding.
    No other choice needs more: a row that is taken out frees no more than one row of padding fills.
    """
    sizes = np.sort(np.asarray(lengths))
    filled = np.cumsum(sizes)
    most, longest = int(np.searchsorted(filled, capacity, side="right")), int(sizes[-1])
    free = capacity - (int(filled[most - 1]) if most else 0)
    return Padding(token, most + len(_filling(free, longest)), longest)


def deal(
    lengths: Sequence[int] | NDArray[np.integer],
    learned: Sequence[int] | NDArray[np.integer],
    *,
    tokens_per_step: int | None,
    rows_per_step: int | None,
    epochs: int,
    seed: int,
) -> list[Step]:
    """The steps of a run, from each row's tokens and learned tokens: in every epoch each row once, in a seeded order.

    A step of `tokens_per_step` is filled up to that size: where the next row does not fit, one of the following ones
    may, and the row that waited opens the next step. A longer row has a step of its own. The last step of an epoch
    holds what is left.
    """
    sizes, gains = (np.asarray(counts).tolist() for counts in (lengths, learned))  # plain ints are faster one by one
    steps: list[Step] = []
    for epoch in range(epochs):
        order = list(range(len(sizes)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        groups = _by_count(order, rows_per_step) if rows_per_step else _by_tokens(order, sizes, tokens_per_step or 1)
        steps += [Step(tuple(group), sum(gains[row] for row in group)) for group in groups]
    return steps


def pack(rows: Sequence[Rendered], capacity: int, *, pad: Padding | None = None) -> list[Batch]:
    """Batches of at most `capacity` tokens that hold each row once, fullest first.

    With `pad`, each is filled up to exactly `capacity` tokens, and its boundaries to a fixed number, so that shapes
    never change; without it no time is spent on padding (the CPU).
    """
    return [
        collate([rows[index] for index in group], capacity, pad) for group in fit([len(row) for row in rows], capacity)
    ]


def fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices grouped so that no group's lengths exceed `capacity`, in as few groups as two simple rules find.

    Best-fit decreasing comes first. Where it takes more groups than the tokens need, each group in turn is filled as
    full as it can be; a step that fills its batches to a thousandth leaves no room for less.
    """
    for index, length in enumerate(lengths):
        if not 0 < length <= capacity:
            raise ValueError(f"row {index} has {length} tokens; a batch holds 1 to {capacity}")
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups = _best_fit(longest_first, lengths, capacity)
    if len(groups) * capacity - sum(lengths) < capacity:
        return groups
    return min(groups, _fullest_first(longest_first, lengths, capacity), key=len)


def _best_fit(order: Iterable[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    groups: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, group), sorted
    for index in order:
        slot = bisect_left(room, (lengths[index], -1))
        if slot < len(room):
            free, group = room.pop(slot)
        else:
            free, group = capacity, len(groups)
            groups.append([])
        groups[group].append(index)
        insort(room, (free - lengths[index], group))
    return groups


def _fullest_first(order: Iterable[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Each group the longest row left, and of the next ones those that come closest to `capacity`."""
    coming = iter(order)
    waiting = list(islice(coming, BRIM_ROWS))
    groups: list[list[int]] = []
    within = (1 << capacity + 1) - 1
    while waiting:
        first, *others = waiting
        sums = [1 << lengths[first]]  # bit n of sums[k]: some of the first k others and the longest row have n tokens
        for index in others:
            sums.append((sums[-1] | sums[-1] << lengths[index]) & within)
        wanted = sums[-1].bit_length() - 1
        group = [first]
        for index, reached in zip(reversed(others), reversed(sums[:-1]), strict=True):
            if not reached >> wanted & 1:
                group.append(index)
                wanted -= lengths[index]
        groups.append(group)
        taken = set(group)
        waiting = [index for index in waiting if index not in taken]
        waiting += islice(coming, BRIM_ROWS - len(waiting))
    return groups


def _by_count(order: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(order), size):
        yield list(order[start : start + size])


def _by_tokens(order: Sequence[int], lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    waiting: list[int] = []
    coming = iter(order)
    while True:
        group: list[int] = []
        room = size
        passed: list[int] = []
        for seen, row in enumerate(chain(waiting, coming), start=1):
            if lengths[row] <= room or not group:
                group.append(row)
                room -= lengths[row]
            else:
                passed.append(row)
            if seen >= len(waiting) and (room <= 0 or len(passed) >= LOOKAHEAD_ROWS):
                break
        waiting = passed
        if not group:
            return
        yield group


def collate(rows: Sequence[Rendered], capacity: int, pad: Padding | None = None) -> Batch:
    """One batch of rows that fit into it. Without rows it is padding alone, for a rank that has none."""
    if not rows and not pad:
        capacity, pad = 1, Padding(0, 1, 1)
    lengths = [len(row) for row in rows]
    tokens = sum(lengths)
    filling = _filling(capacity - tokens, pad.longest) if pad else []
    ids = np.concatenate([row.ids for row in rows] + [np.full(sum(filling), pad.token if pad else 0, np.int32)])
    positions = np.concatenate([np.arange(length) for length in (*lengths, *filling)])
    parts = np.concatenate([np.zeros(0, np.uint8), *(row.parts for row in rows)])
    learned = np.flatnonzero(parts)
    ends = np.cumsum([0, *lengths, *filling])
    if pad:
        assert len(ends) <= pad.rows + 1, "the padding was made for other rows"
        ends = np.pad(ends, (0, pad.rows + 1 - len(ends)), mode="edge")
    return Batch(
        ids=torch.from_numpy(ids.astype(np.int64))[None],
        positions=torch.from_numpy(positions.astype(np.int64))[None],
        boundaries=torch.from_numpy(ends.astype(np.int32)),
        longest=pad.longest if pad else max(lengths),
        learned_at=torch.from_numpy(learned - 1),
        targets=torch.from_numpy(ids[learned].astype(np.int64)),
        parts=torch.from_numpy(parts[learned].astype(np.int64)),
        rows=tuple(row.row for row in rows),
        tokens=tokens,
    )


def _filling(free: int, longest: int) -> list[int]:
    """`free` tokens as rows of at most `longest`."""
    whole, rest = divmod(free, longest)
    return [longest] * whole + [rest] * (rest > 0)


assert Part.GIVEN == 0  # a token is learned exactly where its part is not zero
