"""Seconds of a batch and of an update on one card: what is multiplied and moved, at the rates that cards reach.

The rates are assumptions from published measurements of others, for a poor, an expected and a good case; none has been
measured with this code on a card. Bytes and operations are counted on the layers' traces.
"""

from dataclasses import dataclass
from math import prod
from statistics import fmean
from typing import NamedTuple

from thinktune.optim import TIERS
from thinktune.planner.communication import shard_shape
from thinktune.planner.hardware import Card
from thinktune.planner.memory import Setting, Workload


@dataclass(frozen=True, slots=True)
class Rates:
    """What is reached: shares of the stated peak and bandwidth, attention's own rate, and the host's overhead.

    Attention runs at a share of the peak, but no faster than FlashAttention 2 on a Hopper card, on rows of about 900
    tokens; its backward pass computes the scores again, which is counted.
    """

    products: float
    memory: float
    attention_forward: float
    attention_backward: float
    attention_forward_tflops: float
    attention_backward_tflops: float
    kernel_gap_seconds: float  # between two kernels
    layer_host_seconds: float  # forward and backward pass of a compiled layer
    float8_speedup: float  # of a matrix product in fp8 over bf16; its peak is twice as high


POOR = Rates(0.62, 0.75, 0.35, 0.28, 200, 160, 2.0e-6, 0.95e-3, 1.5)
EXPECTED = Rates(0.69, 0.81, 0.45, 0.36, 260, 210, 1.2e-6, 0.62e-3, 1.7)
GOOD = Rates(0.75, 0.85, 0.55, 0.45, 330, 270, 0.8e-6, 0.45e-3, 1.85)


BACKWARD_SCORES = 1.25  # operations of attention's backward pass, over twice those of its forward pass


NARROW_HIDDEN_SIZE, NARROW_PRODUCTS = 1024, 0.92  # products of narrow models run slower by this factor


SOFTMAX_BYTES, EAGER_SOFTMAX_BYTES = 8, 40  # per logit: read twice and written once; a pass for each operation


ROOT_BYTES_PER_STATE = 60  # embedding, last norm and selection, not compiled, per element of a hidden state


HEAD_PASSES = 9  # of a batch over the matrix of head and embedding: zeroed, added to, scaled


# A token's bytes for each input and output of a matrix: magnitudes, casts and their transposes (1.7B, all kept, by the
# code of `benchmarks/layer_code.py`); and for each of its elements, to be cast for both passes.
FLOAT8_TOKEN_BYTES = {"tensor": 3.9, "row": 1.4}
FLOAT8_CAST_BYTES = 8


LAYER_KERNELS, EAGER_LAYER_KERNELS = 50, 167  # of both passes


EAGER_HOST_FACTOR = 2.3  # of a layer that is not compiled


BATCH_HOST_SECONDS, STEP_HOST_SECONDS = 3e-3, 9e-3  # beside the layers; of a step: update, norm, metrics


SERIAL_HOST_SHARE = 0.06  # of the shorter of both is not hidden, where the host takes over half as long as the card


class BatchSeconds(NamedTuple):
    """Seconds of a batch on one card: the mean layer's forward and backward pass, the head, the total; and the host's.

    The card works while the host prepares what follows.
    """

    forward: float
    backward: float
    head: float
    total: float
    host: float


def batch_seconds(workload: Workload, setting: Setting, card: Card, rates: Rates) -> BatchSeconds:
    """Predict the seconds of a step's mean batch; the card's peak and bandwidth must be known."""
    assert card.tflops
    assert card.memory_bytes_per_second
    config, layers = workload.config, workload.setting_layers(setting)
    batches = workload.batches(setting.batch_tokens)
    tokens, labels = (
        each / workload.context for each in (batches.tokens, batches.row_tokens * workload.label_fraction)
    )
    bandwidth = rates.memory * card.memory_bytes_per_second
    peak = rates.products * card.tflops * 1e12 * (NARROW_PRODUCTS if config.hidden_size <= NARROW_HIDDEN_SIZE else 1)
    recomputed = fmean(layer.recompute_factor for layer in layers)
    seconds = tokens * 6 * workload.operations.matrices * recomputed / peak * _float8_factor(workload, rates)
    seconds += _float8_bytes(workload, setting, tokens) / bandwidth
    runs = fmean(layer.attention_runs for layer in layers)
    seconds += tokens * _attention_seconds(workload, runs, card, rates)
    seconds += tokens * sum(layer.elementwise_bytes for layer in layers) / bandwidth
    kernels = LAYER_KERNELS if workload.compiled else EAGER_LAYER_KERNELS
    seconds += len(layers) * kernels * rates.kernel_gap_seconds
    head = 6 * labels * workload.operations.head / peak
    softmax = SOFTMAX_BYTES if workload.fused_loss else EAGER_SOFTMAX_BYTES
    moved = labels * config.vocab_size * softmax
    moved += tokens * config.hidden_size * ROOT_BYTES_PER_STATE * workload.compute_dtype.itemsize
    moved += HEAD_PASSES * config.vocab_size * config.hidden_size * workload.compute_dtype.itemsize
    host = len(layers) * rates.layer_host_seconds * (1 if workload.compiled else EAGER_HOST_FACTOR)
    # A third of the operations without recomputation.
    layer = seconds / len(layers)
    forward, backward = _with_copies(workload, setting, card, layer / (3 * recomputed), layer, tokens)
    total = len(layers) * (forward + backward) + head + moved / bandwidth
    return BatchSeconds(forward, backward, head, total, host + BATCH_HOST_SECONDS)


def _float8_factor(workload: Workload, rates: Rates) -> float:
    """Return the seconds of the layers' products over those in bf16; with rows, gradients of weights stay bf16."""
    in_float8 = sum(map(prod, workload.float8_shapes)) / workload.operations.matrices
    in_float8 *= 2 / 3 if workload.float8 == "row" else 1
    return 1 - min(1.0, in_float8) * (1 - 1 / rates.float8_speedup)


def _float8_bytes(workload: Workload, setting: Setting, tokens: float) -> float:
    """Return what casts to fp8 read and write in a batch; of held weights, its share of those of a step."""
    if not workload.float8:
        return 0.0
    of_states = tokens * FLOAT8_TOKEN_BYTES[workload.float8] * sum(map(sum, workload.float8_shapes))
    casts = 1 / workload.batches(setting.batch_tokens).number if workload.holds_casts(setting) else 1.0
    return of_states + casts * FLOAT8_CAST_BYTES * sum(map(prod, workload.float8_shapes))


def _with_copies(
    workload: Workload, setting: Setting, card: Card, forward: float, layer: float, tokens: float
) -> tuple[float, float]:
    """Return the seconds of a layer's passes with the copies of its input, and with what cards exchange."""
    backward = layer - forward
    if setting.offload_activations:  # a layer's input leaves in its forward pass, and comes back in its backward pass
        copy = tokens * workload.config.hidden_size * workload.weight_dtype.itemsize / card.host_bytes_per_second
        forward, backward = max(forward, copy), max(backward, copy)
    if workload.context > 1:  # as inside one machine; nothing is computed meanwhile
        layers = len(workload.setting_layers(setting))
        exchange = workload.exchange.seconds(tokens, card.peer_bytes_per_second) / layers
        forward, backward = forward + exchange, backward + exchange * (2 if setting.activation_budget < 1 else 1)
    return forward, backward


def step_seconds(
    workload: Workload, setting: Setting, card: Card, rates: Rates, seconds: float, shards: int = 1
) -> float:
    """Predict the seconds of a step whose batches take the card `seconds`: with sums of gradients, update, and host.

    The update is of this card's shard of weights and states.
    """
    assert card.memory_bytes_per_second
    tier, batches = TIERS[setting.memory], workload.batches(setting.batch_tokens)
    bandwidth = rates.memory * card.memory_bytes_per_second
    count = sum(prod(shard_shape(shape, shards)) for shape in workload.shapes)
    update = 2 * tier.bytes_per_parameter + 2 * tier.gradient_bytes_per_parameter  # the norm reads gradients, too
    sums = 3 * tier.gradient_bytes_per_parameter * max(0.0, batches.number - 1)  # read both, write one
    seconds += count * (update + sums) / bandwidth
    if tier.offloaded:
        seconds = max(seconds, count * tier.moment_bytes_per_parameter / card.host_bytes_per_second)
    host = batches.number * batch_seconds(workload, setting, card, rates).host + STEP_HOST_SECONDS
    hidden = min(seconds, host)
    return max(seconds, host) + (SERIAL_HOST_SHARE * hidden if 2 * host > seconds else 0.0)


def _attention_seconds(workload: Workload, runs: float, card: Card, rates: Rates) -> float:
    """Predict the seconds per token of attention in all layers, its forward pass run so many times."""
    assert card.tflops
    forward = min(rates.attention_forward * card.tflops, rates.attention_forward_tflops) * 1e12
    backward = min(rates.attention_backward * card.tflops, rates.attention_backward_tflops) * 1e12
    return 2 * workload.context_multiplications * (runs / forward + 2 * BACKWARD_SCORES / backward)
