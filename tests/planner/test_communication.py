"""Communication volume: the formula against collectives counted on gloo, and properties of every strategy."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import counted_collectives
from support.counted_collectives import BATCHES, CASES, config

from thinktune.distributed.sharding import ParallelDims
from thinktune.planner.communication import (
    CommunicationVolume,
    ParameterGroups,
    collective_bytes,
    collective_bytes_per_step,
    communication_buffers,
    shard_shape,
    volume_per_step,
)
from thinktune.planner.memory import parameter_groups

GROUPS = ParameterGroups(root=((1000, 8), (8,)), layers=5 * (((16, 8), (7, 8), (8,)),))


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    script = Path(counted_collectives.__file__)
    command = [sys.executable, script, tmp_path_factory.mktemp("counted")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_volumes_are_those_of_real_collectives(counted):
    """Compare every byte on every rank, including the padding of uneven rows; no other collective runs."""
    for (strategy, ranks, per_node, kind, tied, _), found in zip(CASES, counted, strict=True):
        dims, size = ParallelDims(strategy, ranks, per_node), getattr(torch, kind).itemsize
        groups = parameter_groups(config(tied=tied))
        expected = asdict(collective_bytes_per_step(groups, dims, size, BATCHES))
        assert all({name: rank[name] for name in expected} == expected for rank in found), (strategy, ranks, kind)
        everything = [*groups.root, *(shape for layer in groups.layers for shape in layer)]
        kept = sum(torch.Size(shard_shape(shape, dims.shards)).numel() for shape in everything)
        assert max(rank["kept"] for rank in found) == kept, "no rank keeps more than the largest share"


def test_all_reduce_outputs_are_kept_until_the_backward_pass_ends(counted):
    """As the plan assumes: torch keeps each of them in fp32 until then."""
    seen = set()
    for (strategy, ranks, per_node, kind, tied, _), found in zip(CASES, counted, strict=True):
        if kind == "bfloat16":
            held = communication_buffers(
                parameter_groups(config(tied=tied)), ParallelDims(strategy, ranks, per_node), 2
            ).replica_sums
            assert all(rank["held"] == held for rank in found)
            seen.add((strategy, held > 0))
    assert seen == {("replicate", True), ("hybrid", True), ("shard", False)}


def test_shards_are_rows_rounded_up():
    assert shard_shape((10, 3), 4) == (3, 3)
    assert shard_shape((2, 3), 512) == (1, 3)
    assert shard_shape((5,), 1) == (5,)


def test_the_volume_is_that_of_rings():
    """Computed by hand for groups of 8,008 and 192 elements."""
    everything = 8008 + 5 * 192
    assert volume_per_step(GROUPS, ParallelDims("replicate", 4, 4), 2, 3) == CommunicationVolume(
        2 * 3 / 4 * 4 * everything, 0
    )
    assert volume_per_step(GROUPS, ParallelDims("replicate", 4, 2), 2, 1) == CommunicationVolume(
        0, 2 * 3 / 4 * 4 * everything
    )
    eight = collective_bytes(GROUPS.layers[0], ParallelDims("shard", 8, 8), 2)
    assert (eight.all_gather, eight.reduce_scatter, eight.all_reduce) == (
        8 * 25 * 2,
        8 * 25 * 4,
        0,
    )  # 16, 8 and 1 of 8 rows
    hybrid = volume_per_step(GROUPS, ParallelDims("hybrid", 4, 2), 2, 1)
    own_root, own_layer = 500 * 8 + 4, 8 * 8 + 4 * 8 + 4
    assert hybrid.intra_node == own_root * (2 + 4) + 5 * own_layer * (2 + 2 + 4)
    assert hybrid.inter_node == 2 * 1 / 2 * 4 * (own_root + 5 * own_layer)


@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 5))
def test_traffic_within_and_across_machines(machines, per_node, batches):
    ranks = machines * per_node
    by = {
        strategy: volume_per_step(GROUPS, ParallelDims(strategy, ranks, per_node), 2, batches)
        for strategy in ("replicate", "shard", "hybrid")
    }
    if machines == 1:
        assert by["hybrid"] == by["shard"]
        assert all(each.inter_node == 0 for each in by.values())
    else:
        assert by["shard"].intra_node == by["replicate"].intra_node == 0 < by["shard"].inter_node
    if per_node == 1:
        assert by["hybrid"] == by["replicate"]
    assert by["hybrid"].inter_node <= by["replicate"].inter_node + 1
    assert (
        volume_per_step(GROUPS, ParallelDims("shard", ranks, per_node), 2, 2 * batches).inter_node
        == 2 * by["shard"].inter_node
    )


def test_one_rank_communicates_nothing():
    for strategy in ("replicate", "shard", "hybrid"):
        assert volume_per_step(GROUPS, ParallelDims(strategy), 2, 4) == CommunicationVolume(0, 0)
        assert not any(asdict(communication_buffers(GROUPS, ParallelDims(strategy), 2)).values())
