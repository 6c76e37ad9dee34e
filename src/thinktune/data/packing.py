"""Rows to steps, and steps to packed batches: nothing is cut, nothing is split, and no row sees its neighbour."""

import heapq
import random
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from thinktune.config import Recipe
from thinktune.data.chat_template import TokenKind
from thinktune.data.pipeline import Prepared

LOOKAHEAD_ROWS = 64  # how far past a row that does not fit the dealer looks for one that does


SUBSET_SUM_ROWS = 64  # of how many rows a batch is filled to the brim; more would cost time and bring nothing


@dataclass(frozen=True, slots=True)
class StepRows:
    """Which rows share an optimizer step, decided by recipe and seed alone, and how many tokens it learns in all."""

    rows: tuple[int, ...]
    label_tokens: int


def assign_rows(
    lengths: Sequence[int] | NDArray[np.integer],
    label_tokens: Sequence[int] | NDArray[np.integer],
    *,
    tokens_per_step: int | None,
    rows_per_step: int | None,
    epochs: int,
    seed: int,
) -> list[StepRows]:
    """The steps of a run, from each row's tokens and learned tokens: in every epoch each row once, in a seeded order.

    A step of `tokens_per_step` is filled up to that size: where the next row does not fit, one of the following ones
    may, and the row that waited opens the next step. A longer row has a step of its own. The last step of an epoch
    holds what is left.
    """
    sizes, gains = (
        np.asarray(counts).tolist() for counts in (lengths, label_tokens)
    )  # plain ints are faster one by one
    steps: list[StepRows] = []
    for epoch in range(epochs):
        order = list(range(len(sizes)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        groups = _by_count(order, rows_per_step) if rows_per_step else _by_tokens(order, sizes, tokens_per_step or 1)
        steps += [StepRows(tuple(group), sum(gains[row] for row in group)) for group in groups]
    return steps


def bin_pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
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
    waiting = list(islice(coming, SUBSET_SUM_ROWS))
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
        waiting += islice(coming, SUBSET_SUM_ROWS - len(waiting))
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


assert TokenKind.PROMPT == 0  # a token is learned exactly where its part is not zero


MicroBatchRows = list[list[int]]


MAX_REFINED_ROWS = 512  # rows; more of them are level without


def balance(lengths: Sequence[int], capacity: int, ranks: int) -> list[MicroBatchRows]:
    """Of every rank its batches, as indices of rows; a batch that finds no row is empty.

    Ranks work in step, so what counts is the rank with most batches, and then that with most tokens. Two ways are
    tried: rows levelled over ranks (by the largest differencing method, Karmarkar and Karp, 1982, and then row by row)
    and packed there, and rows packed as for one rank, whose batches are dealt out. The second one wins where batches
    are filled to the brim.

    Args:
        lengths: tokens of each row.
        capacity: tokens of a batch.
        ranks: how many share the rows.
    """
    if ranks == 1:
        return [bin_pack(lengths, capacity)]
    levelled = [
        [[rows[index] for index in group] for group in bin_pack([lengths[row] for row in rows], capacity)]
        for rows in _karmarkar_karp(lengths, ranks)
    ]
    dealt = _assign_batches(bin_pack(lengths, capacity), lengths, ranks)
    chosen = min(levelled, dealt, key=lambda made: _cost(made, lengths))
    most = max(map(len, chosen))
    return [[*groups, *([] for _ in range(most - len(groups)))] for groups in chosen]


def imbalance(rank_batches: Sequence[MicroBatchRows], lengths: Sequence[int]) -> float:
    """By how much the rank with most tokens exceeds the mean, as a share of it."""
    sizes = _rank_tokens(rank_batches, lengths)
    return max(sizes) / (sum(sizes) / len(sizes)) - 1


def _cost(rank_batches: Sequence[MicroBatchRows], lengths: Sequence[int]) -> tuple[int, int]:
    return max(map(len, rank_batches)), max(_rank_tokens(rank_batches, lengths))


def _rank_tokens(rank_batches: Sequence[MicroBatchRows], lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[row] for group in groups for row in group) for groups in rank_batches]


def _karmarkar_karp(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Rows in as many parts as ranks, of tokens as equal as differencing makes them."""
    # Partial divisions, the most uneven first; the largest part of one joins the smallest of the other.
    heap: list[tuple[int, int, list[tuple[int, list[int]]]]] = [
        (-length, row, [(length, [row]), *((0, list[int]()) for _ in range(ranks - 1))])
        for row, length in enumerate(lengths)
    ]
    heapq.heapify(heap)
    while len(heap) > 1:
        (_, number, some), (_, _, others) = heapq.heappop(heap), heapq.heappop(heap)
        joined = [(size + more, rows + rest) for (size, rows), (more, rest) in zip(some, reversed(others), strict=True)]
        joined.sort(key=lambda part: -part[0])
        heapq.heappush(heap, (joined[-1][0] - joined[0][0], number, joined))
    parts = [rows for _, rows in heap[0][2]] if heap else [[] for _ in range(ranks)]
    while len(lengths) <= MAX_REFINED_ROWS and _swap_rows(parts, lengths):
        pass
    return parts


def _swap_rows(rank_rows: list[list[int]], lengths: Sequence[int]) -> bool:
    """Move a row from the fullest part to another one, or change it for one there, where that levels most."""
    sizes = [sum(lengths[row] for row in rows) for rows in rank_rows]
    full = max(range(len(rank_rows)), key=lambda part: sizes[part])
    best = (sizes[full], -1, -1, -1)
    for part, rows in enumerate(rank_rows):
        if part == full or sizes[part] == sizes[full]:
            continue
        for given in rank_rows[full]:
            for taken in (-1, *rows):
                less = lengths[given] - (lengths[taken] if taken >= 0 else 0)
                best = min(best, (max(sizes[full] - less, sizes[part] + less), part, given, taken))
    top, part, given, taken = best
    if top == sizes[full]:
        return False
    rank_rows[full].remove(given)
    rank_rows[part].append(given)
    if taken >= 0:
        rank_rows[part].remove(taken)
        rank_rows[full].append(taken)
    return True


def _assign_batches(groups: MicroBatchRows, lengths: Sequence[int], ranks: int) -> list[MicroBatchRows]:
    """Batches over ranks, the fullest first, each to the rank with least of those that have room for one more."""
    most = -(-len(groups) // ranks)
    shares: list[MicroBatchRows] = [[] for _ in range(ranks)]
    sizes = [0] * ranks
    for group in sorted(groups, key=lambda group: -sum(lengths[row] for row in group)):
        rank = min((rank for rank in range(ranks) if len(shares[rank]) < most), key=lambda rank: sizes[rank])
        shares[rank].append(group)
        sizes[rank] += sum(lengths[row] for row in group)
    return shares


def plan_steps(recipe: Recipe, prepared: Prepared) -> list[StepRows]:
    """Which rows share a step, for the whole run; neither card nor ranks have a say in it."""
    return assign_rows(
        prepared.train.lengths,
        prepared.train.label_tokens,
        tokens_per_step=recipe.train.tokens_per_step,
        rows_per_step=recipe.train.rows_per_step,
        epochs=recipe.train.epochs,
        seed=recipe.train.seed,
    )
