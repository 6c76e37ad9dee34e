"""Parallel layout (replicas × shards) and local shards of DTensors; a plain tensor is whole."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from thinktune.config import Strategy


def local_shard(tensor: Tensor) -> Tensor:
    """Return this rank's rows of a tensor, as a view; all of them if it is not sharded."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_mesh(weight: Tensor) -> DeviceMesh | None:
    """Return the ranks that share a weight; None if it is not sharded."""
    return weight.device_mesh["shard"] if isinstance(weight, DTensor) else None


def row_offset(weight: Tensor) -> int:
    """Return the index of this rank's first row; only the last shards are shorter than the first."""
    mesh = shard_mesh(weight)
    if mesh is None:
        return 0
    longest = -(-weight.shape[0] // mesh.size())
    return min(weight.shape[0], longest * mesh.get_local_rank())


def element_offset(weight: Tensor) -> int:
    """Return the flat index of this rank's first element in the full tensor."""
    return row_offset(weight) * (weight.numel() // max(1, weight.shape[0]))


def as_shard_of(shard: Tensor, weight: Tensor) -> Tensor:
    """Wrap a local shard as a DTensor placed like `weight`, if `weight` is sharded."""
    if not isinstance(weight, DTensor):
        return shard
    assert all(not isinstance(placement, Shard) or placement.dim == 0 for placement in weight.placements)
    size = torch.Size([weight.shape[0], *shard.shape[1:]])
    strides = torch.empty(size, device="meta").stride()
    return DTensor.from_local(
        shard.contiguous(), weight.device_mesh, weight.placements, run_check=False, shape=size, stride=strides
    )


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather all rows of a tensor on every rank; all ranks must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@dataclass(frozen=True, slots=True)
class ParallelDims:
    """Layout of `ranks` processes, one per card, `per_node` of them on each machine.

    `replicate`: every rank keeps all weights and states, and gradients are all-reduced. `shard`: every rank keeps
    1/ranks of weights, gradients and states (ZeRO, Rajbhandari et al., 2020). `hybrid`: a machine's ranks share one
    replica, and gradients of the shards are all-reduced over machines.
    """

    strategy: Strategy = "replicate"
    ranks: int = 1
    per_node: int = 1

    @property
    def shards(self) -> int:
        """Number of parts that weights and states are divided into."""
        match self.strategy:
            case "replicate":
                return 1
            case "shard":
                return self.ranks
            case "hybrid":
                return self.per_node

    @property
    def replicas(self) -> int:
        """Number of copies of all parts; replicas × shards = ranks."""
        return self.ranks // self.shards
