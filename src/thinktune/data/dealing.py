"""Deal the rows of several sources: each has its share of the tokens, exact over the run, before anything is packed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinktune.config import Recipe
from thinktune.data.dataset import Subset


@dataclass(slots=True)
class _Stream:
    """Rows of one source in seeded order, again and again, and the tokens that were dealt of them."""

    rows: Sequence[int]
    sizes: Sequence[int]
    share: float
    name: str  # of its random orders
    dealt: int = 0
    passes: int = 0
    waiting: list[int] = field(default_factory=list[int])

    @property
    def next_size(self) -> int:
        """Tokens of the next row."""
        if not self.waiting:
            self.waiting = list(self.rows)
            random.Random(f"{self.name}/{self.passes}").shuffle(self.waiting)
            self.waiting.reverse()
            self.passes += 1
        return self.sizes[self.waiting[-1]]

    @property
    def due(self) -> float:
        """When its next row is due, in tokens of the whole run: half of the row stands before that, half behind."""
        return (self.dealt + self.next_size / 2) / self.share

    def take(self) -> int:
        """Deal the next row."""
        self.dealt += self.next_size
        return self.waiting.pop()


def base_sources(recipe: Recipe) -> list[int]:
    """Return the sources whose rows are seen once an epoch: those without a share, or else the first."""
    return [number for number, source in enumerate(recipe.sources) if source.share is None] or [0]


def has_shares(recipe: Recipe) -> bool:
    """Return True if a source has a share, so that its rows are repeated or left over."""
    return any(source.share is not None for source in recipe.sources)


def deal_epochs(recipe: Recipe, rows: Subset) -> Iterator[list[int]]:
    """Yield the order of rows of each epoch, as indices of `rows.lengths`, in which every stretch has the shares.

    An epoch is a pass over the base sources, in the order of a run that has only them. Of each other source come as
    many tokens as its share asks for, after each epoch to within half a row; its rows come in a seeded order, each once
    before any comes again. Rows are taken by when they are due, as in fair queueing (Demers, Keshav and Shenker, 1989).
    """
    owners, sizes = rows.source_numbers, rows.lengths.tolist()
    seed, base = recipe.train.seed, base_sources(recipe)
    others = [
        _Stream(np.flatnonzero(owners == number).tolist(), sizes, float(source.share), f"{seed}/{number}")
        for number, source in enumerate(recipe.sources)
        if number not in base and source.share is not None
    ]
    base_rows = np.flatnonzero(np.isin(owners, base)).tolist()
    base_share = 1 - sum(stream.share for stream in others)
    dealt = 0
    for epoch in range(recipe.train.epochs):
        order = list(range(len(base_rows)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        mixed: list[int] = []
        for place in order:
            row = base_rows[place]
            _take_due(others, (dealt + sizes[row] / 2) / base_share, mixed)
            mixed.append(row)
            dealt += sizes[row]
        _take_due(others, dealt / base_share, mixed)
        yield mixed


def _take_due(streams: Sequence[_Stream], now: float, mixed: list[int]) -> None:
    """Append all rows that are due before a moment, the earliest first."""
    while streams:
        first = min(streams, key=lambda stream: stream.due)
        if first.due > now:
            return
        mixed.append(first.take())


def base_row_mask(recipe: Recipe, rows: Subset) -> NDArray[np.bool_]:
    """Return for each reply whether its passes are the run's epochs."""
    return np.isin(rows.source_numbers, base_sources(recipe))


def account_of_steps(recipe: Recipe, rows: Subset, steps: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Account for what steps train of each source: tokens, their part of all, and how often each row comes.

    `dealt_rows` counts replies as often as they come; `trained_rows`, `trained_tokens` and `trained_learned_tokens`
    count rows and tokens of replies that come at all, each once, as `train_rows` counts what there is to train on.
    """
    owners = rows.source_numbers
    count = len(recipe.sources)
    dealt = np.fromiter((row for step in steps for row in step), np.int64)
    row_counts = np.bincount(owners[dealt], minlength=count)
    tokens = np.bincount(owners[dealt], rows.lengths[dealt].astype(np.int64), count).astype(np.int64)
    own = np.bincount(owners, minlength=count)
    total = max(1, int(tokens.sum()))
    once = np.unique(dealt)
    examples = np.unique(rows.dataset.replies["example"][rows.reply_indices[once]])
    trained_rows = np.bincount(rows.dataset.sources_of_examples(examples), minlength=count)
    sums = [np.bincount(owners[once], sizes[once], count) for sizes in (rows.lengths, rows.label_tokens)]
    return [
        {
            "trained_rows": int(trained_rows[number]),
            "trained_tokens": int(sums[0][number]),
            "trained_learned_tokens": int(sums[1][number]),
            "dealt_rows": int(row_counts[number]),
            "dealt_tokens": int(tokens[number]),
            "dealt_share": round(int(tokens[number]) / total, 6),
            "passes": round(int(row_counts[number]) / max(1, int(own[number])), 4),
        }
        for number in range(count)
    ]
