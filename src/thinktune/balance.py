"""A step's rows over ranks: none lost, none doubled, tokens level, and the same number of batches for every rank."""

import heapq
from collections.abc import Sequence

from thinktune.pack import fit

Groups = list[list[int]]

MOST_REFINED = 512  # rows; more of them are level without


def balance(lengths: Sequence[int], capacity: int, ranks: int) -> list[Groups]:
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
        return [fit(lengths, capacity)]
    levelled = [
        [[rows[index] for index in group] for group in fit([lengths[row] for row in rows], capacity)]
        for rows in _levelled(lengths, ranks)
    ]
    dealt = _dealt(fit(lengths, capacity), lengths, ranks)
    chosen = min(levelled, dealt, key=lambda made: _cost(made, lengths))
    most = max(map(len, chosen))
    return [[*groups, *([] for _ in range(most - len(groups)))] for groups in chosen]


def imbalance(shares: Sequence[Groups], lengths: Sequence[int]) -> float:
    """By how much the rank with most tokens exceeds the mean, as a share of it."""
    sizes = _sizes(shares, lengths)
    return max(sizes) / (sum(sizes) / len(sizes)) - 1


def _cost(shares: Sequence[Groups], lengths: Sequence[int]) -> tuple[int, int]:
    return max(map(len, shares)), max(_sizes(shares, lengths))


def _sizes(shares: Sequence[Groups], lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[row] for group in groups for row in group) for groups in shares]


def _levelled(lengths: Sequence[int], ranks: int) -> list[list[int]]:
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
    while len(lengths) <= MOST_REFINED and _refined(parts, lengths):
        pass
    return parts


def _refined(parts: list[list[int]], lengths: Sequence[int]) -> bool:
    """Move a row from the fullest part to another one, or change it for one there, where that levels most."""
    sizes = [sum(lengths[row] for row in rows) for rows in parts]
    full = max(range(len(parts)), key=lambda part: sizes[part])
    best = (sizes[full], -1, -1, -1)
    for part, rows in enumerate(parts):
        if part == full or sizes[part] == sizes[full]:
            continue
        for given in parts[full]:
            for taken in (-1, *rows):
                less = lengths[given] - (lengths[taken] if taken >= 0 else 0)
                best = min(best, (max(sizes[full] - less, sizes[part] + less), part, given, taken))
    top, part, given, taken = best
    if top == sizes[full]:
        return False
    parts[full].remove(given)
    parts[part].append(given)
    if taken >= 0:
        parts[part].remove(taken)
        parts[full].append(taken)
    return True


def _dealt(groups: Groups, lengths: Sequence[int], ranks: int) -> list[Groups]:
    """Batches over ranks, the fullest first, each to the rank with least of those that have room for one more."""
    most = -(-len(groups) // ranks)
    shares: list[Groups] = [[] for _ in range(ranks)]
    sizes = [0] * ranks
    for group in sorted(groups, key=lambda group: -sum(lengths[row] for row in group)):
        rank = min((rank for rank in range(ranks) if len(shares[rank]) < most), key=lambda rank: sizes[rank])
        shares[rank].append(group)
        sizes[rank] += sum(lengths[row] for row in group)
    return shares
