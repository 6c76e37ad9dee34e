"""A run that stops at any moment and resumes ends bit for bit like one that never stopped."""

import os
import signal
from pathlib import Path

import pytest
from support.runs import equal, quiet, settings, stop_in_step, without_times
from transformers import AutoModelForCausalLM, AutoTokenizer

from thinktune.checkpoint import store
from thinktune.errors import Stopped
from thinktune.optim.memory_tiers import TIERS
from thinktune.run import journal
from thinktune.train import metrics, samples, train

# Streamed states are 8-bit ones in host memory; they are tested among the slow tests.
SLOW = {"8bit-streamed": pytest.mark.slow}
TIER_CASES = [pytest.param(memory, inside, marks=SLOW.get(memory, ())) for memory in TIERS for inside in (False, True)]


def interrupt_in(monkeypatch, module, name, call, number=signal.SIGTERM):
    """Send a signal at the end of a function's n-th call, before its caller goes further."""
    real = getattr(module, name)

    def calling(*given, **options):
        calling.made += 1
        result = real(*given, **options)
        if calling.made == call:
            os.kill(os.getpid(), number)
        return result

    calling.made = 0
    monkeypatch.setattr(module, name, calling)


# Six rows for training, two a step: an epoch is three steps; evaluations come every four, lines of metrics every two.
STOPS = {
    "inside an epoch": lambda patch: stop_in_step(patch, 5),
    "at an epoch's edge": lambda patch: stop_in_step(patch, 6),
    "at an evaluation's step": lambda patch: stop_in_step(patch, 4),
    "in the first evaluation": lambda patch: interrupt_in(patch, metrics, "evaluate_row_losses", 1),
    "during evaluation": lambda patch: interrupt_in(patch, metrics, "evaluate_row_losses", 2),
    "during sampling": lambda patch: interrupt_in(patch, samples, "completion_record", 1),
}


@pytest.fixture(scope="module")
def whole():
    """Cache runs that were never stopped, by their settings."""
    return {}


def never_stopped(whole, tree, tmp_path_factory, **chosen):
    key = str(chosen)
    if key not in whole:
        runs = tmp_path_factory.mktemp("whole")
        whole[key] = train(settings(tree, name="whole", runs_folder=str(runs), train=chosen), quiet)
    return whole[key]


@pytest.mark.parametrize("place", STOPS)
def test_a_stop_anywhere_changes_nothing(tree, whole, tmp_path_factory, monkeypatch, tried, place):
    reference = never_stopped(whole, tree, tmp_path_factory, evaluate_every_steps=4)
    recipe = settings(tree, name="cut", train={"evaluate_every_steps": 4})
    with monkeypatch.context() as patch:
        STOPS[place](patch)
        with pytest.raises(Stopped, match=r"SIGTERM.*run the same command to resume"):
            train(recipe, quiet)
    last = store.find_checkpoint(recipe.run_folder, "last")
    assert (last.step if last else 0) == {
        "inside an epoch": 5,
        "at an epoch's edge": 6,
        "in the first evaluation": 0,
    }.get(place, 4)
    equal(train(recipe, quiet), reference)
    tried(f"a stop {place}")


@pytest.mark.parametrize(("memory", "inside"), TIER_CASES)
def test_a_stop_in_every_tier_changes_nothing(tree, whole, tmp_path_factory, monkeypatch, tried, memory, inside):
    chosen = {"memory": memory, "update_in_backward": inside, "evaluate_every_steps": 4, "epochs": 2}
    reference = never_stopped(whole, tree, tmp_path_factory, **chosen)
    recipe = settings(tree, name="cut", train=chosen)
    for step in (2, 3):  # in step 2 of the run, and in step 3 of what is left
        with monkeypatch.context() as patch:
            stop_in_step(patch, step)
            with pytest.raises(Stopped):
                train(recipe, quiet)
    assert store.find_checkpoint(recipe.run_folder, "last").step == 5
    equal(train(recipe, quiet), reference)
    tried(f"two stops with memory {memory}{', updated in the backward pass' if inside else ''}")


def test_dropout_continues_its_random_numbers(tree, start, tmp_path, monkeypatch, tried):
    model = AutoModelForCausalLM.from_pretrained(start)
    model.config.attention_dropout = 0.5
    model.save_pretrained(tmp_path / "dropping")
    AutoTokenizer.from_pretrained(start).save_pretrained(tmp_path / "dropping")
    named = {"name": str(tmp_path / "dropping")}
    whole = train(settings(tree, name="whole", model=named), quiet)
    plain = train(settings(tree, name="plain"), quiet)
    assert without_times(journal.read_metrics(whole)) != without_times(journal.read_metrics(plain)), (
        "nothing was dropped"
    )
    with monkeypatch.context() as patch:
        stop_in_step(patch, 4)
        with pytest.raises(Stopped):
            train(settings(tree, name="cut", model=named), quiet)
    equal(train(settings(tree, name="cut", model=named), quiet), whole)
    tried("a stop of a model with dropout")


def test_checkpoints_between_evaluations_come_by_the_clock_and_change_nothing(tree, monkeypatch):
    whole = train(settings(tree, name="whole"), quiet)
    monkeypatch.setattr("thinktune.train.loop.SLOW_SAVE_SECONDS", 0)
    said = []
    often = train(settings(tree, name="often", train={"save_every_minutes": 1e-9}), said.append)
    saved = [line.split("/")[0] for line in said if " saved " in line]
    assert saved == [f"step {step}" for step in range(1, 10)]
    equal(often, whole)
    assert not list((Path(often) / "checkpoints").glob(".*"))
