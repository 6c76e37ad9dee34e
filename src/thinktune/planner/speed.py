"""How fast a setting trains: a roofline of one card, and what many exchange, hidden behind it where FSDP2 hides it.

Predictions, and optimistic ones: products near the card's peak, all else at its memory's speed, wires at their full
speed and without a delay.
"""

from dataclasses import astuple, dataclass
from math import prod
from typing import NamedTuple

from thinktune.distributed.sharding import Spread
from thinktune.model.flops import flops_per_token
from thinktune.optim.memory_tiers import TIERS
from thinktune.planner.communication import Handed, Shape, Traffic, handed, sent, share, traffic
from thinktune.planner.hardware import Card
from thinktune.planner.memory import Job, Setting

# The share of the makers' peak that large products reach (790 of 989 TFLOP/s were measured by others on an H200), and
# how often a layer's kept bytes pass through memory in elementwise work.
REACHED, PASSES, EAGER_PASSES = 0.8, 3.5, 9.0


GIGABIT = 1e9 / 8  # bytes/s


@dataclass(frozen=True, slots=True)
class Network:
    """The wires of many cards, in bytes/s in each direction: of a card inside its machine, and of a whole machine."""

    name: str
    inside: float
    between: float


@dataclass(frozen=True, slots=True)
class Pace:
    """What is predicted over one network: seconds of the largest step, and tokens a second of all cards together.

    `efficiency` is the share of what so many cards would do if each worked by itself on as many tokens. It may pass 1:
    cards that share one update each have less of it to do.
    """

    network: str
    seconds_per_step: float
    tokens_per_second: float
    efficiency: float


class Batch(NamedTuple):
    """Seconds of one batch on one card: a layer's forward and backward pass, and the head with its loss."""

    forward: float
    backward: float
    head: float
    whole: float


def networks(card: Card) -> tuple[Network, ...]:
    """Three that machines of such cards may have between them: as fast as inside, 200 Gb/s, and 25 Gb/s a machine."""
    return (
        Network("as inside a machine", card.peers, card.peers),
        Network("200 Gb/s", card.peers, 200 * GIGABIT),
        Network("25 Gb/s", card.peers, 25 * GIGABIT),
    )


def tokens_per_second(job: Job, setting: Setting, card: Card, network: Network | None = None) -> float | None:
    """Of all cards together; of many, over a network (none: the second of `networks`).

    None for a card of which only the memory is known.
    """
    seconds = seconds_per_step(job, setting, card, network)
    return seconds and job.step_tokens / seconds


def seconds_per_step(job: Job, setting: Setting, card: Card, network: Network | None = None) -> float | None:
    """Of the largest step. None for a card of which only the memory is known.

    The model of many cards. Of each batch, the gathering of the root and of the first layer is waited for; then each
    layer takes as long as its forward pass or the next one's gathering, whichever is longer. In the backward pass each
    takes as long as the longest of three that run side by side: its arithmetic; the next one's gathering and the last
    one's scattering, which share their wire; and, in a step's last batch, the sum over copies. At the end the first
    layer's gradients and the root's are waited for. The next batch begins after that, and so does the update, of which
    each card does its share.
    """
    if not card.tflops or not card.bandwidth:
        return None
    batches, spread = -(-job.rank_tokens // setting.batch_tokens), job.spread(setting)
    batch = _batch(job, setting, card, card.bandwidth)
    seconds = batches * batch.whole
    if job.ranks > 1:
        wires = network or networks(card)[1]
        last, former = (_exchanging(job, setting, batch, spread, wires, sums=sums) for sums in (True, False))
        seconds = (batches - 1) * former + last
    return _with_update(job, setting, card, card.bandwidth, seconds, spread.shards)


def merit(job: Job, setting: Setting, card: Card) -> float | None:
    """Tokens a second by which settings are ranked. Of many cards the mean time over the first two of `networks`.

    Which wires there are is not known. Over slow ones alone, where arithmetic hides behind them, a setting that
    computes everything twice would seem to cost nothing.
    """
    if job.ranks == 1:
        return tokens_per_second(job, setting, card)
    times = [seconds_per_step(job, setting, card, network) for network in networks(card)[:2]]
    seconds = [each for each in times if each]
    return job.step_tokens * len(seconds) / sum(seconds) if seconds else None


def pace(job: Job, setting: Setting, card: Card, network: Network) -> Pace | None:
    """A setting over a network, beside one card that works by itself. None where the card's speed is not known."""
    seconds = seconds_per_step(job, setting, card, network)
    if not seconds or not card.bandwidth:
        return None
    batches = -(-job.rank_tokens // setting.batch_tokens)
    whole = _batch(job, setting, card, card.bandwidth).whole
    alone = _with_update(job, setting, card, card.bandwidth, batches * whole, 1)
    speed = job.step_tokens / seconds
    return Pace(network.name, seconds, speed, speed / (job.ranks * job.rank_tokens / alone))


def step_traffic(job: Job, setting: Setting) -> Traffic:
    """What each card sends in the largest step, and receives as much."""
    if job.ranks == 1:
        return Traffic()
    batches = -(-job.rank_tokens // setting.batch_tokens)
    return traffic(job.groups, job.spread(setting), TIERS[setting.memory].gradient_bytes, batches)


def _batch(job: Job, setting: Setting, card: Card, bandwidth: float) -> Batch:
    config, tier, layer = job.config, TIERS[setting.memory], job.layer(setting.activation_budget)
    tokens, count = min(job.rank_tokens, setting.batch_tokens), sum(map(prod, job.shapes))
    head = 6 * config.vocab_size * config.hidden_size
    products = (flops_per_token(config, job.mean_context) - head) * layer.operations + head * job.learned_share
    passes = PASSES if job.compiled else EAGER_PASSES
    elementwise = passes * config.num_hidden_layers * job.layers[1.0].kept.a_token * layer.operations
    # Each batch reads the weights twice and writes or adds to the gradients.
    peak = REACHED * (card.tflops or 0) * 1e12
    whole = tokens * (products / peak + elementwise / bandwidth)
    whole += count * (4 + 2 * tier.gradient_bytes) / bandwidth
    top = tokens * head * job.learned_share / peak
    a_layer = (whole - top) / config.num_hidden_layers
    forward = a_layer / (3 * layer.operations)  # of the operations that nothing does twice, a third
    return Batch(forward, a_layer - forward, top, whole)


def _with_update(job: Job, setting: Setting, card: Card, bandwidth: float, batches: float, shards: int) -> float:
    """Seconds of a step: its batches, and the update, which moves this card's share of weights and states."""
    tier, count = TIERS[setting.memory], sum(prod(share(shape, shards)) for shape in job.shapes)
    seconds = batches + count * (2 * tier.bytes_per_parameter + tier.gradient_bytes) / bandwidth
    if tier.streamed:
        seconds = max(seconds, count * (tier.bytes_per_parameter - 2) / card.link)
    return seconds


def _exchanging(job: Job, setting: Setting, batch: Batch, spread: Spread, network: Network, *, sums: bool) -> float:
    """Seconds of one batch with what is exchanged; `sums` says whether copies sum their gradients after it."""
    depth = job.groups.depth
    root, layer = (_waits(shapes, job, setting, spread, network) for shapes in (job.groups.root, job.groups.layer))
    if not sums:
        root, layer = root._replace(total=0.0), layer._replace(total=0.0)
    forward = root.gather + layer.gather + (depth - 1) * max(batch.forward, layer.gather) + batch.forward
    backward = batch.head / 3 + max(batch.head * 2 / 3, layer.gather)
    for done in range(depth):
        gather = layer.gather if done < depth - 1 else 0.0
        scatter, total = (layer.scatter, layer.total) if done else (0.0, 0.0)
        backward += max(batch.backward, gather + scatter, total)
    return forward + backward + layer.scatter + layer.total + root.scatter + root.total


class _Waits(NamedTuple):
    """Seconds of a group's exchanges: weights gathered, gradients scattered, and summed over copies."""

    gather: float
    scatter: float
    total: float


def _waits(shapes: tuple[Shape, ...], job: Job, setting: Setting, spread: Spread, network: Network) -> _Waits:
    """By what a ring's slowest link has to carry.

    A ring over several machines leaves each by one wire, which carries what each card sends. Where the shares of one
    machine are summed each over a ring of its own, all these rings leave by that wire.
    """
    found = handed(shapes, spread, TIERS[setting.memory].gradient_bytes)
    cut = network.inside if spread.shards <= spread.per_node else network.between
    copies, rings = network.inside, 1
    if spread.ranks > spread.per_node:
        copies, rings = network.between, spread.shards if spread.shards <= spread.per_node else 1
    sides = (Handed(gathered=found.gathered), Handed(scattered=found.scattered), Handed(summed=found.summed * rings))
    gather, scatter, total = (sum(astuple(sent(side, spread))) for side in sides)
    return _Waits(gather / cut, scatter / cut, total / copies)
