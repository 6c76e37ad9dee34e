"""Kills of a rank cost a run of many ranks nothing but the steps since its last checkpoint."""

import json
import random
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.runs import settings

from thinktune.checkpoint import store
from thinktune.run import journal
from thinktune.train import train

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import many_ranks
from support.ranks import run_ranks, start_ranks

KILLS = 40


def killed(tree, seconds):
    """Start two ranks, kill one by SIGKILL after so many seconds, and the other one a little later, as torchrun does."""
    started = start_ranks(2, many_ranks.train_here, tree)
    time.sleep(seconds)
    random.choice(started)[0].kill()
    time.sleep(random.uniform(0, 0.5))
    for process, _ in started:
        process.kill()
        process.join()


@pytest.mark.slow
def test_kills_of_a_rank_leave_a_run_that_ends_like_one_undisturbed(tree):
    tree = json.loads(json.dumps(tree))
    tree["train"] |= {"epochs": 100, "evaluate_every_steps": 10, "log_every_steps": 1, "strategy": "shard"}
    undisturbed = train(settings({**tree, "name": "whole"}), lambda _: None, ("test",))
    random.seed(0)
    run, reached = undisturbed.with_name("small"), []
    for _ in range(KILLS):
        killed(tree, random.uniform(0.5, 4.0))
        last = store.find_checkpoint(run, "last")
        if last:
            store.verify(last, with_state=True)
        reached.append(last.step if last else 0)
        if (run / "final").exists():
            break
    assert reached == sorted(reached)  # what was saved is never lost
    run_ranks(2, many_ranks.train_here, tree)
    ours, theirs = (
        [line for line in journal.read_metrics(each) if line["kind"] != "event"] for each in (run, undisturbed)
    )
    assert [(line["kind"], line["step"]) for line in ours] == [(line["kind"], line["step"]) for line in theirs]
    for mine, whole in zip(ours, theirs, strict=True):
        assert mine.get("loss") == pytest.approx(whole.get("loss"), rel=1e-5)
    last = {each: store.find_checkpoint(each, "last").step for each in (run, undisturbed)}
    assert len(set(last.values())) == 1
    assert not list(run.rglob("*.partial"))
    final = {name for file in (run / "final").glob("*.safetensors") for name in load_file(file)}
    assert final == set(load_file(undisturbed / "final" / "model.safetensors"))
    print(f"killed {len(reached)} times; steps saved after each: {reached}")
