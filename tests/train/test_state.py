"""The state of a run: every field is carried by a checkpoint or named as not carried, and has one writer."""

import ast
import json
import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import thinktune.train
from thinktune.model.forward import LossReport
from thinktune.train.state import CheckpointClock, Run, TrainState
from thinktune.train.step import StepReport

# As the first release wrote them: a run that it started must resume.
KEYS = ["pending", "trained_tokens", "seconds", "logged", "refused_in_a_row", "recent_losses", "unsaved"]


def new_run():
    return Run(SimpleNamespace(device=torch.device("cpu")), TrainState(), CheckpointClock(1.0))


def owners(run):
    return {field.name: getattr(run, field.name) for field in fields(run) if field.name != "context"}


def test_every_field_of_every_owner_is_carried_or_named_as_not_carried():
    for name, owner in owners(new_run()).items():
        carried = set(owner.state_dict()) if hasattr(owner, "state_dict") else set()
        assert not carried & owner.NOT_CARRIED, name
        assert {field.name for field in fields(owner)} == carried | owner.NOT_CARRIED, name


def test_the_keys_of_a_checkpoint_are_those_that_older_runs_wrote():
    assert list(new_run().state_dict()) == KEYS


def test_the_state_passes_through_json_unchanged():
    run, third = new_run(), torch.tensor([1 / 3, 2.0, 0.1], dtype=torch.float32)
    run.metrics.add(StepReport(LossReport(third, torch.tensor([3, 4, 5])), torch.tensor(math.pi), 12))
    run.metrics.logged, run.metrics.trained_tokens = (0.1, 7), 9
    run.anomalies.refused_in_a_row, run.anomalies.recent_losses = 2, [1 / 3, 2.5]
    run.checkpoints.record_unsaved(4)
    run.metrics.exclude(-100.0)
    written = run.state_dict()
    other = new_run()
    other.load_state_dict(json.loads(json.dumps(written)))
    other.metrics.start_clock()
    read = other.state_dict()
    assert 100 <= written.pop("seconds") <= read.pop("seconds") < 200
    assert read == written
    [report] = other.metrics.pending
    assert report.losses.sums.equal(third)
    assert report.losses.counts.dtype == torch.int64
    assert report.gradient_norm.equal(torch.tensor(math.pi))


def test_a_state_dict_does_not_change_with_the_run():
    run = new_run()
    written = run.state_dict()
    run.checkpoints.record_unsaved(4)
    assert written["unsaved"] == []


def test_run_and_context_are_frozen():
    with pytest.raises(FrozenInstanceError):
        new_run().state = TrainState()


def test_attributes_are_written_by_their_own_class_alone():
    written = {
        f"{path.name}: {ast.unparse(target)}"
        for path in Path(thinktune.train.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for target in assigned(node)
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) != "self"
    }
    # Objects of other packages, and the package's own module.
    others = {"dry_run.py: cache.lengths", "interrupt.py: timer.daemon", "__init__.py: sys.modules[__name__].__class__"}
    parts = ("made.joined", "made.index", "parameter.data", "linear.__class__", "ctx.rows")
    others |= {f"joined_linear.py: {part}" for part in parts}  # torch's linear layers, and its context of a gradient
    assert written == others


def assigned(node):
    """Return what a statement assigns to, tuples taken apart."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [part for target in targets for part in getattr(target, "elts", [target])]
