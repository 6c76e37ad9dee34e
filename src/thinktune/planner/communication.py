"""What many cards exchange in a step, as FSDP2 does it: bytes on the wire, and the buffers that hold them on each card.

Read from torch 2.13's `torch.distributed.fsdp._fully_shard`, and held to counted collectives by a test. Each layer is a
group that is gathered before its forward pass, cut again after it, gathered once more for its backward pass, and whose
gradients are summed when they are whole. What is in no layer (embedding, last norm, head) is the root: gathered before
the forward pass, kept, and summed last. All of it happens for each batch, but for the sums over copies: those wait for
the last batch of a step (`model.set_replica_all_reduce`).
"""

from dataclasses import dataclass
from math import prod

from thinktune.distributed import ParallelDims

Shape = tuple[int, ...]


REDUCE_DTYPE_BYTES = 4  # of one gradient while ranks sum it: fp32, whatever weights are kept in


@dataclass(frozen=True, slots=True)
class ParameterGroups:
    """A model's parameters by what is exchanged together: shapes of the root, of one layer, and how many layers."""

    root: tuple[Shape, ...]
    layer: tuple[Shape, ...]
    num_layers: int


@dataclass(frozen=True, slots=True)
class CollectiveBytes:
    """Bytes that one rank hands to its collectives, each counted by its whole buffer.

    `all_gather`: weights, as all shards together. `reduce_scatter`: gradients before each shard takes its own. `all_reduce`: a
    shard's gradients, which are summed over the copies.
    """

    all_gather: int = 0
    reduce_scatter: int = 0
    all_reduce: int = 0


@dataclass(frozen=True, slots=True)
class CommunicationVolume:
    """Bytes that one rank sends in a step, and receives as many, by the wires that its collectives go over.

    `intra_node`: those whose ranks are all on one machine. `inter_node`: those whose ranks are on several.
    """

    intra_node: float = 0
    inter_node: float = 0


@dataclass(frozen=True, slots=True)
class CommunicationBuffers:
    """Bytes on each card that exchanging takes beside the shares; all zero where there is one rank."""

    root_all_gather: int = 0  # the root while it is put together: as it came, and as it is used
    root_weights: int = 0  # from the forward pass to the end of the backward pass
    layer_weights: int = 0  # the one that computes and the next, which is on its way; of a copy without shards one
    layer_gradient: int = 0  # of a whole layer, until it is summed
    root_gradient_waiting: int = 0  # the root's gradients that wait for the embedding's
    layer_reduce: int = 0  # of a layer, in fp32: what is summed, the sum, and the sum in the weights' type
    root_reduce: int = 0  # the same of the root, with its gradient
    replica_sums: int = 0  # sums over copies, which FSDP2 keeps in fp32 until the backward pass is over
    root_replica_sum: int = 0  # what the root adds to them, and to a card's gradients in the weights' type
    root_gradient_shard: int = 0
    layer_replica_sum: int = 0  # the same of a layer
    layer_gradient_shard: int = 0


def shard_shape(shape: Shape, shards: int) -> Shape:
    """The largest shard of a parameter, which is cut by rows; smaller ones are padded to it on the wire."""
    return shape if shards == 1 else (-(-shape[0] // shards), *shape[1:])


def collective_bytes(shapes: tuple[Shape, ...], parallel_dims: ParallelDims, weight_bytes: int) -> CollectiveBytes:
    """What one group hands over when its weights are gathered once and its gradients are summed once."""
    own = sum(prod(shard_shape(shape, parallel_dims.shards)) for shape in shapes)
    many = parallel_dims.shards if parallel_dims.shards > 1 else 0
    return CollectiveBytes(
        own * many * weight_bytes,
        own * many * REDUCE_DTYPE_BYTES,
        own * REDUCE_DTYPE_BYTES if parallel_dims.replicas > 1 else 0,
    )


def collective_bytes_per_step(
    groups: ParameterGroups, parallel_dims: ParallelDims, weight_bytes: int, batches: int
) -> CollectiveBytes:
    """What a rank hands over in a step of so many batches."""
    root, layer = (collective_bytes(shapes, parallel_dims, weight_bytes) for shapes in (groups.root, groups.layer))
    return CollectiveBytes(
        batches * (root.all_gather + 2 * groups.num_layers * layer.all_gather),
        batches * (root.reduce_scatter + groups.num_layers * layer.reduce_scatter),
        root.all_reduce + groups.num_layers * layer.all_reduce,
    )


def ring_volume(buffer_bytes: CollectiveBytes, parallel_dims: ParallelDims) -> CommunicationVolume:
    """What goes over the wire, as rings do it (Patarasuk and Yuan, 2009), which no other way undercuts.

    Of a buffer among N ranks each sends (N-1)/N to gather or to scatter it, and twice as much to sum it everywhere.
    """
    shards, replicas = parallel_dims.shards, parallel_dims.replicas
    cut = (buffer_bytes.all_gather + buffer_bytes.reduce_scatter) * (shards - 1) / shards
    copies = 2 * buffer_bytes.all_reduce * (replicas - 1) / replicas
    inside = (cut if shards <= parallel_dims.per_node else 0) + (
        copies if parallel_dims.ranks <= parallel_dims.per_node else 0
    )
    return CommunicationVolume(inside, cut + copies - inside)


def volume_per_step(
    groups: ParameterGroups, parallel_dims: ParallelDims, weight_bytes: int, batches: int
) -> CommunicationVolume:
    """What one rank sends in a step of so many batches.

    The few numbers that ranks tell each other beside it (counts of tokens, losses, the norm) are left out: they are
    less than a kilobyte.
    """
    return ring_volume(collective_bytes_per_step(groups, parallel_dims, weight_bytes, batches), parallel_dims)


def communication_buffers(
    groups: ParameterGroups, parallel_dims: ParallelDims, weight_bytes: int
) -> CommunicationBuffers:
    """What exchanging takes on each card, by the order in which FSDP2 makes and frees it.

    A copy without shards takes this road, too: each group is copied before it computes, and copies are freed after it.
    A gradient's sum over copies is kept until the backward pass ends, so that its memory is not used too early; where
    weights are fp32, that sum is the gradient itself.
    """
    if parallel_dims.ranks == 1:
        return CommunicationBuffers()
    whole, own = (
        [sum(prod(shard_shape(shape, shards)) for shape in shapes) * back for shapes in (groups.root, groups.layer)]
        for shards, back in ((parallel_dims.shards, parallel_dims.shards), (parallel_dims.shards, 1))
    )
    root, layer = whole
    twice = 2 if parallel_dims.shards > 1 else 1
    sums = [REDUCE_DTYPE_BYTES * (all_ + part) + weight_bytes * part for all_, part in zip(whole, own, strict=True)]
    keeps = REDUCE_DTYPE_BYTES if parallel_dims.replicas > 1 and weight_bytes != REDUCE_DTYPE_BYTES else 0
    embedding = max(prod(shape) for shape in groups.root)
    return CommunicationBuffers(
        root_all_gather=twice * root * weight_bytes,
        root_weights=root * weight_bytes,
        layer_weights=twice * layer * weight_bytes,
        layer_gradient=layer * weight_bytes,
        root_gradient_waiting=(sum(map(prod, groups.root)) - embedding) * weight_bytes,
        layer_reduce=sums[1],
        root_reduce=sums[0] + root * weight_bytes,
        replica_sums=keeps * (own[0] + groups.num_layers * own[1]),
        root_replica_sum=keeps * own[0],
        root_gradient_shard=weight_bytes * own[0],
        layer_replica_sum=keeps * own[1],
        layer_gradient_shard=weight_bytes * own[1],
    )
