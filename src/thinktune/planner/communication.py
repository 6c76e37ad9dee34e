"""What many cards exchange in a step, as FSDP2 does it: bytes on the wire, and the buffers that hold them on each card.

Read from torch 2.13's `torch.distributed.fsdp._fully_shard`, and held to counted collectives by a test. Each layer is a
group that is gathered before its forward pass, cut again after it, gathered once more for its backward pass, and whose
gradients are summed when they are whole. What is in no layer (embedding, last norm, head) is the root: gathered before
the forward pass, kept, and summed last. All of it happens for each batch, but for the sums over copies: those wait for
the last batch of a step (`model.sum_over_copies`).
"""

from dataclasses import dataclass
from math import prod

from thinktune.distributed.sharding import Spread

Shape = tuple[int, ...]


SUM_BYTES = 4  # of one gradient while ranks sum it: fp32, whatever weights are kept in


@dataclass(frozen=True, slots=True)
class Groups:
    """A model's parameters by what is exchanged together: shapes of the root, of one layer, and how many layers."""

    root: tuple[Shape, ...]
    layer: tuple[Shape, ...]
    depth: int


@dataclass(frozen=True, slots=True)
class Handed:
    """Bytes that one rank hands to its collectives, each counted by its whole buffer.

    `gathered`: weights, as all shards together. `scattered`: gradients before each shard takes its own. `summed`: a
    shard's gradients, which are summed over the copies.
    """

    gathered: int = 0
    scattered: int = 0
    summed: int = 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one rank sends in a step, and receives as many, by the wires that its collectives go over.

    `inside`: those whose ranks are all on one machine. `between`: those whose ranks are on several.
    """

    inside: float = 0
    between: float = 0


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes on each card that exchanging takes beside the shares; all zero where there is one rank."""

    entering: int = 0  # the root while it is put together: as it came, and as it is used
    root: int = 0  # from the forward pass to the end of the backward pass
    layers: int = 0  # the one that computes and the next, which is on its way; of a copy without shards one
    gradient: int = 0  # of a whole layer, until it is summed
    head: int = 0  # the root's gradients that wait for the embedding's
    summing: int = 0  # of a layer, in fp32: what is summed, the sum, and the sum in the weights' type
    leaving: int = 0  # the same of the root, with its gradient
    held: int = 0  # sums over copies, which FSDP2 keeps in fp32 until the backward pass is over
    root_sum: int = 0  # what the root adds to them, and to a card's gradients in the weights' type
    root_share: int = 0
    layer_sum: int = 0  # the same of a layer
    layer_share: int = 0


def share(shape: Shape, shards: int) -> Shape:
    """The largest shard of a parameter, which is cut by rows; smaller ones are padded to it on the wire."""
    return shape if shards == 1 else (-(-shape[0] // shards), *shape[1:])


def handed(shapes: tuple[Shape, ...], spread: Spread, weight_bytes: int) -> Handed:
    """What one group hands over when its weights are gathered once and its gradients are summed once."""
    own = sum(prod(share(shape, spread.shards)) for shape in shapes)
    many = spread.shards if spread.shards > 1 else 0
    return Handed(own * many * weight_bytes, own * many * SUM_BYTES, own * SUM_BYTES if spread.replicas > 1 else 0)


def handed_in_step(groups: Groups, spread: Spread, weight_bytes: int, batches: int) -> Handed:
    """What a rank hands over in a step of so many batches."""
    root, layer = (handed(shapes, spread, weight_bytes) for shapes in (groups.root, groups.layer))
    return Handed(
        batches * (root.gathered + 2 * groups.depth * layer.gathered),
        batches * (root.scattered + groups.depth * layer.scattered),
        root.summed + groups.depth * layer.summed,
    )


def sent(bytes_handed: Handed, spread: Spread) -> Traffic:
    """What goes over the wire, as rings do it (Patarasuk and Yuan, 2009), which no other way undercuts.

    Of a buffer among N ranks each sends (N-1)/N to gather or to scatter it, and twice as much to sum it everywhere.
    """
    shards, replicas = spread.shards, spread.replicas
    cut = (bytes_handed.gathered + bytes_handed.scattered) * (shards - 1) / shards
    copies = 2 * bytes_handed.summed * (replicas - 1) / replicas
    inside = (cut if shards <= spread.per_node else 0) + (copies if spread.ranks <= spread.per_node else 0)
    return Traffic(inside, cut + copies - inside)


def traffic(groups: Groups, spread: Spread, weight_bytes: int, batches: int) -> Traffic:
    """What one rank sends in a step of so many batches.

    The few numbers that ranks tell each other beside it (counts of tokens, losses, the norm) are left out: they are
    less than a kilobyte.
    """
    return sent(handed_in_step(groups, spread, weight_bytes, batches), spread)


def buffers(groups: Groups, spread: Spread, weight_bytes: int) -> Buffers:
    """What exchanging takes on each card, by the order in which FSDP2 makes and frees it.

    A copy without shards takes this road, too: each group is copied before it computes, and copies are freed after it.
    A gradient's sum over copies is kept until the backward pass ends, so that its memory is not used too early; where
    weights are fp32, that sum is the gradient itself.
    """
    if spread.ranks == 1:
        return Buffers()
    whole, own = (
        [sum(prod(share(shape, shards)) for shape in shapes) * back for shapes in (groups.root, groups.layer)]
        for shards, back in ((spread.shards, spread.shards), (spread.shards, 1))
    )
    root, layer = whole
    twice = 2 if spread.shards > 1 else 1
    sums = [SUM_BYTES * (all_ + part) + weight_bytes * part for all_, part in zip(whole, own, strict=True)]
    keeps = SUM_BYTES if spread.replicas > 1 and weight_bytes != SUM_BYTES else 0
    embedding = max(prod(shape) for shape in groups.root)
    return Buffers(
        entering=twice * root * weight_bytes,
        root=root * weight_bytes,
        layers=twice * layer * weight_bytes,
        gradient=layer * weight_bytes,
        head=(sum(map(prod, groups.root)) - embedding) * weight_bytes,
        summing=sums[1],
        leaving=sums[0] + root * weight_bytes,
        held=keeps * (own[0] + groups.depth * own[1]),
        root_sum=keeps * own[0],
        root_share=weight_bytes * own[0],
        layer_sum=keeps * own[1],
        layer_share=weight_bytes * own[1],
    )
