"""Steps of a run as a plan sees them: how many batches a card makes of them, and how many tokens with the padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from statistics import fmean

from thinktune.data.batch_shapes import MAX_SIZES, batch_tokens, choose_sizes, most_rows, sample_steps
from thinktune.data.packing import balance, padded_tokens


@dataclass(frozen=True, slots=True)
class MeanBatches:
    """Batches of a card in a step, in the mean of all steps; tokens of one, with padding, and those of its rows."""

    number: float
    tokens: float
    row_tokens: float


@dataclass(frozen=True)
class RunSteps:
    """Tokens of each row of a run's steps, of which a card takes its part; `packed` if rows share a sequence.

    `one_batch_tokens` holds a card's part of any step in one batch.
    """

    sampled: tuple[tuple[int, ...], ...]  # evenly spaced steps
    count: int  # of all steps
    mean_tokens: float  # of a step's rows, over all steps
    one_batch_tokens: int
    longest: int
    ranks: int = 1
    packed: bool = True

    @classmethod
    def of(cls, steps: Sequence[Sequence[int]], ranks: int = 1, *, packed: bool = True) -> "RunSteps":
        """Describe steps by the lengths of their rows."""
        largest, longest = max(map(sum, steps)), max(chain(*steps))
        one_batch = part_of_step(largest, longest, ranks)
        if not packed:
            one_batch = max(padded_tokens(step, ranks) for step in steps)
        sampled = tuple(map(tuple, sample_steps(steps)))
        return cls(sampled, len(steps), fmean(map(sum, steps)), one_batch, longest, ranks, packed)

    def mean_batches(self, capacity: int, most_sizes: int = MAX_SIZES) -> MeanBatches:
        """Return a card's batches of at most `capacity` tokens, padded to the sizes that a run chooses for them."""
        if (capacity, most_sizes) not in self._known_batches:
            self._known_batches[capacity, most_sizes] = self._mean_batches(capacity, most_sizes)
        return self._known_batches[capacity, most_sizes]

    def most_rows(self, capacity: int) -> int:
        """Return the most rows of a batch, those of padding included."""
        if capacity not in self._known_rows:
            [self._known_rows[capacity]] = most_rows(self.sampled, [capacity], self.longest)
        return self._known_rows[capacity]

    @cached_property
    def _known_batches(self) -> dict[tuple[int, int], MeanBatches]:
        return {}

    @cached_property
    def _known_rows(self) -> dict[int, int]:
        return {}

    def _mean_batches(self, capacity: int, most_sizes: int) -> MeanBatches:
        padded = self._packed(capacity, most_sizes) if self.packed else self._apart(capacity)
        count = fmean(len(ranks[0]) for ranks in padded)
        tokens = fmean(max(map(sum, ranks)) for ranks in padded)  # ranks run in lockstep: the fullest counts
        return MeanBatches(count, tokens / count, self.mean_tokens / self.ranks / count)

    def _packed(self, capacity: int, most_sizes: int) -> list[list[list[int]]]:
        """Return the padded tokens of each batch of each rank of each step."""
        filled = [batch_tokens(step, capacity, self.ranks) for step in self.sampled]
        every = [tokens for ranks in filled for tokens in chain(*ranks)]
        sizes = choose_sizes(every, capacity, self.count / len(filled), most_sizes)
        smallest = {tokens: next(size for size in sizes if size >= tokens) for tokens in set(every)}
        return [[[smallest[tokens] for tokens in batches] for batches in ranks] for ranks in filled]

    def _apart(self, capacity: int) -> list[list[list[int]]]:
        """Return the same of rows that are each an entry, padded to the longest of its batch."""
        return [
            [
                [len(rows) * max(step[row] for row in rows) if rows else 0 for rows in groups]
                for groups in balance(step, capacity, self.ranks, packed=False)
            ]
            for step in self.sampled
        ]


def part_of_step(tokens: int, longest: int, ranks: int) -> int:
    """Return the tokens of a step on one card: an even part, but no less than a row, which is never split."""
    even = -(-tokens // ranks)
    return even if ranks == 1 else max(even, min(longest, tokens))
