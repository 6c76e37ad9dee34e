"""How fast a setting trains: a roofline of one card, and what many exchange, hidden behind it where FSDP2 hides it.

Predictions, and optimistic ones: products near the card's peak, all else at its memory's speed, wires at their full
speed and without a delay.
"""

from dataclasses import astuple, dataclass
from math import prod
from typing import NamedTuple

from thinktune.distributed import ParallelDims
from thinktune.model.flops import flops_per_token
from thinktune.optim import TIERS
from thinktune.planner.communication import (
    CollectiveBytes,
    CommunicationVolume,
    Shape,
    collective_bytes,
    ring_volume,
    shard_shape,
    volume_per_step,
)
from thinktune.planner.hardware import Card
from thinktune.planner.memory import Setting, Workload

# The share of the makers' peak that large products reach (790 of 989 TFLOP/s were measured by others on an H200), and
# how often a layer's kept bytes pass through memory in elementwise work.
MATMUL_EFFICIENCY, COMPILED_MEMORY_PASSES, EAGER_MEMORY_PASSES = 0.8, 3.5, 9.0


BYTES_PER_GIGABIT = 1e9 / 8  # bytes/s


@dataclass(frozen=True, slots=True)
class Network:
    """The wires of many cards, in bytes/s in each direction: of a card inside its machine, and of a whole machine."""

    name: str
    intra_node_bytes_per_second: float
    inter_node_bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """What is predicted over one network: seconds of the largest step, and tokens a second of all cards together.

    `efficiency` is the share of what so many cards would do if each worked by itself on as many tokens. It may pass 1:
    cards that share one update each have less of it to do.
    """

    network: str
    seconds_per_step: float
    tokens_per_second: float
    efficiency: float


class BatchSeconds(NamedTuple):
    """Seconds of one batch on one card: a layer's forward and backward pass, and the head with its loss."""

    forward: float
    backward: float
    head: float
    total: float


def assumed_networks(card: Card) -> tuple[Network, ...]:
    """Three that machines of such cards may have between them: as fast as inside, 200 Gb/s, and 25 Gb/s a machine."""
    return (
        Network("as inside a machine", card.peer_bytes_per_second, card.peer_bytes_per_second),
        Network("200 Gb/s", card.peer_bytes_per_second, 200 * BYTES_PER_GIGABIT),
        Network("25 Gb/s", card.peer_bytes_per_second, 25 * BYTES_PER_GIGABIT),
    )


def tokens_per_second(workload: Workload, setting: Setting, card: Card, network: Network | None = None) -> float | None:
    """Of all cards together; of many, over a network (none: the second of `assumed_networks`).

    None for a card of which only the memory is known.
    """
    seconds = seconds_per_step(workload, setting, card, network)
    return seconds and workload.step_tokens / seconds


def seconds_per_step(workload: Workload, setting: Setting, card: Card, network: Network | None = None) -> float | None:
    """Of the largest step. None for a card of which only the memory is known.

    The model of many cards. Of each batch, the gathering of the root and of the first layer is waited for; then each
    layer takes as long as its forward pass or the next one's gathering, whichever is longer. In the backward pass each
    takes as long as the longest of three that run side by side: its arithmetic; the next one's gathering and the last
    one's scattering, which share their wire; and, in a step's last batch, the sum over copies. At the end the first
    layer's gradients and the root's are waited for. The next batch begins after that, and so does the update, of which
    each card does its share.
    """
    if not card.tflops or not card.memory_bytes_per_second:
        return None
    batches, spread = -(-workload.rank_tokens // setting.batch_tokens), workload.parallel_dims(setting)
    batch = _batch_seconds(workload, setting, card, card.memory_bytes_per_second)
    seconds = batches * batch.total
    if workload.ranks > 1:
        wires = network or assumed_networks(card)[1]
        last, former = (
            _communicating_batch_seconds(workload, setting, batch, spread, wires, all_reduces=sums)
            for sums in (True, False)
        )
        seconds = (batches - 1) * former + last
    return _step_seconds(workload, setting, card, card.memory_bytes_per_second, seconds, spread.shards)


def ranking_score(workload: Workload, setting: Setting, card: Card) -> float | None:
    """Tokens a second by which settings are ranked. Of many cards the mean time over the first two of `assumed_networks`.

    Which wires there are is not known. Over slow ones alone, where arithmetic hides behind them, a setting that
    computes everything twice would seem to cost nothing.
    """
    if workload.ranks == 1:
        return tokens_per_second(workload, setting, card)
    times = [seconds_per_step(workload, setting, card, network) for network in assumed_networks(card)[:2]]
    seconds = [each for each in times if each]
    return workload.step_tokens * len(seconds) / sum(seconds) if seconds else None


def predict_throughput(workload: Workload, setting: Setting, card: Card, network: Network) -> Throughput | None:
    """A setting over a network, beside one card that works by itself. None where the card's speed is not known."""
    seconds = seconds_per_step(workload, setting, card, network)
    if not seconds or not card.memory_bytes_per_second:
        return None
    batches = -(-workload.rank_tokens // setting.batch_tokens)
    whole = _batch_seconds(workload, setting, card, card.memory_bytes_per_second).total
    alone = _step_seconds(workload, setting, card, card.memory_bytes_per_second, batches * whole, 1)
    speed = workload.step_tokens / seconds
    return Throughput(network.name, seconds, speed, speed / (workload.ranks * workload.rank_tokens / alone))


def largest_step_volume(workload: Workload, setting: Setting) -> CommunicationVolume:
    """What each card sends in the largest step, and receives as much."""
    if workload.ranks == 1:
        return CommunicationVolume()
    batches = -(-workload.rank_tokens // setting.batch_tokens)
    return volume_per_step(
        workload.parameter_groups,
        workload.parallel_dims(setting),
        TIERS[setting.memory].gradient_bytes_per_parameter,
        batches,
    )


def _batch_seconds(workload: Workload, setting: Setting, card: Card, bandwidth: float) -> BatchSeconds:
    config, tier, layer = workload.config, TIERS[setting.memory], workload.layer(setting.activation_budget)
    tokens, count = min(workload.rank_tokens, setting.batch_tokens), sum(map(prod, workload.shapes))
    head = 6 * config.vocab_size * config.hidden_size
    products = (
        flops_per_token(config, workload.mean_context_tokens) - head
    ) * layer.recompute_factor + head * workload.label_fraction
    passes = COMPILED_MEMORY_PASSES if workload.compiled else EAGER_MEMORY_PASSES
    elementwise = (
        passes * config.num_hidden_layers * workload.layers_by_budget[1.0].saved.per_token * layer.recompute_factor
    )
    # Each batch reads the weights twice and writes or adds to the gradients.
    peak = MATMUL_EFFICIENCY * (card.tflops or 0) * 1e12
    whole = tokens * (products / peak + elementwise / bandwidth)
    whole += count * (4 + 2 * tier.gradient_bytes_per_parameter) / bandwidth
    top = tokens * head * workload.label_fraction / peak
    a_layer = (whole - top) / config.num_hidden_layers
    forward = a_layer / (3 * layer.recompute_factor)  # of the operations that nothing does twice, a third
    return BatchSeconds(forward, a_layer - forward, top, whole)


def _step_seconds(
    workload: Workload, setting: Setting, card: Card, bandwidth: float, batch_seconds: float, shards: int
) -> float:
    """Seconds of a step: its batches, and the update, which moves this card's share of weights and states."""
    tier, count = TIERS[setting.memory], sum(prod(shard_shape(shape, shards)) for shape in workload.shapes)
    seconds = batch_seconds + count * (2 * tier.bytes_per_parameter + tier.gradient_bytes_per_parameter) / bandwidth
    if tier.offloaded:
        seconds = max(seconds, count * tier.moment_bytes_per_parameter / card.host_bytes_per_second)
    return seconds


def _communicating_batch_seconds(
    workload: Workload,
    setting: Setting,
    batch: BatchSeconds,
    parallel_dims: ParallelDims,
    network: Network,
    *,
    all_reduces: bool,
) -> float:
    """Seconds of one batch with what is exchanged; `all_reduces` says whether copies sum their gradients after it."""
    depth = workload.parameter_groups.num_layers
    root, layer = (
        _collective_seconds(shapes, workload, setting, parallel_dims, network)
        for shapes in (workload.parameter_groups.root, workload.parameter_groups.layer)
    )
    if not all_reduces:
        root, layer = root._replace(all_reduce=0.0), layer._replace(all_reduce=0.0)
    forward = root.all_gather + layer.all_gather + (depth - 1) * max(batch.forward, layer.all_gather) + batch.forward
    backward = batch.head / 3 + max(batch.head * 2 / 3, layer.all_gather)
    for done in range(depth):
        gather = layer.all_gather if done < depth - 1 else 0.0
        scatter, total = (layer.reduce_scatter, layer.all_reduce) if done else (0.0, 0.0)
        backward += max(batch.backward, gather + scatter, total)
    return forward + backward + layer.reduce_scatter + layer.all_reduce + root.reduce_scatter + root.all_reduce


class _CollectiveSeconds(NamedTuple):
    """Seconds of a group's exchanges: weights gathered, gradients scattered, and summed over copies."""

    all_gather: float
    reduce_scatter: float
    all_reduce: float


def _collective_seconds(
    shapes: tuple[Shape, ...], workload: Workload, setting: Setting, parallel_dims: ParallelDims, network: Network
) -> _CollectiveSeconds:
    """By what a ring's slowest link has to carry.

    A ring over several machines leaves each by one wire, which carries what each card sends. Where the shares of one
    machine are summed each over a ring of its own, all these rings leave by that wire.
    """
    found = collective_bytes(shapes, parallel_dims, TIERS[setting.memory].gradient_bytes_per_parameter)
    cut = (
        network.intra_node_bytes_per_second
        if parallel_dims.shards <= parallel_dims.per_node
        else network.inter_node_bytes_per_second
    )
    copies, rings = network.intra_node_bytes_per_second, 1
    if parallel_dims.ranks > parallel_dims.per_node:
        copies, rings = (
            network.inter_node_bytes_per_second,
            parallel_dims.shards if parallel_dims.shards <= parallel_dims.per_node else 1,
        )
    sides = (
        CollectiveBytes(all_gather=found.all_gather),
        CollectiveBytes(reduce_scatter=found.reduce_scatter),
        CollectiveBytes(all_reduce=found.all_reduce * rings),
    )
    gather, scatter, total = (sum(astuple(ring_volume(side, parallel_dims))) for side in sides)
    return _CollectiveSeconds(gather / cut, scatter / cut, total / copies)
