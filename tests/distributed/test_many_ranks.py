"""Many ranks train the run of one: the same losses, weights, samples and files with any number and strategy."""

import pytest
import torch
from support import many_ranks
from support.ranks import run_ranks
from support.runs import settings, small_tree_of
from support.same_run import assert_same_run, fifty_steps
from transformers import Qwen3ForCausalLM

from thinktune.checkpoint import saving, store
from thinktune.config.schema import TrainConfig
from thinktune.demo.tiny_model import ModelShape
from thinktune.distributed.sharding import ParallelDims
from thinktune.distributed.world import World
from thinktune.errors import UserError
from thinktune.model.loading import load_model
from thinktune.model.loss import Objective
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer
from thinktune.planner.memory import Setting
from thinktune.run import journal
from thinktune.train import train
from thinktune.train.setup import _load_model

CPU = torch.device("cpu")
LAYOUTS = [
    ParallelDims("shard", 2, 2),
    pytest.param(ParallelDims("hybrid", 4, 2), marks=pytest.mark.slow),
    pytest.param(ParallelDims("replicate", 2, 2), marks=pytest.mark.slow),
    pytest.param(ParallelDims("shard", 4, 4), marks=pytest.mark.slow),
]
TWO_RANKS = [ParallelDims("shard", 2, 2), ParallelDims("replicate", 2, 2)]


@pytest.fixture(scope="module")
def one(tmp_path_factory, start):
    """Train with one process; return the recipe's tree and the run."""
    tree = fifty_steps(small_tree_of(tmp_path_factory.mktemp("one"), start))
    return tree, train(settings(tree), lambda _: None, ("test",))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.strategy}-{layout.ranks}")
def test_many_ranks_train_the_run_of_one(one, start, layout):
    tree, alone = one
    assert len(journal.read_metrics(alone)) > 50
    name = f"{layout.strategy}-{layout.ranks}"
    changed = {**tree, "name": name, "train": {**tree["train"], "strategy": layout.strategy}}
    said = run_ranks(layout.ranks, many_ranks.train_here, changed, per_node=layout.per_node)
    assert_same_run(alone.with_name(name), alone, start)
    assert f"{layout.ranks} x cpu ({layout.strategy})" in "\n".join(said[0])
    assert not any(said[1:])  # the main rank prints for all


@pytest.mark.slow
def test_a_run_stops_on_all_ranks_and_resumes_with_more_and_with_one(one, start):
    tree, alone = one
    changed = {**tree, "name": "stopped", "train": {**tree["train"], "strategy": "shard"}}
    first = run_ranks(2, many_ranks.train_here, changed, 5)  # the second rank gets the signal
    assert "stopped after step 5 of" in first[0][-1]
    second = run_ranks(4, many_ranks.train_here, changed, 6)
    assert "world_size (was 2, is 4)" in "\n".join(second[0])
    assert "stopped after step 11 of" in second[0][-1]
    train(settings(changed), lambda _: None, ("test",))
    assert_same_run(alone.with_name("stopped"), alone, start)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Make models whose rows fill whole quantization blocks, and whose vocabulary no number of ranks divides."""
    folder = tmp_path_factory.mktemp("wide")
    for name, tied in (("start", True), ("tied", True), ("untied", False)):
        config = ModelShape(hidden_size=256, head_dim=64, intermediate_size=256).config(301, tie_word_embeddings=tied)
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder / name)
    return folder


def everything(run, memory):
    """Read weights and state of a run's last checkpoint with one process."""
    last = store.find_checkpoint(run, "last")
    model = load_model(last.folder, CPU, TIERS[memory].load_dtype)
    optimizer = Optimizer(model, TrainConfig(rows_per_step=1, memory=memory, update_in_backward=False))
    store.verify(last, with_state=True)
    saving.restore(last, optimizer)
    return {**{name: optimizer.master_weight(name).detach() for name in optimizer.parameters}, **optimizer.state_dict()}


@pytest.mark.slow
def test_checkpoints_pass_from_one_rank_to_four_to_two_bit_for_bit(wide):
    """In every tier, other numbers of ranks read, train and write what one process does."""
    many_ranks.resume_and_step(wide, "none", "first", [1, 2], ParallelDims())
    many_ranks.resume_and_step(wide, "first", "second", [3, 4], ParallelDims())
    many_ranks.resume_and_step(wide, "second", "third", [5], ParallelDims())
    four = run_ranks(4, many_ranks.resume_and_step, wide, "first", "four", [3, 4], ParallelDims("shard", 4, 4))
    run_ranks(2, many_ranks.resume_and_step, wide, "four", "two", [5], ParallelDims("hybrid", 2, 2))
    for name, other in (("second", "four"), ("third", "two")):
        for memory in TIERS:
            mine, theirs = (everything(wide / f"{run}-{memory}", memory) for run in (name, other))
            assert mine.keys() == theirs.keys()
            different = [key for key in mine if not torch.equal(mine[key], theirs[key])]
            assert not different, f"{memory}: {different[:3]}"
    for kept in four:  # no rank keeps more than its shard and a row of every weight
        assert all(mine <= whole / 4 + 100 * 256 for mine, whole in zip(kept[::2], kept[1::2], strict=True))
    assert sum(kept[0] for kept in four) == four[0][1]


OBJECTIVES = [
    many_ranks.Case("fp32", objective=Objective(by_probability=True)),
    many_ranks.Case("fp32", objective=Objective(0.25, 1.0, by_probability=True)),
    many_ranks.Case("8bit", inside=True, objective=Objective(0.25, 1.0)),
]
CASES = [
    *(many_ranks.Case(memory, inside) for memory in TIERS for inside in (False, True)),
    many_ranks.Case("fp32", budget=0.0),
    many_ranks.Case("fp32", compiled=True),
    many_ranks.Case("exact", budget=0.5, tied=False),
    many_ranks.Case("fp32", tied=False),
    *OBJECTIVES,
]


@pytest.mark.slow
@pytest.mark.parametrize("layout", TWO_RANKS, ids=lambda layout: layout.strategy)
def test_every_tier_and_way_to_train_works_on_many_ranks(wide, layout):
    """Losses, norms and the eval loss after two steps: equal in fp32, and within bf16's rounding in bf16."""
    alone = many_ranks.two_steps(wide, CASES, ParallelDims())
    together = run_ranks(2, many_ranks.two_steps, wide, CASES, layout)
    assert together[0] == together[1]
    for case, one, made in zip(CASES, alone, together[0], strict=True):
        assert made == pytest.approx(one, rel=1e-5 if case.memory == "fp32" else 3e-3), case


@pytest.mark.slow
@pytest.mark.parametrize("layout", TWO_RANKS, ids=lambda layout: layout.strategy)
def test_8_bit_products_on_two_ranks_are_those_of_one(wide, layout):
    """Of weights in shards, too, which are cast in each pass: the first step is the same, the next within rounding.

    Codes turn the rounding of the first update's bf16 gradients into steps of 8 bits.
    """
    cases = [many_ranks.Case("exact", float8=scaling) for scaling in ("tensor", "row")]
    cases += [many_ranks.Case("exact", budget=0.0, float8="tensor"), many_ranks.Case("exact")]
    alone = many_ranks.two_steps(wide, cases, ParallelDims())
    together = run_ranks(2, many_ranks.two_steps, wide, cases, layout)
    assert together[0] == together[1]
    plain = alone.pop()
    for case, one, made in zip(cases, alone, together[0], strict=False):
        assert made[0] == one[0] != plain[0], case
        assert made[1] == pytest.approx(one[1], rel=1e-4), case
        assert made == pytest.approx(one, rel=1e-2), case
        assert made[2::2] == pytest.approx(one[2::2], rel=1e-3), case


def test_an_objective_of_two_ranks_is_that_of_one(wide):
    """Whose rows, and so whose weights, are divided unequally between the ranks."""
    alone = many_ranks.two_steps(wide, OBJECTIVES[1:2], ParallelDims())
    [[made], other] = run_ranks(2, many_ranks.two_steps, wide, OBJECTIVES[1:2], TWO_RANKS[0])
    assert [made] == other
    assert made == pytest.approx(alone[0], rel=1e-5)
    plain = many_ranks.two_steps(wide, [many_ranks.Case("fp32")], ParallelDims())[0]
    assert made[0] == pytest.approx(plain[0], rel=1e-6), "shown without weights"
    assert abs(made[1] / plain[1] - 1) > 0.1, "another gradient"


@pytest.mark.slow
def test_runs_by_dft_with_weights_are_those_of_one_rank(one, start):
    """Each rank reads the weights of the whole step; in a shard, in replicas, and with the tokens of a batch shared."""
    tree = one[0]
    chosen = {"loss": "dft", "weights": {"reasoning": 0.25}}
    alone = train(settings({**tree, "name": "dft"}, train=chosen), lambda _: None, ("test",))
    for strategy, size in (("shard", 1), ("replicate", 1), ("shard", 2)):
        name = f"dft-{strategy}-{size}"
        options = {**chosen, "strategy": strategy, "context_parallel": size}
        run_ranks(2, many_ranks.train_here, {**tree, "name": name, "train": {**tree["train"], **options}})
        assert_same_run(alone.with_name(name), alone, start)


def test_replicas_on_machines_with_different_numbers_of_ranks_are_refused(tree, start):
    hybrid = Setting("fp32", False, 1.0, 1024, "hybrid")
    with pytest.raises(UserError, match=r"train.strategy: is hybrid, and 3 ranks .* 2 each"):
        _load_model(settings(tree), start, CPU, hybrid, World(0, 3, 0, 2))
