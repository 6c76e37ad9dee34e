"""Two runs that must be the same but for the rounding of fp32: many ranks and one, resumed and uninterrupted."""

import json

import pytest
from safetensors.torch import load_file

from thinktune.run import journal

LOSSES = ("loss", "reasoning_loss", "answer_loss", "end_loss")


def weights(folder):
    """Read all weights of a plain transformers folder."""
    return {name: kept for file in folder.glob("*.safetensors") for name, kept in load_file(file).items()}


def fifty_steps(tree):
    """Return a recipe of steps of two rows, the last step of each epoch with fewer rows than ranks."""
    merged = json.loads(json.dumps(tree))
    merged["train"] |= {"epochs": 17, "evaluate_every_steps": 17, "log_every_steps": 1}
    return merged


def assert_same_run(mine, theirs, start):
    """Check equality up to the rounding of fp32: losses to 1e-5, weights to a thousandth of their change."""
    ours, other = ([each for each in journal.read_metrics(run) if each["kind"] != "event"] for run in (mine, theirs))
    assert [(each["kind"], each["step"]) for each in ours] == [(each["kind"], each["step"]) for each in other]
    for left, right in zip(ours, other, strict=True):
        for name in LOSSES:
            assert left.get(name) == pytest.approx(right.get(name), rel=1e-5), (left["step"], name)
        for name in ("learned_tokens", "tokens", "epoch", "learning_rate"):
            assert left.get(name) == right.get(name)
    assert journal.read_samples(mine) == journal.read_samples(theirs)
    base, left, right = weights(start), weights(mine / "final"), weights(theirs / "final")
    assert left.keys() == right.keys()
    moved = sum((right[name].double() - base[name]).square().sum() for name in right).sqrt()
    apart = sum((left[name].double() - right[name]).square().sum() for name in right).sqrt()
    assert apart < 1e-3 * moved
