"""Shapes of a run's batches on an accelerator: few, because each is another graph, and close to what batches hold.

Which rows share a step, and which of them a batch, is decided before and never changes: only the padding does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from thinktune.data.packing import balance

MAX_SIZES = 3
TOKENS_MULTIPLE, MAX_CANDIDATES = 128, 256  # sizes are multiples of at least 128 tokens, and at most so many are tried


# A size more must save so many tokens of padding in the whole run: about what a 1.7B trains on in the 20 seconds that
# compiling another graph takes.
GRAPH_TOKENS = 1_000_000


SAMPLED_ROWS = 20_000  # of a run's steps, evenly spaced: enough to know how full their batches are


@dataclass(frozen=True, slots=True)
class BatchShapes:
    """Shapes to which a run's batches are padded: tokens, ascending, and for each the most rows, those of padding too.

    `longest` is the most tokens of a row; padding is split into rows of at most as many.
    """

    tokens: tuple[int, ...]
    rows: tuple[int, ...]
    longest: int

    def smallest(self, tokens: int) -> int:
        """Return the smallest size that holds so many tokens."""
        return next(size for size in self.tokens if size >= tokens)

    def rows_of(self, size: int) -> int:
        """Return the most rows of a batch of this size, rows of padding included."""
        return self.rows[self.tokens.index(size)]


def plan_shapes(
    steps: Sequence[Sequence[int]], held_out: Sequence[int], capacity: int, ranks: int = 1, most_sizes: int = MAX_SIZES
) -> BatchShapes:
    """Choose the shapes of a run's batches from the tokens of each step's rows, and of the rows held out.

    The largest holds `capacity` tokens; evaluation uses it alone.
    """
    longest = max(chain(held_out, *steps))
    sampled = sample_steps(steps)
    tokens = [size for step in sampled for size in chain(*batch_tokens(step, capacity, ranks))]
    sizes = choose_sizes(tokens, capacity, len(steps) / max(1, len(sampled)), most_sizes)
    rows = most_rows(steps, sizes, longest)
    if held_out:  # packed as every evaluation will
        groups = [[held_out[row] for row in group] for group in chain(*balance(held_out, capacity, ranks)) if group]
        rows[-1] = max(rows[-1], *most_rows(groups, [capacity], longest))
    return BatchShapes(tuple(sizes), tuple(rows), longest)


def sample_steps(steps: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """Return evenly spaced steps that have about SAMPLED_ROWS rows, or all if they have no more."""
    count = max(1, SAMPLED_ROWS * len(steps) // max(1, sum(map(len, steps))))
    return steps[:: -(-len(steps) // count)] if steps else steps


def batch_tokens(step: Sequence[int], capacity: int, ranks: int) -> list[list[int]]:
    """Return for each rank the tokens of its batches of a step; 0 for one that is padding alone."""
    return [[sum(step[row] for row in rows) for rows in groups] for groups in balance(step, capacity, ranks)]


def choose_sizes(
    tokens: Sequence[int], capacity: int, repeats: float = 1.0, most_sizes: int = MAX_SIZES
) -> tuple[int, ...]:
    """Choose the sizes, ascending, to which batches of so many tokens are padded with the fewest tokens in all.

    The last is `capacity`. Each other must save GRAPH_TOKENS, where every batch is counted `repeats` times.
    """
    step = -(-max(TOKENS_MULTIPLE, capacity // MAX_CANDIDATES) // TOKENS_MULTIPLE) * TOKENS_MULTIPLE
    needed = np.minimum(-(-np.maximum(np.asarray(tokens, np.int64), 1) // step) * step, capacity)
    sizes, counts = np.unique(needed, return_counts=True)
    sizes, filled = sizes[sizes < capacity], np.cumsum(counts[sizes < capacity])  # batches that each size holds
    chosen = [capacity]
    padded = float(len(needed) * capacity)
    for found, cost in _fewest_tokens(sizes, filled, len(needed), capacity)[: max(0, most_sizes - 1)]:
        if (padded - cost) * repeats < GRAPH_TOKENS * (len(found) + 1 - len(chosen)):
            continue
        chosen, padded = [*found, capacity], cost
    return tuple(chosen)


def _fewest_tokens(
    sizes: NDArray[np.int64], filled: NDArray[np.int64], batches: int, capacity: int
) -> list[tuple[list[int], float]]:
    """Return the best one size and the best two beside `capacity`, each with the padded tokens of all batches."""
    if not len(sizes):
        return []
    alone = filled * sizes + (batches - filled) * capacity
    best = int(alone.argmin())
    found = [([int(sizes[best])], float(alone[best]))]
    if len(sizes) > 1:
        both = (
            (filled * sizes)[:, None] + (filled[None] - filled[:, None]) * sizes + (batches - filled)[None] * capacity
        )
        both = np.where(sizes[:, None] < sizes[None], both, np.iinfo(np.int64).max)
        small, large = np.unravel_index(int(both.argmin()), both.shape)
        found.append(([int(sizes[small]), int(sizes[large])], float(both[small, large])))
    return found


def most_rows(steps: Sequence[Sequence[int]], sizes: Sequence[int], longest: int) -> list[int]:
    """Return for each size the most rows that a batch may have, whichever rows of one step it holds.

    A batch has most rows when it has the step's shortest ones, and rows of padding of at most `longest` tokens fill the
    rest. No other choice needs more: taking a row out frees no more than one row of padding fills.
    """
    counts = np.fromiter(map(len, steps), np.int64, len(steps))
    lengths = np.fromiter(chain.from_iterable(steps), np.int64, int(counts.sum()))
    owners = np.repeat(np.arange(len(steps)), counts)
    starts = np.cumsum(counts) - counts
    shortest_first = lengths[np.lexsort((lengths, owners))]
    filled = np.cumsum(shortest_first)
    filled -= np.repeat(filled[starts] - shortest_first[starts], counts)  # what the steps before have
    found: list[int] = []
    for size in sizes:
        rows = np.bincount(owners[filled <= size], minlength=len(steps))
        tokens = np.where(rows > 0, filled[starts + np.maximum(rows, 1) - 1], 0)
        found.append(int((rows - (tokens - size) // longest).max(initial=-(-size // longest))))
    return found
