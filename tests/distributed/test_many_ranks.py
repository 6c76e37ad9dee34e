"""Many ranks make the run of one: the same losses, weights, samples and files, whatever the number and the strategy."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support import many_ranks as many
from support.ranks import run_ranks
from support.runs import settings, small_tree_of
from transformers import Qwen3ForCausalLM

from thinktune.checkpoint import saving as checkpoint
from thinktune.checkpoint import store as checkpoint_store
from thinktune.config.schema import TrainConfig
from thinktune.demo.tiny_model import ModelShape
from thinktune.distributed.sharding import ParallelDims
from thinktune.distributed.world import World
from thinktune.errors import UserError
from thinktune.model.loading import load_model
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer
from thinktune.planner.memory import Setting
from thinktune.run import journal as track
from thinktune.train.loop import train
from thinktune.train.setup import _load_model

CPU = torch.device("cpu")
SPREADS = [
    ParallelDims("shard", 2, 2),
    ParallelDims("hybrid", 4, 2),
    pytest.param(ParallelDims("replicate", 2, 2), marks=pytest.mark.slow),
    pytest.param(ParallelDims("shard", 4, 4), marks=pytest.mark.slow),
]
BOTH = [ParallelDims("shard", 2, 2), pytest.param(ParallelDims("replicate", 2, 2), marks=pytest.mark.slow)]
MEASURED = ("loss", "reasoning_loss", "answer_loss", "end_loss")


def weights(folder):
    """All weights of a plain transformers folder."""
    return {name: kept for file in folder.glob("*.safetensors") for name, kept in load_file(file).items()}


def fifty_steps(tree):
    """Of two rows each, in every epoch the last one of fewer rows than there are ranks."""
    merged = json.loads(json.dumps(tree))
    merged["train"] |= {"epochs": 17, "evaluate_every_steps": 17, "log_every_steps": 1}
    return merged


@pytest.fixture(scope="module")
def one(tmp_path_factory, start):
    """The run of one process, and its recipe's tree."""
    tree = fifty_steps(small_tree_of(tmp_path_factory.mktemp("one"), start))
    return tree, train(settings(tree), lambda _: None, ("test",))


def assert_same_run(mine, theirs, start):
    """Equal to the rounding of fp32: every measured loss to 1e-5, the weights to a thousandth of what they moved."""
    ours, other = ([each for each in track.read_metrics(run) if each["kind"] != "event"] for run in (mine, theirs))
    assert [(each["kind"], each["step"]) for each in ours] == [(each["kind"], each["step"]) for each in other]
    for left, right in zip(ours, other, strict=True):
        for name in MEASURED:
            assert left.get(name) == pytest.approx(right.get(name), rel=1e-5), (left["step"], name)
        for name in ("learned_tokens", "tokens", "epoch", "learning_rate"):
            assert left.get(name) == right.get(name)
    assert track.read_samples(mine) == track.read_samples(theirs)
    base, left, right = weights(start), weights(mine / "final"), weights(theirs / "final")
    assert left.keys() == right.keys()
    moved = sum((right[name].double() - base[name]).square().sum() for name in right).sqrt()
    apart = sum((left[name].double() - right[name]).square().sum() for name in right).sqrt()
    assert apart < 1e-3 * moved


@pytest.mark.parametrize("spread", SPREADS, ids=lambda spread: f"{spread.strategy}-{spread.ranks}")
def test_many_ranks_make_the_run_of_one(one, start, spread):
    tree, alone = one
    assert len(track.read_metrics(alone)) > 50
    name = f"{spread.strategy}-{spread.ranks}"
    changed = {**tree, "name": name, "train": {**tree["train"], "strategy": spread.strategy}}
    said = run_ranks(spread.ranks, many.train_here, changed, per_node=spread.per_node)
    assert_same_run(alone.with_name(name), alone, start)
    assert f"{spread.ranks} x cpu ({spread.strategy})" in "\n".join(said[0])
    assert not any(said[1:])  # the first rank speaks for all


def test_a_run_stops_on_all_ranks_and_goes_on_with_more_and_with_one(one, start):
    tree, alone = one
    changed = {**tree, "name": "stopped", "train": {**tree["train"], "strategy": "shard"}}
    first = run_ranks(2, many.train_here, changed, 5)  # the second rank is told to stop
    assert "stopped after step 5 of" in first[0][-1]
    second = run_ranks(4, many.train_here, changed, 6)
    assert "world_size (was 2, is 4)" in "\n".join(second[0])
    assert "stopped after step 11 of" in second[0][-1]
    train(settings(changed), lambda _: None, ("test",))
    assert_same_run(alone.with_name("stopped"), alone, start)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model whose rows fill whole blocks of coded states, its vocabulary divided by no number of ranks."""
    folder = tmp_path_factory.mktemp("wide")
    for name, tied in (("start", True), ("tied", True), ("untied", False)):
        config = ModelShape(hidden_size=256, head_dim=64, intermediate_size=256).config(301, tie_word_embeddings=tied)
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder / name)
    return folder


def everything(run, memory):
    """Weights and state of a run's last checkpoint, as one process reads them."""
    last = checkpoint_store.find_checkpoint(run, "last")
    model = load_model(last.folder, CPU, TIERS[memory].load_dtype)
    update = Optimizer(model, TrainConfig(rows_per_step=1, memory=memory, update_in_backward=False))
    checkpoint_store.verify(last, with_state=True)
    checkpoint.restore(last, update)
    return {**{name: update.master_weight(name).detach() for name in update.parameters}, **update.state_dict()}


def test_checkpoints_pass_from_one_rank_to_four_to_two_bit_for_bit(wide):
    """Every tier: read, moved by the same gradients and written on other ranks, it is what one process makes."""
    many.go_on(wide, "none", "first", [1, 2], ParallelDims())
    many.go_on(wide, "first", "second", [3, 4], ParallelDims())
    many.go_on(wide, "second", "third", [5], ParallelDims())
    four = run_ranks(4, many.go_on, wide, "first", "four", [3, 4], ParallelDims("shard", 4, 4))
    run_ranks(2, many.go_on, wide, "four", "two", [5], ParallelDims("hybrid", 2, 2))
    for name, other in (("second", "four"), ("third", "two")):
        for memory in TIERS:
            mine, theirs = (everything(wide / f"{run}-{memory}", memory) for run in (name, other))
            assert mine.keys() == theirs.keys()
            different = [key for key in mine if not torch.equal(mine[key], theirs[key])]
            assert not different, f"{memory}: {different[:3]}"
    for kept in four:  # no rank keeps more than its share and a row of every weight
        assert all(mine <= whole / 4 + 100 * 256 for mine, whole in zip(kept[::2], kept[1::2], strict=True))
    assert sum(kept[0] for kept in four) == four[0][1]


CASES = [
    *(many.Case(memory, inside) for memory in TIERS for inside in (False, True)),
    many.Case("fp32", budget=0.0),
    many.Case("fp32", compiled=True),
    many.Case("exact", budget=0.5, tied=False),
    many.Case("fp32", tied=False),
]


@pytest.mark.parametrize("spread", BOTH, ids=lambda spread: spread.strategy)
def test_every_tier_and_way_to_train_works_on_many_ranks(wide, spread):
    """Losses, norms and the loss after two steps: equal in fp32, and within bf16's rounding where weights are bf16."""
    alone = many.two_steps(wide, CASES, ParallelDims())
    together = run_ranks(2, many.two_steps, wide, CASES, spread)
    assert together[0] == together[1]
    for case, one, made in zip(CASES, alone, together[0], strict=True):
        assert made == pytest.approx(one, rel=1e-5 if case.memory == "fp32" else 3e-3), case


def test_copies_over_machines_with_other_numbers_of_ranks_are_refused(tree, start):
    hybrid = Setting("fp32", False, 1.0, 1024, "hybrid")
    with pytest.raises(UserError, match=r"train.strategy: is hybrid, and 3 ranks .* 2 each"):
        _load_model(settings(tree), start, CPU, hybrid, World(0, 3, 0, 2))
