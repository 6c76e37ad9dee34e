"""Shapes of a run's batches: few, enough for whatever a run packs, and as close to it as they pay for."""

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinktune.data import batch_shapes
from thinktune.data.batch_shapes import BatchShapes, choose_sizes, most_rows, plan_shapes, sample_steps
from thinktune.data.packing import assign_rows, balance
from thinktune.model.batch import Padding, collate, make_padding
from thinktune.tokenization import Rendered

steps_of_rows = st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=12), min_size=1, max_size=8)


def lengths(mean, spread, longest, count, seed=0):
    drawn = np.random.default_rng(seed).lognormal(np.log(mean) - spread**2 / 2, spread, count)
    return drawn.round().clip(12, longest).astype(int)


def steps_of(rows, **size):
    size = {"tokens_per_step": None, "rows_per_step": None} | size
    return [rows[list(step.rows)].tolist() for step in assign_rows(rows, rows, epochs=1, seed=42, **size)]


def padded(tokens, sizes):
    return sum(min(size for size in sizes if size >= each) for each in tokens)


@given(st.lists(st.integers(0, 1500), min_size=1, max_size=30), st.integers(1, 3))
def test_no_other_sizes_pad_less(tokens, most):
    """All choices are tried; here a size costs nothing."""
    monkey = pytest.MonkeyPatch()
    monkey.setattr(batch_shapes, "GRAPH_TOKENS", 0)
    capacity = 1536  # the largest of them holds each
    found = choose_sizes(tokens, capacity, most_sizes=most)
    monkey.undo()
    assert len(found) <= most
    assert list(found) == sorted(set(found))
    assert found[-1] == capacity
    choices = [
        [*chosen, capacity] for count in range(most) for chosen in combinations(range(128, capacity, 128), count)
    ]
    assert padded(tokens, found) == min(padded(tokens, choice) for choice in choices)


def test_a_size_must_save_more_than_its_graph_costs():
    tokens = [1000] * 90 + [4096] * 10
    saved = 90 * (4096 - 1024)
    assert choose_sizes(tokens, 4096, repeats=0.99 * batch_shapes.GRAPH_TOKENS / saved) == (4096,)
    assert choose_sizes(tokens, 4096, repeats=1.01 * batch_shapes.GRAPH_TOKENS / saved) == (1024, 4096)
    assert choose_sizes(tokens, 4096, repeats=100, most_sizes=1) == (4096,)


def test_the_sizes_of_large_batches_are_found_among_few():
    tokens = np.random.default_rng(0).integers(1, 1_000_000, 2000).tolist()
    sizes = choose_sizes(tokens, 1_000_000, most_sizes=3)
    assert sizes[-1] == 1_000_000
    assert padded(tokens, sizes) < 0.7 * 2000 * 1_000_000
    assert all(size % 128 == 0 for size in sizes[:-1])


@settings(deadline=None)
@given(steps_of_rows, st.lists(st.integers(1, 300), max_size=20), st.integers(1, 3))
def test_every_batch_of_a_run_has_one_of_its_shapes(steps, held_out, ranks):
    """Those of its steps, of its held-out rows, of each row alone, and padding alone: making them asserts that."""
    monkey = pytest.MonkeyPatch()
    monkey.setattr(batch_shapes, "GRAPH_TOKENS", 0)
    shapes = plan_shapes(steps, held_out, 384, ranks)
    monkey.undo()
    pad = Padding(0, shapes)
    for step in steps:
        for rows in chain(*balance(step, 384, ranks)):
            size = shapes.smallest(sum(step[row] for row in rows))
            assert collate([row_of(step[row]) for row in rows], size, pad).ids.shape == (1, size)
        for length in step:
            collate([row_of(length)], 384, pad)
    for rows in chain(*balance(held_out, 384, ranks)) if held_out else ():
        collate([row_of(held_out[row]) for row in rows], 384, pad)
    for size in shapes.tokens:
        assert collate([], size, pad).cu_seqlens.shape == (shapes.rows_of(size) + 1,)


def row_of(length):
    return Rendered(np.ones(length, np.int32), np.array([0, *[2] * (length - 1)], np.uint8), "r:1")


@given(steps_of_rows, st.integers(300, 900))
def test_the_most_rows_are_those_of_the_worst_choice(steps, size):
    """All subsets of a step are tried."""
    longest = max(chain(*steps))
    worst = 0
    for step in (step[:7] for step in steps):
        for count in range(len(step) + 1):
            for rows in combinations(step, count):
                if (free := size - sum(rows)) >= 0:
                    worst = max(worst, count + -(-free // longest))
    assert most_rows([step[:7] for step in steps], [size], longest) == [worst]


def test_a_padded_batch_has_few_more_rows_than_the_fullest():
    """Chat-like rows in steps of 32k: for any choice of them a batch would need 1,300 rows, and none has 112."""
    rows = lengths(400, 1.0, 4096, 20_000)
    steps = steps_of(rows, tokens_per_step=32_768)
    shapes = plan_shapes(steps, [], 32_768)
    [any_choice] = make_padding(0, rows, 32_768).shapes.rows
    fullest = max(len(step) for step in steps)
    assert shapes.rows == (fullest,) or shapes.rows[0] <= fullest + 8
    assert any_choice > 8 * shapes.rows[0]


@pytest.mark.parametrize(("rows_per_step", "before", "after"), [(4, 0.55, 0.80), (16, 0.75, 0.90)])
def test_steps_of_a_few_rows_fill_their_batches(rows_per_step, before, after):
    steps = steps_of(lengths(900, 0.55, 2048, 20_000), rows_per_step=rows_per_step)
    tokens = [sum(step) for step in steps]
    capacity = -(-max(tokens) // 128) * 128
    sizes = plan_shapes(steps, [], capacity).tokens
    assert sum(tokens) / (len(steps) * capacity) < before
    assert sum(tokens) / padded(tokens, sizes) > after
    assert len(sizes) == batch_shapes.MAX_SIZES


def test_full_steps_have_one_shape():
    steps = steps_of(lengths(900, 0.55, 2048, 20_000), tokens_per_step=32_768)
    assert plan_shapes(steps, [], 32_768).tokens == (32_768,)
    assert len(plan_shapes(steps, [], 8192).tokens) <= 2


def test_steps_are_sampled_evenly():
    steps = [[number] * 100 for number in range(1000)]
    chosen = [step[0] for step in sample_steps(steps)]
    assert len(chosen) * 100 == batch_shapes.SAMPLED_ROWS
    assert set(np.diff(chosen)) == {5}
    assert sample_steps(steps[:3]) == steps[:3]
    assert sample_steps([[1] * 10**6] * 2) == [[1] * 10**6]


def test_a_shape_is_the_smallest_that_holds_a_batch():
    shapes = BatchShapes((128, 512), (3, 9), 100)
    assert [shapes.smallest(tokens) for tokens in (0, 128, 129, 512)] == [128, 128, 512, 512]
    assert shapes.rows_of(512) == 9
