"""Assign rows to optimizer steps, and pack a step's rows into batches; no row is cut or split."""

import heapq
import random
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.config import Recipe
from thinktune.data import dealing
from thinktune.data.dataset import Prepared, Subset

LOOKAHEAD_ROWS = 64  # that may be passed over in search of one that fits a step


SUBSET_SUM_ROWS = 64  # that are candidates for filling one batch; more would cost time and gain nothing


@dataclass(frozen=True, slots=True)
class StepRows:
    """Rows that share an optimizer step, decided by recipe and seed alone, and their trained tokens in all.

    `epoch_rows` are those whose passes are epochs, where other sources' rows stand beside them; None: all are.
    """

    rows: tuple[int, ...]
    label_tokens: int
    epoch_rows: int | None = None


def assign_rows(
    lengths: Sequence[int] | NDArray[np.integer],
    label_tokens: Sequence[int] | NDArray[np.integer],
    *,
    tokens_per_step: int | None,
    rows_per_step: int | None,
    epochs: int,
    seed: int,
) -> list[StepRows]:
    """Assign rows to the steps of a run, from their tokens and trained tokens: each row once an epoch, in seeded order.

    A step of `tokens_per_step` is filled up to that size: where the next row does not fit, a later one may, and the row
    that was passed over opens the next step. A longer row gets a step of its own. The last step of an epoch holds the
    rest.
    """
    # Plain ints are faster one by one.
    sizes, labels = (np.asarray(counts).tolist() for counts in (lengths, label_tokens))
    steps: list[StepRows] = []
    for epoch in range(epochs):
        order = list(range(len(sizes)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        groups = _by_count(order, rows_per_step) if rows_per_step else _by_tokens(order, sizes, tokens_per_step or 1)
        steps += [StepRows(tuple(group), sum(labels[row] for row in group)) for group in groups]
    return steps


def bin_pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Group indices so that no group's lengths exceed `capacity`, in as few groups as two heuristics find.

    Best-fit decreasing comes first. If it takes more groups than the tokens need, subset sums fill each group in turn
    as full as possible: a step that fills its batches to a thousandth needs that. Raises ValueError where a row cannot
    fit.
    """
    for index, length in enumerate(lengths):
        if not 0 < length <= capacity:
            raise ValueError(f"row {index} has {length} tokens; a batch holds 1 to {capacity}")
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups = _best_fit(longest_first, lengths, capacity)
    if len(groups) * capacity - sum(lengths) < capacity:
        return groups
    return min(groups, _fullest_first(longest_first, lengths, capacity), key=len)


def group_by_length(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Group indices so that no group exceeds `capacity` where each of its rows is padded to the longest of them.

    Rows of like length come together, longest first. Raises ValueError where a row cannot fit.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not 0 < lengths[index] <= capacity:
            raise ValueError(f"row {index} has {lengths[index]} tokens; a batch holds 1 to {capacity}")
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= capacity:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def padded_tokens(lengths: Sequence[int], ranks: int = 1) -> int:
    """Return the tokens of one batch that holds a step's rows, or the largest rank's part, padded to the longest."""
    parts = [rows for [rows] in balance(lengths, len(lengths) * max(lengths), ranks, packed=False)]
    return max(len(rows) * max(lengths[row] for row in rows) for rows in parts if rows)


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
    """Fill each group with the longest row left and those of the next rows that come closest to `capacity`."""
    coming = iter(order)
    waiting = list(islice(coming, SUBSET_SUM_ROWS))
    groups: list[list[int]] = []
    within = (1 << capacity + 1) - 1
    while waiting:
        first, *others = waiting
        sums = [1 << lengths[first]]  # bit n of sums[k]: the longest row and some of the first k others have n tokens
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


MicroBatchRows = list[list[int]]


MAX_REFINED_ROWS = 512  # more rows are balanced without refinement


def balance(lengths: Sequence[int], capacity: int, ranks: int, *, packed: bool = True) -> list[MicroBatchRows]:
    """Balance a step's rows over ranks: each rank's batches, as indices of rows; ranks with fewer get empty ones.

    Ranks run in lockstep, so the rank with most batches counts, and then the one with most tokens. Two ways are tried:
    rows balanced over ranks (by the largest differencing method, Karmarkar and Karp, 1982, then refined row by row)
    and packed there, and rows packed as for one rank, with the batches distributed. The second one wins where batches
    are almost full.

    Args:
        lengths: tokens of each row.
        capacity: tokens of a batch.
        ranks: number of ranks that share the rows.
        packed: False for rows that are padded to the longest of their batch (`group_by_length`).
    """
    group_rows = bin_pack if packed else group_by_length
    if ranks == 1:
        return [group_rows(lengths, capacity)]
    balanced = [
        [[rows[index] for index in group] for group in group_rows([lengths[row] for row in rows], capacity)]
        for rows in _karmarkar_karp(lengths, ranks)
    ]
    distributed = _assign_batches(group_rows(lengths, capacity), lengths, ranks)
    chosen = min(balanced, distributed, key=lambda rank_batches: _cost(rank_batches, lengths))
    most = max(map(len, chosen))
    return [[*groups, *([] for _ in range(most - len(groups)))] for groups in chosen]


def _cost(rank_batches: Sequence[MicroBatchRows], lengths: Sequence[int]) -> tuple[int, int]:
    return max(map(len, rank_batches)), max(_rank_tokens(rank_batches, lengths))


def _rank_tokens(rank_batches: Sequence[MicroBatchRows], lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[row] for group in groups for row in group) for groups in rank_batches]


def _karmarkar_karp(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Divide rows into one part per rank, with token counts as equal as differencing makes them."""
    # Partial divisions, the most uneven first; the largest part of one is joined with the smallest of the other.
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
    """Make the move or swap of a row from the fullest rank that balances most; False if none does."""
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
    """Distribute batches over ranks, the fullest first, each to the rank with fewest tokens that has room."""
    most = -(-len(groups) // ranks)
    rank_batches: list[MicroBatchRows] = [[] for _ in range(ranks)]
    sizes = [0] * ranks
    for group in sorted(groups, key=lambda group: -sum(lengths[row] for row in group)):
        rank = min((rank for rank in range(ranks) if len(rank_batches[rank]) < most), key=lambda rank: sizes[rank])
        rank_batches[rank].append(group)
        sizes[rank] += sum(lengths[row] for row in group)
    return rank_batches


def plan_steps(recipe: Recipe, prepared: Prepared) -> list[StepRows]:
    """Plan which rows share a step, for the whole run, independent of device and ranks."""
    if dealing.has_shares(recipe):
        return _plan_mixture(recipe, prepared.train)
    return assign_rows(
        prepared.train.lengths,
        prepared.train.label_tokens,
        tokens_per_step=recipe.train.tokens_per_step,
        rows_per_step=recipe.train.rows_per_step,
        epochs=recipe.train.epochs,
        seed=recipe.train.seed,
    )


def _plan_mixture(recipe: Recipe, rows: Subset) -> list[StepRows]:
    """Cut each epoch of a mixture into steps, as `assign_rows` cuts those of one source."""
    sizes, labels = rows.lengths.tolist(), rows.label_tokens.tolist()
    counted = dealing.base_row_mask(recipe, rows).tolist()
    by_count, by_tokens = recipe.train.rows_per_step, recipe.train.tokens_per_step or 1
    return [
        StepRows(tuple(group), sum(labels[row] for row in group), sum(counted[row] for row in group))
        for order in dealing.deal_epochs(recipe, rows)
        for group in (_by_count(order, by_count) if by_count else _by_tokens(order, sizes, by_tokens))
    ]


def account_for_sources(recipe: Recipe, prepared: Prepared, steps: Sequence[StepRows]) -> dict[str, Any]:
    """Return the summary's `sources` with what a run's steps train of each, and the sums of rows and tokens trained.

    Nothing where there is one source, of which every row is trained.
    """
    if not recipe.is_mixture:
        return {}
    dealt = dealing.account_of_steps(recipe, prepared.train, [step.rows for step in steps])
    sums = {key: sum(each[key] for each in dealt) for key in dealt[0] if key.startswith("trained_")}
    return {
        "sources": [{**source, **each} for source, each in zip(prepared.summary["sources"], dealt, strict=True)],
        **sums,
    }


def padding_share(lengths: Sequence[int] | NDArray[np.integer], steps: Iterable[StepRows], capacity: int) -> float:
    """Return the tokens of padding over those of rows, in all steps, where each row is an entry of a batch."""
    sizes: list[int] = np.asarray(lengths).tolist()
    filled = padded = 0
    for step in steps:
        rows = [sizes[row] for row in step.rows]
        filled += sum(rows)
        padded += sum(len(group) * rows[group[0]] for group in group_by_length(rows, capacity))  # longest first
    return padded / filled - 1 if filled else 0.0
