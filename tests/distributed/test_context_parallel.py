"""Ranks that share the tokens of each batch: the losses, gradients and run of one rank."""

import numpy as np
import pytest
import torch
from support import many_ranks
from support.ranks import run_ranks
from support.runs import settings, small_tree_of
from support.same_run import assert_same_run, fifty_steps
from support.tiny_models import tiny_config

from thinktune.errors import UserError
from thinktune.model.batch import collate, make_padding
from thinktune.model.long_rows.context_parallel import ContextShare, context_fault, require_ranks
from thinktune.tokenization import Rendered
from thinktune.train import train
from thinktune.train.setup import open_run

PLAIN, WINDOWS_AND_SINKS, CAPS = "qwen3", "gpt_oss", "gemma2"


def rows_of(*lengths):
    drawn = np.random.default_rng(0)
    return [
        Rendered(drawn.integers(3, 150, size).astype(np.int32), np.array([0, *[2] * (size - 1)], np.uint8), f"r:{size}")
        for size in lengths
    ]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_slices_hold_each_token_and_each_label_once(size, padded):
    rows = rows_of(9, 2, 20, 7)
    whole = collate(rows, 45, make_padding(0, [len(row) for row in rows], 45) if padded else None)
    slices = [ContextShare(index, size).slice(whole) for index in range(size)]
    tokens = whole.ids.shape[1]
    assert {part.ids.shape for part in slices} == {(1, -(-tokens // size))}
    for name in ("ids", "position_ids"):
        joined = torch.cat([getattr(part, name)[0] for part in slices])
        assert joined[:tokens].equal(getattr(whole, name)[0])
    assert torch.cat([part.label_positions + part.first_token for part in slices]).equal(whole.label_positions)
    assert torch.cat([part.labels for part in slices]).equal(whole.labels)
    assert torch.cat([part.label_kinds for part in slices]).equal(whole.label_kinds)
    assert sum(part.unpadded_tokens for part in slices) == whole.unpadded_tokens == 38
    for part in slices:
        assert part.cu_seqlens[-1] == size * part.ids.shape[1]
        assert part.cu_seqlens[: len(whole.cu_seqlens)].equal(whole.cu_seqlens)
        assert part.max_seqlen >= part.cu_seqlens.diff().max()
        assert part.row_sources == whole.row_sources


def test_one_rank_has_the_whole_batch():
    whole = collate(rows_of(5, 6), 11)
    assert ContextShare().slice(whole) is whole


@pytest.mark.parametrize(
    ("changes", "size", "rows", "said"),
    [
        ({}, 2, "packed", None),
        ({}, 4, "packed", None),  # two key-value heads, each on two ranks
        ({}, 1, "apart", None),
        ({}, 3, "packed", "does not divide the 4 attention heads"),
        ({}, 8, "packed", "does not divide the 4 attention heads"),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 4},
            6,
            "packed",
            "neither divides nor is a multiple of the 4",
        ),
        ({}, 2, "apart", "pass a state along a row"),
        ({}, 2, "kernels", "pass a state along a row"),
        ({"attention_dropout": 0.1}, 2, "packed", "drops attention weights"),
    ],
)
def test_what_ranks_cannot_share_is_refused_in_one_sentence(changes, size, rows, said):
    config = tiny_config("qwen3")
    config.update(changes)
    found = context_fault(config, size, rows)
    assert (found is None) == (said is None)
    assert found is None or (found.startswith(f"expert.context_parallel: is {size}, ") and said in found)


def test_ranks_that_are_no_whole_number_of_groups_are_refused(tree):
    require_ranks(2, 4)
    with pytest.raises(
        UserError, match=r"expert\.context_parallel: is 2, which does not divide the 1 rank of this run"
    ):
        open_run(settings(tree, train={"context_parallel": 2}), lambda _: None, ("test",))


def test_two_ranks_have_the_losses_and_gradients_of_one():
    for found in run_ranks(2, many_ranks.context_differences, [PLAIN, WINDOWS_AND_SINKS], 2):
        assert max(found[PLAIN]) < 1e-5
        assert max(found[WINDOWS_AND_SINKS]) < 1e-5


@pytest.mark.slow
def test_a_run_of_ranks_that_share_tokens_is_that_of_one(tmp_path, start):
    """In one group and in two, each weight on all ranks or a shard, with inputs on the host; and it resumes with one."""
    tree = fifty_steps(small_tree_of(tmp_path, start))
    alone = train(settings(tree), lambda _: None, ("test",))
    cases = [(2, "replicate", False, None), (4, "shard", True, None), (2, "shard", False, 5)]
    for ranks, strategy, offloaded, stop_at in cases:
        name = f"{strategy}-{ranks}"
        options = {"context_parallel": 2, "strategy": strategy, "offload_activations": offloaded or None}
        changed = {**tree, "name": name, "train": {**tree["train"], **options}}
        said = run_ranks(ranks, many_ranks.train_here, changed, stop_at)
        if stop_at:
            assert "stopped after step 5 of" in said[0][-1]
            said = [[]]
            train(settings({**tree, "name": name}), said[0].append, ("test",))
            assert "expert.context_parallel (was 2, is 1)" in "\n".join(said[0])
        assert_same_run(alone.with_name(name), alone, start)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("ranks", "size"), [(4, 4), (4, 2)])
def test_more_ranks_do_too(ranks, size, compiled):
    """With fewer key-value heads than ranks, and in two groups."""
    names = [PLAIN] if compiled else [PLAIN, WINDOWS_AND_SINKS, CAPS]
    for found in run_ranks(ranks, many_ranks.context_differences, names, size, compiled):
        assert max(max(each) for each in found.values()) < 1e-5, found
