"""Training speed of a setting: a roofline of one card, and communication, overlapped where FSDP2 overlaps it.

Each prediction is of a poor, an expected and a good case of what cards reach. Links run at full bandwidth without
latency.
"""

from dataclasses import astuple, dataclass
from typing import NamedTuple

from thinktune.distributed import ParallelDims
from thinktune.optim import TIERS
from thinktune.planner.communication import (
    CollectiveBytes,
    CommunicationVolume,
    Shape,
    collective_bytes,
    ring_volume,
    volume_per_step,
)
from thinktune.planner.hardware import Card
from thinktune.planner.memory import Setting, Workload
from thinktune.planner.roofline import EXPECTED, GOOD, POOR, BatchSeconds, Rates, batch_seconds, step_seconds

BYTES_PER_GIGABIT = 1e9 / 8


@dataclass(frozen=True, slots=True)
class Network:
    """Bandwidth in each direction: of a card within its machine, and of a whole machine to the others."""

    name: str
    intra_node_bytes_per_second: float
    inter_node_bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Predicted speed over one network: seconds of the mean step, and tokens per second of all cards together.

    `poor` and `good` are the tokens per second of those cases. `efficiency` is relative to as many cards that each work
    alone on as many tokens. It may exceed 1: cards that shard the update each do less of it.
    """

    network: str
    seconds_per_step: float
    tokens_per_second: float
    poor: float
    good: float
    efficiency: float


def assumed_networks(card: Card) -> tuple[Network, ...]:
    """Return three networks between machines: as fast as within a machine, 200 Gb/s, and 25 Gb/s per machine."""
    return (
        Network("as inside a machine", card.peer_bytes_per_second, card.peer_bytes_per_second),
        Network("200 Gb/s", card.peer_bytes_per_second, 200 * BYTES_PER_GIGABIT),
        Network("25 Gb/s", card.peer_bytes_per_second, 25 * BYTES_PER_GIGABIT),
    )


def tokens_per_second(workload: Workload, setting: Setting, card: Card, rates: Rates = EXPECTED) -> float | None:
    """Predict the tokens per second of all cards together, over the second assumed network.

    None if only the card's memory is known.
    """
    seconds = seconds_per_step(workload, setting, card, rates=rates)
    return seconds and workload.mean_step_tokens / seconds


def speed_range(workload: Workload, setting: Setting, card: Card) -> tuple[float, float] | None:
    """Predict the same of the poor and of the good case."""
    poor, good = (tokens_per_second(workload, setting, card, rates) for rates in (POOR, GOOD))
    return (poor, good) if poor and good else None


def format_speeds(poor: float, good: float) -> str:
    """Format a range of tokens per second with two digits each, as in 40-51k; one number where they are the same."""
    thousands = good >= 9_950
    ends = [float(f"{speed:.2g}") / (1000 if thousands else 1) for speed in (poor, good)]
    return "–".join(dict.fromkeys(f"{end:,.12g}" for end in ends)) + "k" * thousands


def seconds_per_step(
    workload: Workload, setting: Setting, card: Card, network: Network | None = None, rates: Rates = EXPECTED
) -> float | None:
    """Predict the seconds of a run's mean step; None if only the card's memory is known.

    The model for many cards: each batch waits for the all-gathers of the root and of the first layer. Then each layer
    takes as long as its forward pass or the next layer's all-gather, whichever is longer. In the backward pass, each
    takes the longest of three that overlap: its arithmetic; the next layer's all-gather and the previous one's
    reduce-scatter, which share a link; and, in the last batch of a step, the all-reduce over replicas. At the end, the
    gradients of the first layer and of the root are waited for. Then follows the next batch, or the update, of which
    each card does its shard.
    """
    if not card.tflops or not card.memory_bytes_per_second:
        return None
    batches, parallel_dims = workload.batches(setting.batch_tokens), workload.parallel_dims(setting)
    batch = batch_seconds(workload, setting, card, rates)
    seconds = batches.number * batch.total
    if workload.ranks > 1:
        network = network or assumed_networks(card)[1]
        last, earlier = (
            _communicating_batch_seconds(workload, setting, batch, parallel_dims, network, all_reduces=all_reduces)
            for all_reduces in (True, False)
        )
        seconds = (batches.number - 1) * earlier + last
    return step_seconds(workload, setting, card, rates, seconds, parallel_dims.shards)


def ranking_score(workload: Workload, setting: Setting, card: Card) -> float | None:
    """Score a setting in tokens per second; with many cards, by the mean time over the first two assumed networks.

    The real network is not known. Over slow ones alone, which hide arithmetic, a setting that computes everything twice
    would seem to cost nothing.
    """
    if workload.ranks == 1:
        return tokens_per_second(workload, setting, card)
    times = [seconds_per_step(workload, setting, card, network) for network in assumed_networks(card)[:2]]
    seconds = [each for each in times if each]
    return workload.mean_step_tokens * len(seconds) / sum(seconds) if seconds else None


def predict_throughput(workload: Workload, setting: Setting, card: Card, network: Network) -> Throughput | None:
    """Predict the speed of a setting over a network, and its efficiency; None if the card's speed is not known."""
    poor, seconds, good = (
        seconds_per_step(workload, setting, card, network, rates) for rates in (POOR, EXPECTED, GOOD)
    )
    if not poor or not seconds or not good:
        return None
    batch_alone = batch_seconds(workload, setting, card, EXPECTED).total
    batches = workload.batches(setting.batch_tokens).number
    alone = step_seconds(workload, setting, card, EXPECTED, batches * batch_alone)
    slow, speed, fast = (workload.mean_step_tokens / each for each in (poor, seconds, good))
    efficiency = speed * alone / workload.mean_step_tokens
    return Throughput(network.name, seconds, speed, slow, fast, efficiency)


def largest_step_volume(workload: Workload, setting: Setting) -> CommunicationVolume:
    """Compute the bytes that each card sends in the largest step, and receives as well."""
    if workload.ranks == 1:
        return CommunicationVolume()
    batches = -(-workload.one_batch_tokens // setting.batch_tokens)
    return volume_per_step(
        workload.parameter_groups,
        workload.parallel_dims(setting),
        TIERS[setting.memory].gradient_bytes_per_parameter,
        batches,
    )


def _communicating_batch_seconds(
    workload: Workload,
    setting: Setting,
    batch: BatchSeconds,
    parallel_dims: ParallelDims,
    network: Network,
    *,
    all_reduces: bool,
) -> float:
    """Predict the seconds of one batch with communication; `all_reduces` if replicas sum their gradients after it."""
    groups = workload.parameter_groups
    known = {
        shapes: _collective_seconds(shapes, setting, parallel_dims, network) for shapes in {groups.root, *groups.layers}
    }
    if not all_reduces:
        known = {shapes: each._replace(all_reduce=0.0) for shapes, each in known.items()}
    root, layers = known[groups.root], [known[shapes] for shapes in groups.layers]
    rest = batch.total - batch.head - len(layers) * (batch.forward + batch.backward)
    forward = rest + root.all_gather + layers[0].all_gather + batch.forward
    forward += sum(max(batch.forward, following.all_gather) for following in layers[1:])
    backward = batch.head / 3 + max(batch.head * 2 / 3, layers[-1].all_gather)
    for index in reversed(range(len(layers))):
        gather = layers[index - 1].all_gather if index else 0.0
        following = layers[index + 1] if index + 1 < len(layers) else _CollectiveSeconds(0.0, 0.0, 0.0)
        backward += max(batch.backward, gather + following.reduce_scatter, following.all_reduce)
    first = layers[0]
    return forward + backward + first.reduce_scatter + first.all_reduce + root.reduce_scatter + root.all_reduce


class _CollectiveSeconds(NamedTuple):
    """Seconds of the collectives of one group."""

    all_gather: float
    reduce_scatter: float
    all_reduce: float


def _collective_seconds(
    shapes: tuple[Shape, ...], setting: Setting, parallel_dims: ParallelDims, network: Network
) -> _CollectiveSeconds:
    """Predict the seconds of a group's collectives by the slowest link of their rings.

    A ring over several machines leaves each by one link, which carries what each card sends. If each shard of a machine
    is all-reduced over a ring of its own, all these rings share that link.
    """
    found = collective_bytes(shapes, parallel_dims, TIERS[setting.memory].gradient_bytes_per_parameter)
    intra_node, inter_node = network.intra_node_bytes_per_second, network.inter_node_bytes_per_second
    shards_on_one_node = parallel_dims.shards <= parallel_dims.per_node
    sharding_bandwidth, replication_bandwidth, rings = intra_node if shards_on_one_node else inter_node, intra_node, 1
    if parallel_dims.ranks > parallel_dims.per_node:
        replication_bandwidth, rings = inter_node, parallel_dims.shards if shards_on_one_node else 1
    collectives = (
        CollectiveBytes(all_gather=found.all_gather),
        CollectiveBytes(reduce_scatter=found.reduce_scatter),
        CollectiveBytes(all_reduce=found.all_reduce * rings),
    )
    gather, scatter, total = (sum(astuple(ring_volume(each, parallel_dims))) for each in collectives)
    return _CollectiveSeconds(gather / sharding_bandwidth, scatter / sharding_bandwidth, total / replication_bandwidth)
