"""Communication of FSDP2 in a step: bytes on the wire, and the buffers that hold them on each card.

Derived from torch 2.13's `torch.distributed.fsdp._fully_shard`; a test compares it with counted collectives. Each layer
is a group: gathered before its forward pass, resharded after it, gathered again for its backward pass, and its
gradients are reduced once complete. What is in no layer (embedding, last norm, head) is the root: gathered before the
forward pass, kept, and reduced last. All of it happens for each batch, but the all-reduce over replicas waits for the
last batch of a step (`model.forward.set_replica_all_reduce`).
"""

from dataclasses import dataclass
from math import prod

from thinktune.distributed import ParallelDims

Shape = tuple[int, ...]


REDUCE_DTYPE_BYTES = 4  # gradients are reduced in fp32, whatever the dtype of the weights


@dataclass(frozen=True, slots=True)
class ParameterGroups:
    """Shapes of a model's parameters as FSDP2 groups them: the root, and each layer."""

    root: tuple[Shape, ...]
    layers: tuple[tuple[Shape, ...], ...]


@dataclass(frozen=True, slots=True)
class CollectiveBytes:
    """Bytes passed to all-gather, reduce-scatter and all-reduce per rank, each counted by its whole buffer.

    `all_gather` has the weights of all shards, `reduce_scatter` the gradients of all shards, and `all_reduce` the
    gradients of one shard, to be summed over replicas.
    """

    all_gather: int = 0
    reduce_scatter: int = 0
    all_reduce: int = 0


@dataclass(frozen=True, slots=True)
class CommunicationVolume:
    """Bytes that one rank sends in a step, and receives as well, by where the ranks of its collectives are.

    `intra_node` for collectives within one machine, `inter_node` for those across machines.
    """

    intra_node: float = 0
    inter_node: float = 0


@dataclass(frozen=True, slots=True)
class CommunicationBuffers:
    """Bytes on each card that communication takes besides the shards; all zero for a single rank."""

    root_all_gather: int = 0  # the root while it is gathered: as it arrived, and as it is used
    root_weights: int = 0  # from the forward pass to the end of the backward pass
    layer_weights: int = 0  # the layer in use and the next, which is being gathered; one if not sharded: the largest
    layer_gradient: int = 0  # of the largest whole layer, until it is reduced
    root_gradient_waiting: int = 0  # the root's gradients that wait for that of the embedding
    layer_reduce: int = 0  # of the largest layer: input and output in fp32, and the output in the weights' dtype
    root_reduce: int = 0  # the same of the root, with its gradient
    replica_sums: int = 0  # all-reduce outputs, which FSDP2 keeps in fp32 until the backward pass ends
    root_replica_sum: int = 0  # the root's part of them, and of the gradients in the weights' dtype
    root_gradient_shard: int = 0
    layer_replica_sum: int = 0  # the same of the first layer
    layer_gradient_shard: int = 0


def shard_shape(shape: Shape, shards: int) -> Shape:
    """Return the shape of a parameter's largest shard of rows; smaller ones are padded to it on the wire."""
    return shape if shards == 1 or not shape else (-(-shape[0] // shards), *shape[1:])


def collective_bytes(shapes: tuple[Shape, ...], parallel_dims: ParallelDims, weight_bytes: int) -> CollectiveBytes:
    """Count the bytes of one group, its weights gathered once and its gradients reduced once."""
    shard = sum(prod(shard_shape(shape, parallel_dims.shards)) for shape in shapes)
    gathered = shard * parallel_dims.shards if parallel_dims.shards > 1 else 0
    return CollectiveBytes(
        gathered * weight_bytes,
        gathered * REDUCE_DTYPE_BYTES,
        shard * REDUCE_DTYPE_BYTES if parallel_dims.replicas > 1 else 0,
    )


def collective_bytes_per_step(
    groups: ParameterGroups, parallel_dims: ParallelDims, weight_bytes: int, batches: int
) -> CollectiveBytes:
    """Count the bytes that a rank passes to collectives in a step of several batches."""
    root = collective_bytes(groups.root, parallel_dims, weight_bytes)
    layers = [collective_bytes(shapes, parallel_dims, weight_bytes) for shapes in groups.layers]
    return CollectiveBytes(
        batches * (root.all_gather + 2 * sum(layer.all_gather for layer in layers)),
        batches * (root.reduce_scatter + sum(layer.reduce_scatter for layer in layers)),
        root.all_reduce + sum(layer.all_reduce for layer in layers),
    )


def ring_volume(buffer_bytes: CollectiveBytes, parallel_dims: ParallelDims) -> CommunicationVolume:
    """Compute the bytes that ring collectives send, the fewest possible (Patarasuk and Yuan, 2009).

    Of a buffer over N ranks, each sends (N-1)/N in an all-gather or reduce-scatter, and twice as much in an all-reduce.
    """
    shards, replicas = parallel_dims.shards, parallel_dims.replicas
    sharding = (buffer_bytes.all_gather + buffer_bytes.reduce_scatter) * (shards - 1) / shards
    replication = 2 * buffer_bytes.all_reduce * (replicas - 1) / replicas
    intra_node = sharding if shards <= parallel_dims.per_node else 0
    intra_node += replication if parallel_dims.ranks <= parallel_dims.per_node else 0
    return CommunicationVolume(intra_node, sharding + replication - intra_node)


def volume_per_step(
    groups: ParameterGroups, parallel_dims: ParallelDims, weight_bytes: int, batches: int
) -> CommunicationVolume:
    """Compute the bytes that one rank sends in a step of several batches.

    The few other numbers that ranks exchange (token counts, losses, the norm) are less than a kilobyte and left out.
    """
    return ring_volume(collective_bytes_per_step(groups, parallel_dims, weight_bytes, batches), parallel_dims)


def communication_buffers(
    groups: ParameterGroups, parallel_dims: ParallelDims, weight_bytes: int
) -> CommunicationBuffers:
    """Count the buffers of communication on each card, in the order in which FSDP2 allocates and frees them.

    Replicas without shards are handled alike: each group is copied before it computes, and the copy is freed after it.
    An all-reduced gradient is kept until the backward pass ends, so that its memory is not reused too early; if weights
    are fp32, it is the gradient itself.
    """
    if parallel_dims.ranks == 1:
        return CommunicationBuffers()
    shards = parallel_dims.shards
    root_shard, *layer_shards = (
        sum(prod(shard_shape(shape, shards)) for shape in shapes) for shapes in (groups.root, *groups.layers)
    )
    root, largest = root_shard * shards, max(layer_shards) * shards  # elements of all shards, padded
    neighbours = zip(layer_shards, layer_shards[1:] or layer_shards, strict=False)
    gathered = max(map(sum, neighbours)) * shards if shards > 1 else largest
    root_reduce, layer_reduce = (
        REDUCE_DTYPE_BYTES * (whole + whole // shards) + weight_bytes * (whole // shards) for whole in (root, largest)
    )
    kept_bytes = REDUCE_DTYPE_BYTES if parallel_dims.replicas > 1 and weight_bytes != REDUCE_DTYPE_BYTES else 0
    embedding = max(prod(shape) for shape in groups.root)
    return CommunicationBuffers(
        root_all_gather=(2 if shards > 1 else 1) * root * weight_bytes,
        root_weights=root * weight_bytes,
        layer_weights=gathered * weight_bytes,
        layer_gradient=largest * weight_bytes,
        root_gradient_waiting=(sum(map(prod, groups.root)) - embedding) * weight_bytes,
        layer_reduce=layer_reduce,
        root_reduce=root_reduce + root * weight_bytes,
        replica_sums=kept_bytes * (root_shard + sum(layer_shards)),
        root_replica_sum=kept_bytes * root_shard,
        root_gradient_shard=weight_bytes * root_shard,
        layer_replica_sum=kept_bytes * layer_shards[0],
        layer_gradient_shard=weight_bytes * layer_shards[0],
    )
