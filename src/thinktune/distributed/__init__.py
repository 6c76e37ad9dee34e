"""Ranks of a distributed run: rendezvous, collectives, agreement, error reports, sharding."""

from thinktune.distributed.sharding import ParallelDims, full_tensor, local_shard
from thinktune.distributed.world import SINGLE, World, destroy_distributed, init_distributed, report_first_error

__all__ = [
    "SINGLE",
    "ParallelDims",
    "World",
    "destroy_distributed",
    "full_tensor",
    "init_distributed",
    "local_shard",
    "report_first_error",
]
