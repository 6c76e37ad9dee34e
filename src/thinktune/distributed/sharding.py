"""Parallel layout (replicas by shards), and the local shard of a DTensor; a plain tensor is its own shard."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from thinktune.config import Strategy


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's rows of a tensor that may be cut, as a view."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_mesh(weight: Tensor) -> DeviceMesh | None:
    """The ranks among which a weight is cut; none where it is whole."""
    return weight.device_mesh["shard"] if isinstance(weight, DTensor) else None


def row_offset(weight: Tensor) -> int:
    """How many rows stand before this rank's share: shares are as long as the first one, but for the last ones."""
    mesh = shard_mesh(weight)
    if mesh is None:
        return 0
    longest = -(-weight.shape[0] // mesh.size())
    return min(weight.shape[0], longest * mesh.get_local_rank())


def element_offset(weight: Tensor) -> int:
    """How many elements of the whole stand before this rank's share."""
    return row_offset(weight) * (weight.numel() // max(1, weight.shape[0]))


def as_shard_of(shard: Tensor, weight: Tensor) -> Tensor:
    """A tensor that has this rank's rows of something, as the share of a whole that is cut as `weight` is."""
    if not isinstance(weight, DTensor):
        return shard
    assert all(not isinstance(placement, Shard) or placement.dim == 0 for placement in weight.placements)
    size = torch.Size([weight.shape[0], *shard.shape[1:]])
    strides = torch.empty(size, device="meta").stride()
    return DTensor.from_local(
        shard.contiguous(), weight.device_mesh, weight.placements, run_check=False, shape=size, stride=strides
    )


def full_tensor(tensor: Tensor) -> Tensor:
    """All rows of a tensor that may be cut, put together on every rank; all ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@dataclass(frozen=True, slots=True)
class ParallelDims:
    """`ranks` processes, one a card, `per_node` of them on each machine.

    `replicate`: every rank keeps all weights and states, and gradients are summed over all. `shard`: every rank keeps
    1/ranks of weights, gradients and states (ZeRO, Rajbhandari et al., 2020). `hybrid`: a machine's ranks share one
    copy, and gradients of the shares are summed over machines.
    """

    strategy: Strategy = "replicate"
    ranks: int = 1
    per_node: int = 1

    @property
    def shards(self) -> int:
        """Into how many parts weights and states are cut."""
        match self.strategy:
            case "replicate":
                return 1
            case "shard":
                return self.ranks
            case "hybrid":
                return self.per_node

    @property
    def replicas(self) -> int:
        """How many copies of all parts there are; replicas x shards = ranks."""
        return self.ranks // self.shards
