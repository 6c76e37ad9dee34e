"""The host waits for nothing while a step runs, and packs the next one meanwhile."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from support.optimizers import Reads
from support.runs import quiet, settings
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from thinktune.config.schema import TrainConfig
from thinktune.demo.tiny_model import ModelShape, make_model
from thinktune.distributed.world import World
from thinktune.model.batch import DEVICE_FIELDS, make_padding, pack
from thinktune.model.forward import evaluate_loss
from thinktune.model.loss import CROSS_ENTROPY, Objective
from thinktune.optim.optimizer import Optimizer
from thinktune.tokenization import Rendered
from thinktune.train.loop import _compile, _train_step
from thinktune.train.setup import open_run
from thinktune.train.step import StepOptions, step

LENGTHS = (5, 9, 17, 33, 40)
CPU = torch.device("cpu")


def make_rows():
    generator = np.random.default_rng(0)
    return [
        Rendered(
            generator.integers(3, 300, size).astype(np.int32), np.array([0, *[2] * (size - 1)], np.uint8), f"r:{size}"
        )
        for size in LENGTHS
    ]


def as_fake(mode, batches):
    return [
        replace(batch, **{name: mode.from_tensor(getattr(batch, name)) for name in DEVICE_FIELDS}) for batch in batches
    ]


@pytest.mark.parametrize(
    ("memory", "inside", "objective"),
    [
        *(("fp32", False, CROSS_ENTROPY), ("exact", False, CROSS_ENTROPY), ("8bit", True, CROSS_ENTROPY)),
        ("fp32", False, Objective(0.5, 1.0, by_probability=True)),
    ],
)
def test_a_step_runs_on_tensors_that_have_no_values(tokenizer, memory, inside, objective):
    """On a card's path (packed kernel, padded batches): reading a value, or a shape that depends on one, would raise."""
    batches = pack(make_rows(), 64, pad=make_padding(0, LENGTHS, 64))
    assert len(batches) == 2
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = make_model(tokenizer, ModelShape())
        model.set_attn_implementation("thinktune_varlen")
        update = Optimizer(model, TrainConfig(rows_per_step=1, memory=memory, update_in_backward=inside))
        chosen = as_fake(mode, batches[:1] if inside else batches)
        update.begin_step(1, 1e-3)
        options = StepOptions(objective=objective, label_weight=50.0)
        made = step(model, chosen, update, World(), torch.bfloat16, options)
        found = evaluate_loss(model, chosen, CPU, torch.bfloat16)
        for number in (made.gradient_norm, made.losses.sums, found.sums):
            with pytest.raises(DataDependentOutputException):
                number.sum().item()  # otherwise values existed, and nothing was tested


class Copies(TorchDispatchMode):
    """Record the copies from the host to a device for which the host waits."""

    def __init__(self):
        super().__init__()
        self.found, self.handed_over = [], 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        given = [each for each in args if isinstance(each, torch.Tensor) and each.ndim]
        copies = operation in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default) and made.device != CPU
        if copies and any(each.device == CPU for each in given):
            self.handed_over += 1
            self.found += [] if (kwargs or {}).get("non_blocking") else [str(operation)]
        return made


def test_an_evaluation_hands_the_device_nothing_that_it_waits_for(tokenizer):
    """On the device without memory, with a card's packed kernel."""
    batches = pack(make_rows(), 64, pad=make_padding(0, LENGTHS, 64))
    model = make_model(tokenizer, ModelShape()).to("meta", torch.bfloat16)
    model.set_attn_implementation("thinktune_varlen")
    with Copies() as copies:
        found = evaluate_loss(model, batches, torch.device("meta"), torch.bfloat16)
    assert found.sums.is_meta
    assert copies.handed_over >= len(DEVICE_FIELDS) * len(batches)
    assert not copies.found


def test_the_loop_reads_nothing_between_its_lines_of_metrics(tree, monkeypatch):
    """With the real loop: steps of several batches, all of them prefetched but the first."""
    run = open_run(settings(tree, train={"rows_per_step": 3, "batch_tokens": 200}), quiet, ("test",))
    steps, asked = run.context.steps, []
    rows = run.context.prepared.train
    replies = rows.replies
    monkeypatch.setattr(type(rows), "replies", lambda _, chosen: (asked.append(chosen), replies(chosen))[1])
    with Reads() as reads:
        _train_step(run, 1)
        assert sorted(chain(*asked)) == sorted((*steps[0].rows, *steps[1].rows))
        assert list(run.prefetcher.batches) == [2]
        _train_step(run, 2)
    assert sorted(chain(*asked)) == sorted(chain(*(planned.rows for planned in steps[:3])))
    assert not reads.found
    assert len(run.metrics.pending) == 2
    assert set(run.context.row_sources(2)) == {replies([row])[0].source for row in steps[1].rows}


def test_the_last_step_prefetches_nothing(tree):
    run = open_run(settings(tree), quiet, ("test",))
    _train_step(run, len(run.context.steps))
    assert not run.prefetcher.batches


def test_the_activation_budget_reaches_the_layers(tree):
    run = open_run(settings(tree, train={"activation_budget": 0.5}), quiet, ("test",))
    assert [layer.gradient_checkpointing for layer in run.context.model.model.layers] == [True, False]


def test_compiling_is_printed_and_changes_no_weight(tree):
    """With uncompiled layers: what the compiler makes of them is tested elsewhere."""
    said = []
    run = open_run(settings(tree), said.append, ("test",))
    before = [weight.clone() for weight in run.context.model.parameters()]
    _compile(run)
    assert said[-1].startswith("layers compiled in ")
    assert all(old.equal(new) for old, new in zip(before, run.context.model.parameters(), strict=True))
    assert all(weight.grad is None for weight in run.context.model.parameters())
    assert list(run.prefetcher.batches) == [1]
