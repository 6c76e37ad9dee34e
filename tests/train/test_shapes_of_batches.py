"""A run whose batches are padded to a few shapes, as on a card, here on the CPU: it learns what one without learns."""

from dataclasses import replace

import pytest
import torch
from support.prepared_rows import write
from support.runs import quiet, settings, write_rows

from thinktune.data import batch_shapes
from thinktune.data.batch_shapes import plan_shapes
from thinktune.model.batch import Padding
from thinktune.train.dry_run import dry_run, largest_batches
from thinktune.train.loop import _compile, _train_step
from thinktune.train.metrics import evaluate_held_out
from thinktune.train.setup import open_run

UNEVEN = {f"part {number}": "a word, " * (1 + 3 * (number % 5)) for number in range(20)}


@pytest.fixture
def several(tree, tmp_path):
    """Return changes to a recipe: steps of four uneven rows, in batches of at most 384 tokens."""
    rows = write_rows(tmp_path / "uneven.jsonl", UNEVEN)
    return {"data": {"name": str(rows)}, "train": {"rows_per_step": 4, "batch_tokens": 384, "memory": "fp32"}}


def opened(tree, changes, sizes, name):
    """Open a run whose batches are padded to at most so many sizes; 0 for none."""
    run = open_run(settings(tree, name=name, **changes), quiet, ("test",))
    if not sizes:
        return run
    context = run.context
    held_out = context.prepared.validation.lengths.tolist()
    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(batch_shapes, "GRAPH_TOKENS", 0)
        monkey.setattr(batch_shapes, "TOKENS_MULTIPLE", 32)
        shapes = plan_shapes(context.plan_inputs.step_lengths, held_out, context.capacity, most_sizes=sizes)
    assert len(shapes.tokens) == sizes
    return replace(run, context=replace(context, pad=Padding(context.tokenizer.pad_token_id or 0, shapes)))


def weights(run):
    return {name: weight.detach().clone() for name, weight in run.context.model.named_parameters()}


def test_shapes_change_neither_rows_nor_what_is_learned(tree, several):
    """No padding, one size, then three; and a run that changes from three sizes to one in its middle."""
    runs = [opened(tree, several, sizes, f"run-{sizes}") for sizes in (0, 1, 3)]
    changing, other = opened(tree, several, 3, "changing"), opened(tree, several, 1, "other")
    seen = set()
    for number in range(1, 6):
        for run in (*runs, changing):
            _train_step(run, number)
        batches = [run.context.step_batches(number) for run in runs]
        seen |= {batch.ids.shape[1] for batch in batches[2]}
        for step in zip(*batches, strict=True):
            assert len({batch.row_sources for batch in step}) == 1
            assert all(batch.labels.equal(step[0].labels) for batch in step)
        assert all(batch.ids.shape == (1, 384) for batch in batches[1])
        if number == 2:  # as a resumed run would be whose plan has other sizes
            changing = replace(changing, context=replace(changing.context, pad=other.context.pad))
            changing.prefetcher.batches.clear()
    assert len(seen) == 3
    plain = weights(runs[0])
    for run in (*runs[1:], changing):
        for name, weight in weights(run).items():
            torch.testing.assert_close(weight, plain[name], rtol=1e-5, atol=1e-6, msg=name)


def test_every_shape_is_compiled_before_the_first_step_and_evaluation_has_the_largest(tree, several, monkeypatch):
    run = opened(tree, several, 3, "compiled")
    context, seen = run.context, []
    first = context.model.model.layers[0]
    first.register_forward_hook(lambda *_: seen.append((_[2].shape[1], torch.is_grad_enabled())))
    _compile(run)
    trained = set(context.pad.shapes.tokens)
    assert {shape for shape, learns in seen if learns} == trained
    assert [shape for shape, learns in seen if not learns] == [384]
    seen.clear()
    dry_run(context)
    evaluate_held_out(context, 0)
    for number in range(1, 4):
        _train_step(run, number)
    padded = {each for each in seen if each[0] in trained}
    assert {shape for shape, learns in padded if not learns} == {384}
    assert {shape for shape, learns in padded if learns} == trained


def test_the_dry_run_holds_no_more_rows_than_the_run(tree, tmp_path):
    """Short rows with the most trained tokens share no step: a batch of them alone would have more rows than any."""
    short = {"question": "a?", "think": "think of it", "answer": "a word and another"}
    rows = 30 * [{"question": "why " * 40, "think": "x", "answer": "y"}]
    rows[::3] = 10 * [short]
    rows = [row | {"question": f"{number} {row['question']}"} for number, row in enumerate(rows)]
    data = {"name": str(write(tmp_path / "mixed.jsonl", rows)), "validation": 0.0}
    train = {"rows_per_step": 1, "batch_tokens": 384, "memory": "fp32"}
    run = opened(tree, {"data": data, "train": train}, 1, "mixed")
    [most] = run.context.pad.shapes.rows
    lengths = run.context.prepared.train.lengths
    assert most < 384 // int(lengths.min())
    for batch in largest_batches(run.context):
        assert batch.cu_seqlens.shape == (most + 1,)
        assert len(batch.row_sources) <= most
