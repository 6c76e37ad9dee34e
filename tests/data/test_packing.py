"""Steps and packing: every row once, nothing cut, nothing over the size; labels are only the trained next tokens."""

import hashlib
from itertools import accumulate, chain

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from thinktune.data.packing import StepRows, assign_rows, balance, bin_pack, group_by_length, padding_share
from thinktune.model.batch import make_padding, pack
from thinktune.tokenization import Rendered

CAPACITY = 64
lengths = st.lists(st.integers(2, CAPACITY), max_size=60)
many_lengths = st.lists(st.integers(2, CAPACITY), max_size=200)


@st.composite
def trainable(draw):
    """Draw rows as rendering makes them: the first token is prompt, the others are of any kind."""
    made = []
    for number in range(draw(st.integers(1, 8))):
        tokens = draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 3)), min_size=2, max_size=CAPACITY))
        ids = np.array([token for token, _ in tokens], np.int32)
        parts = np.array([0] + [part for _, part in tokens[1:]], np.uint8)
        made.append(Rendered(ids, parts, f"r:{number}"))
    return made


@given(many_lengths)
@example([23] * 100)  # more groups than the tokens need, and more rows than are looked at for one group
def test_every_row_lands_in_one_group_and_no_group_overflows(sizes):
    groups = bin_pack(sizes, CAPACITY)
    assert sorted(index for group in groups for index in group) == list(range(len(sizes)))
    assert all(sum(sizes[index] for index in group) <= CAPACITY for group in groups)


@given(many_lengths)
def test_at_most_one_group_is_half_empty(sizes):
    assert sum(2 * sum(sizes[index] for index in group) <= CAPACITY for group in bin_pack(sizes, CAPACITY)) <= 1


def test_a_row_longer_than_a_batch_is_never_cut_and_an_empty_one_is_none():
    for size in (0, 65):
        with pytest.raises(ValueError, match=f"row 1 has {size} tokens; a batch holds 1 to 64"):
            bin_pack([3, size], CAPACITY)


def test_groups_are_filled_to_the_brim_where_the_best_fit_leaves_one_too_many():
    assert bin_pack([5, 4, 3, 3, 3, 2], 10) == [[0, 5, 2], [1, 4, 3]]


@given(lengths, st.integers(1, 200), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_has_every_row_once_and_no_step_overflows(sizes, size, epochs, seed):
    trained = [length * 7 // 9 for length in sizes]
    steps = assign_rows(sizes, trained, tokens_per_step=size, rows_per_step=None, epochs=epochs, seed=seed)
    dealt = [row for step in steps for row in step.rows]
    for epoch in range(epochs):
        assert sorted(dealt[epoch * len(sizes) : (epoch + 1) * len(sizes)]) == list(range(len(sizes)))
    for step in steps:
        assert sum(sizes[row] for row in step.rows) <= size or len(step.rows) == 1
        assert step.label_tokens == sum(trained[row] for row in step.rows)


def test_the_steps_of_given_lengths_and_seed_never_change():
    sizes = [7, 3, 9, 12, 1, 5, 8, 2, 6, 4]
    steps = assign_rows(sizes, [1] * 10, tokens_per_step=15, rows_per_step=None, epochs=1, seed=1)
    assert [step.rows for step in steps] == [(8, 5, 9), (0, 4, 1, 7), (2,), (3,), (6,)]
    many = np.array([200 + number * 7919 % 900 for number in range(3000)])
    steps = assign_rows(many, many // 2, tokens_per_step=4096, rows_per_step=None, epochs=2, seed=42)
    facts = repr([(step.rows, step.label_tokens) for step in steps])
    assert hashlib.sha256(facts.encode()).hexdigest()[:16] == "d2165f9c5e996367"


@given(lengths, st.integers(1, 9), st.integers(0, 5))
def test_steps_of_rows_hold_that_many_but_the_last(sizes, size, seed):
    steps = assign_rows(sizes, sizes, tokens_per_step=None, rows_per_step=size, epochs=1, seed=seed)
    assert all(len(step.rows) == size for step in steps[:-1])


def test_the_order_is_the_seeds_and_differs_between_epochs():
    sizes = [5] * 50
    steps = assign_rows(sizes, sizes, tokens_per_step=None, rows_per_step=50, epochs=2, seed=1)
    assert steps == assign_rows(sizes, sizes, tokens_per_step=None, rows_per_step=50, epochs=2, seed=1)
    assert steps[0].rows != steps[1].rows
    assert steps != assign_rows(sizes, sizes, tokens_per_step=None, rows_per_step=50, epochs=2, seed=2)


def test_steps_of_real_lengths_are_nearly_full_and_so_are_their_batches():
    sizes = np.random.default_rng(0).lognormal(6.65, 0.21, 3000).clip(32, 2048).astype(int)
    steps = assign_rows(sizes, sizes, tokens_per_step=32_768, rows_per_step=None, epochs=1, seed=0)
    packed = [sizes[list(step.rows)].tolist() for step in steps[:-1]]
    assert np.mean([sum(step) for step in packed]) > 0.99 * 32_768
    for capacity in (4096, 8192, 16_384, 32_768):
        batches = sum(len(bin_pack(step, capacity)) for step in packed)
        assert sum(map(sum, packed)) > 0.99 * batches * capacity


@given(trainable())
def test_labels_are_the_trained_next_tokens_and_nothing_else(rows):
    batches = pack(rows, CAPACITY)
    by_name = {row.source: row for row in rows}
    for batch in batches:
        order = [by_name[name] for name in batch.row_sources]
        trained = [(token, part) for row in order for token, part in zip(row.ids, row.kinds, strict=True) if part]
        assert list(zip(batch.labels.tolist(), batch.label_kinds.tolist(), strict=True)) == trained
        assert batch.ids[0, batch.label_positions + 1].tolist() == batch.labels.tolist()
        assert batch.cu_seqlens.tolist() == np.cumsum([0] + [len(row) for row in order]).tolist()
        assert batch.position_ids[0].tolist() == [position for row in order for position in range(len(row))]
    assert sum(batch.label_tokens for batch in batches) == sum(row.label_tokens for row in rows)


@given(trainable())
def test_padding_adds_rows_of_its_own_and_nothing_to_learn(rows):
    pad = make_padding(7, [len(row) for row in rows], CAPACITY)
    for batch, exact in zip(pack(rows, CAPACITY, pad=pad), pack(rows, CAPACITY), strict=True):
        assert batch.ids.shape == (1, CAPACITY)
        assert batch.ids[0, : exact.unpadded_tokens].equal(exact.ids[0])
        assert (batch.ids[0, exact.unpadded_tokens :] == 7).all()
        assert batch.cu_seqlens.shape == (pad.shapes.rows[0] + 1,)
        assert batch.cu_seqlens[-1] == CAPACITY
        lengths = batch.cu_seqlens.diff().tolist()
        assert all(0 <= length <= batch.max_seqlen == pad.shapes.longest for length in lengths)
        starts = batch.cu_seqlens[batch.cu_seqlens < CAPACITY].unique().long()
        assert (batch.position_ids[0] == 0).nonzero()[:, 0].equal(starts)
        assert batch.cu_seqlens[: len(exact.cu_seqlens)].equal(exact.cu_seqlens)
        assert batch.labels.equal(exact.labels)
        assert batch.unpadded_tokens == exact.unpadded_tokens


@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=30), st.data())
def test_every_choice_of_rows_fits_among_the_cu_seqlens(sizes, data):
    pad = make_padding(0, sizes, CAPACITY)
    order = data.draw(st.permutations(sizes))
    chosen = [size for size, filled in zip(order, accumulate(order), strict=True) if filled <= CAPACITY]
    free = CAPACITY - sum(chosen)
    assert len(chosen) + -(-free // pad.shapes.longest) <= pad.shapes.rows_of(CAPACITY)
    assert pad.shapes.longest == max(sizes)


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_rows_that_are_padded_to_the_longest_of_their_batch_fit_it_and_come_once(sizes):
    groups = group_by_length(sizes, 64)
    assert sorted(chain.from_iterable(groups)) == list(range(len(sizes)))
    for group in groups:
        assert len(group) * max(sizes[index] for index in group) <= 64


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_padded_rows_are_balanced_over_ranks_in_batches_that_hold_them(ranks):
    sizes = [40, 3, 3, 30, 29, 5, 64, 8, 8, 2]
    shares = balance(sizes, 64, ranks, packed=False)
    assert len({len(groups) for groups in shares}) == 1, "ranks run in lockstep"
    groups = [group for groups in shares for group in groups if group]
    assert sorted(chain.from_iterable(groups)) == list(range(len(sizes)))
    assert all(len(group) * max(sizes[index] for index in group) <= 64 for group in groups)


def test_a_row_longer_than_a_batch_of_padded_rows_is_refused():
    with pytest.raises(ValueError, match="row 1 has 65 tokens; a batch holds 1 to 64"):
        group_by_length([3, 65], 64)


def test_the_price_of_padding_is_its_tokens_over_those_of_the_rows():
    steps = [StepRows((0, 1, 2), 3), StepRows((3,), 1)]
    assert padding_share([10, 8, 3, 7], steps, 20) == pytest.approx((10 + 10 + 3 + 7) / 28 - 1)
    assert padding_share([10, 10], [StepRows((0, 1), 2)], 20) == 0
