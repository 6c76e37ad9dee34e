"""A step's rows over ranks: each row once, no batch too full, equally many batches, tokens balanced."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from thinktune.data.packing import assign_rows, balance, bin_pack


@given(some.lists(some.integers(1, 50), max_size=40), some.integers(50, 120), some.integers(1, 5))
def test_every_row_has_one_place_and_no_batch_is_too_full(lengths, capacity, ranks):
    shares = balance(lengths, capacity, ranks)
    assert len(shares) == ranks
    assert len({len(groups) for groups in shares}) == 1
    assert sorted(row for groups in shares for group in groups for row in group) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in group) <= capacity for groups in shares for group in groups)


@given(some.lists(some.integers(1, 50), min_size=1, max_size=40), some.integers(50, 120), some.integers(2, 5))
def test_no_rank_has_more_batches_than_distributing_those_of_one_rank_would_give(lengths, capacity, ranks):
    assert len(balance(lengths, capacity, ranks)[0]) <= -(-len(bin_pack(lengths, capacity)) // ranks)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_tokens_of_real_lengths_are_balanced_within_two_percent_at_every_step(ranks):
    """Balance rows of the lengths of medical ones (mean 800, few above 1,100): 8,192 tokens a rank, three epochs."""
    chance = random.Random(0)
    lengths = [max(40, min(2048, round(chance.gauss(800, 170)))) for _ in range(2400)]
    steps = assign_rows(lengths, lengths, tokens_per_step=8192 * ranks, rows_per_step=None, epochs=3, seed=0)
    imbalances = []
    for step in steps:
        sizes = [lengths[row] for row in step.rows]
        rank_tokens = [sum(sizes[row] for group in groups for row in group) for groups in balance(sizes, 2**20, ranks)]
        imbalances.append(max(rank_tokens) / (sum(rank_tokens) / ranks) - 1)
    whole = [value for step, value in zip(steps, imbalances, strict=True) if len(step.rows) >= 8 * ranks]
    assert len(whole) > 0.9 * len(steps)
    assert max(whole) < 0.02
