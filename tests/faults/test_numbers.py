"""Numbers gone bad: no weight takes one, the rows are named, the policy is kept, and a loss that jumps is flagged."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from runs import quiet, settings

from thinktune import checkpoint, dry, track
from thinktune.errors import UserError
from thinktune.ground import hold
from thinktune.pack import pack
from thinktune.run import open_run
from thinktune.spikes import FEWEST, is_spike
from thinktune.train import train

BAD = "血液"  # the answer of one row


@pytest.fixture
def bad_row(monkeypatch):
    """A model whose embedding gives NaN for the row that holds a word, as broken memory would."""
    import thinktune.step as room

    real = room.hidden_states

    def hidden_states(model, batch):
        states = real(model, batch)
        for row, start, end in zip(batch.rows, batch.boundaries, batch.boundaries[1:], strict=False):
            if row.endswith(":5"):
                states = states.index_fill(0, torch.arange(int(start), int(end)), math.nan)
        return states

    monkeypatch.setattr(room, "hidden_states", hidden_states)


def events(recipe):
    return [record for record in track.read_metrics(recipe.run_folder) if record["kind"] == "event"]


@pytest.mark.parametrize(("memory", "inside"), [("fp32", False), ("exact", False), ("8bit", True)])
def test_a_bad_row_is_refused_and_named(tree, bad_row, tried, memory, inside):
    recipe = settings(tree, data={"validation": 0.0}, train={"memory": memory, "update_in_backward": inside})
    folder = train(recipe, quiet)
    told = [record["text"] for record in events(recipe)]
    assert len(told) == 3, "one step an epoch holds the row"
    assert all(text.startswith("loss not finite") and text.endswith("rows.jsonl:5") for text in told)
    from safetensors.torch import load_file

    kept = checkpoint.find(folder, "last").folder
    for file in ("model.safetensors", "state/state.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(kept / file).values() if tensor.is_floating_point())
    tried(f"a row whose loss is not finite, memory {memory}", "its steps, refused")


def test_the_policy_stop_saves_and_stops_and_the_run_can_go_on(tree, bad_row):
    recipe = settings(tree, data={"validation": 0.0}, train={"bad_numbers": "stop", "log_every_steps": 1})
    with pytest.raises(UserError, match=r"train\.bad_numbers: step \d+ was refused.*rows named above"):
        train(recipe, quiet)
    [event] = events(recipe)
    assert checkpoint.find(recipe.run_folder, "last").step == event["step"]
    folder = train(settings(tree, data={"validation": 0.0}, train={"log_every_steps": 1}), quiet)
    assert checkpoint.find(folder, "last").step == 12
    assert "goes on with a change: train.bad_numbers (was 'stop', is 'skip')" in [
        record["text"] for record in events(recipe)
    ]


def test_a_loss_that_jumps_is_flagged_with_its_rows(tree, monkeypatch, tried):
    import thinktune.step as room

    real, calls = room.linear_cross_entropy, []

    def jumping(*given, **options):
        scaled, each = real(*given, **options)
        calls.append(1)
        return scaled, each + 50 if len(calls) == 20 else each

    monkeypatch.setattr(room, "linear_cross_entropy", jumping)
    recipe = settings(tree, data={"validation": 0.0}, train={"epochs": 6, "evaluate_every_steps": 100})
    train(recipe, quiet)
    [event] = events(recipe)
    assert (event["step"], event["text"].startswith("loss ")) == (20, True)
    assert "is a spike; rows: " in event["text"]
    assert event["text"].count("rows.jsonl:") == 2
    tried("a loss that jumps", "nothing; it is flagged with its rows")


@given(some.lists(some.floats(0.5, 0.6), min_size=FEWEST, max_size=90))
def test_what_wanders_is_no_spike_and_what_doubles_is(losses):
    assert not is_spike(losses[-1], losses)
    assert is_spike(1.3, losses)
    assert not is_spike(1.3, losses[: FEWEST - 1])


def opened(recipe):
    with hold(recipe.run_folder):
        return open_run(recipe, quiet, ("here",))


@pytest.mark.parametrize("memory", ["fp32", "exact", "4bit"])
def test_a_dry_step_takes_the_largest_shapes_and_changes_nothing(tree, memory):
    run = opened(settings(tree, train={"memory": memory, "batch_tokens": 200, "rows_per_step": 6}))
    before = [weight.clone() for weight in run.model.parameters()]
    state = {name: tensor.clone() for name, tensor in run.update.state().items()}
    batches = dry.largest_batches(run)
    dry.dry_step(run)
    assert all(weight.equal(kept) for weight, kept in zip(run.model.parameters(), before, strict=True))
    assert all(weight.grad is None for weight in run.model.parameters())
    after = run.update.state()
    assert all(after[name].equal(tensor) for name, tensor in state.items())
    assert not any(tensor.any() for name, tensor in after.items() if name not in state), "fresh states hold something"
    every = [batch for dealt in run.steps for batch in pack(run.prepared.train.replies(dealt.rows), run.capacity)]
    assert len(batches) > 1, "a step of several batches keeps gradients"
    assert max(len(batch.targets) for batch in every) <= max(len(batch.targets) for batch in batches)


def test_deterministic_operations_are_asked_for_run_by_run(tree):
    for chosen in (True, False):
        opened(settings(tree, name=f"run-{chosen}", train={"deterministic": chosen}))
        assert torch.are_deterministic_algorithms_enabled() == chosen


def test_a_memory_full_in_the_dry_step_says_what_would_fit(tree, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(dry, "rehearse", full)
    run = opened(settings(tree))
    with pytest.raises(
        UserError, match=r"dry step.*train\.batch_tokens=512, in a new run train\.memory=exact-bf16 \(0\.00 GiB"
    ):
        dry.dry_step(run)
