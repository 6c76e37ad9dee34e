"""What a setting takes and gives: peak memory composed of traced shares, and tokens a second from a roofline.

All of it before anything is loaded: from the model's configuration, the rows' lengths and the card's figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch

from thinktune.adamw import CHUNK, CPU_CHUNK
from thinktune.budget import layers
from thinktune.cards import GIB, Card
from thinktune.codec import EIGHT_BIT_BLOCK, FOUR_BIT_BLOCK
from thinktune.ferry import HELD
from thinktune.flops import flops_per_token, head_size
from thinktune.knobs import Memory
from thinktune.loss import chunk_rows
from thinktune.optim import TIERS
from thinktune.spread import Strategy
from thinktune.trace import NOWHERE, Ends, Layer, ends, parameter_shapes, update_bytes

CONTEXT_BYTES = GIB // 2  # what a driver, its kernels and their workspaces take beside our tensors; not yet measured
# The share of the makers' peak that large products reach (790 of 989 TFLOP/s were measured by others on an H200), and
# how often a layer's kept bytes pass through memory in elementwise work.
REACHED, PASSES, EAGER_PASSES = 0.8, 3.5, 9.0
FUSED_TEMPORARIES = 4  # fp32 ones of a chunk, where an update is compiled


@dataclass(frozen=True, slots=True)
class Setting:
    """What a plan decides: none of it changes what is learned but the memory tier, and clipping in the backward."""

    memory: Memory
    update_in_backward: bool
    activation_budget: float
    batch_tokens: int
    strategy: Strategy = "replicate"  # of many cards; one card has only this
    chunk_rows: int | None = None  # of logits that exist at a time; none means what suits the device


@dataclass(frozen=True, slots=True)
class Peaks:
    """Bytes on the card at the worst moment of training, of evaluation and of writing samples, and on the host."""

    train: int
    evaluate: int
    sample: int
    host: int

    @property
    def largest(self) -> int:
        """Of the three on the card."""
        return max(self.train, self.evaluate, self.sample)


@dataclass(frozen=True)
class Job:
    """What a run asks, known before it: the model's shape, the rows', and the device's kind and arithmetic."""

    config: Any
    device: torch.device  # the CPU, or any other for an accelerator
    fp32: bool  # arithmetic; else bf16
    compiled: bool
    step_tokens: int  # of the largest step
    longest: int  # tokens of a row
    learned_share: float
    mean_context: float
    sample_rows: int = 0
    sample_tokens: int = 0  # of a prompt and its reply together
    mixed: bool = False  # weights and states between the layers are fp32, products bf16 by autocast

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of all parameters, tied ones once."""
        return parameter_shapes(self.config)

    @cached_property
    def layers(self) -> dict[float, Layer]:
        """One layer under each activation budget."""
        return layers(self.config, self.dtype, self.place, compiled=self.compiled, weights=self.weights)

    @cached_property
    def _ends(self) -> dict[tuple[int, int | None], Ends]:
        return {}

    def ends(self, tokens: int, rows: int | None = None) -> Ends:
        """All but the layers, of a batch of so many tokens, with so many rows of logits at a time."""
        if (tokens, rows) not in self._ends:
            learned = max(1, round(tokens * self.learned_share))
            facts = self.config, self.dtype, self.place, tokens, learned
            self._ends[tokens, rows] = ends(*facts, rows, self.fused, self.weights)
        return self._ends[tokens, rows]

    @property
    def fused(self) -> bool:
        """Whether the softmax of the loss is one kernel: where layers are compiled, it is, too."""
        return self.compiled and self.device.type != "cpu"

    def chunk_rows(self, memory_bytes: int) -> int:
        """How many rows of logits exist at a time on a card of so much memory."""
        return chunk_rows(self.place, self.config.vocab_size, self.dtype, memory_bytes, self.fused)

    def layer(self, budget: float) -> Layer:
        """One layer under a budget: of those that were traced, the next that keeps no less."""
        return self.layers[min(known for known in self.layers if known >= budget)]

    @cached_property
    def recomputed(self) -> Layer:
        """A layer that keeps its input alone: what a pass without gradients takes, too."""
        return layers(self.config, self.dtype, self.place, compiled=False, weights=self.weights)[0.0]

    @cached_property
    def cast(self) -> "Job":
        """The same over fp32 weights; in bf16 arithmetic autocast makes copies of them."""
        return self if self.fp32 else replace(self, mixed=True)

    @property
    def dtype(self) -> torch.dtype:
        """Of the arithmetic."""
        return torch.float32 if self.fp32 else torch.bfloat16

    @property
    def weights(self) -> torch.dtype:
        """Of the weights, and of what goes from one layer to the next."""
        return torch.float32 if self.mixed else self.dtype

    @property
    def copies(self) -> int:
        """Bytes of the layers' matrices as autocast copies them, kept until the forward pass is over."""
        layers = (shape for shape in self.shapes if len(shape) == 2 and shape[0] != self.config.vocab_size)
        return sum(map(_count, layers)) * self.dtype.itemsize if self.mixed else 0

    @property
    def place(self) -> torch.device:
        """The device that is traced for it; autocast is known on the CPU, and not where there is no memory."""
        return torch.device("cpu") if self.mixed or self.device.type == "cpu" else NOWHERE


def weights_bytes(shapes: Sequence[tuple[int, ...]], memory: Memory) -> int:
    """Weights, with the remainder of an exact master."""
    return sum(map(_count, shapes)) * (2 if TIERS[memory].weights == "rounded" else 4)


def states_bytes(shapes: Sequence[tuple[int, ...]], memory: Memory) -> tuple[int, int]:
    """Both moments, in bytes on the device and on the host, where pinned memory comes in powers of two."""
    tier = TIERS[memory]
    device = host = 0
    for shape in shapes:
        count = _count(shape)
        states = tier.states if len(shape) >= 2 or tier.states == "bf16" else "fp32"
        match states:
            case "fp32":
                device += 8 * count
            case "bf16":
                device += 4 * count
            case "4bit":
                device += 2 * (FOUR_BIT_BLOCK // 2 + 4) * -(-count // FOUR_BIT_BLOCK)
            case "8bit":
                blocks = -(-count // EIGHT_BIT_BLOCK)
                if tier.streamed:
                    host += 2 * (_power_of_two(EIGHT_BIT_BLOCK * blocks) + _power_of_two(4 * blocks))
                else:
                    device += 2 * (EIGHT_BIT_BLOCK + 4) * blocks
    return device, host


def peaks(job: Job, setting: Setting) -> Peaks:
    """The bytes of a setting at their peak, without what the device's driver takes for itself."""
    tier, shapes, config = TIERS[setting.memory], job.shapes, job.config
    job = job.cast if tier.weights == "fp32" else job
    tokens, depth = setting.batch_tokens, config.num_hidden_layers
    resident, host = states_bytes(shapes, setting.memory)
    resident += weights_bytes(shapes, setting.memory) + _ferry_bytes(job, setting.memory)
    states = config.hidden_size * tokens * job.weights.itemsize  # what goes from one layer to the next
    layer, rest = job.layer(setting.activation_budget), job.ends(tokens, setting.chunk_rows)
    inside = setting.update_in_backward
    gradients = 0 if inside else sum(map(_count, shapes)) * tier.gradient_bytes
    before = gradients if job.step_tokens > tokens else 0  # those of former batches of the step
    scratch = _scratch(job, setting.memory) if setting.memory != "fp32" or inside else 0
    kept = layer.kept.at(tokens) + states
    working, last = layer.backward.at(tokens), rest.last
    if inside:
        working, last = max(working, layer.moving.at(tokens) + scratch), max(last, rest.moving + scratch)
    working += rest.waiting
    moments = [
        before + depth * kept + max(rest.forward, rest.start),
        before + depth * kept + working,
        max(0, gradients - _embedding_bytes(job)) + kept + working,
        max(0, gradients - _embedding_bytes(job)) + last,
        gradients + (0 if inside else scratch),
    ]
    copies = job.copies
    if copies:  # those that the layers do not keep themselves are there while the last layer works
        unkept = copies - depth * int(layer.kept.fixed)
        moments.append(before + (depth - 1) * kept + unkept + layer.forward.at(tokens))
    rows = job.sample_rows * job.sample_tokens
    cache = 2 * depth * config.num_key_value_heads * head_size(config) * job.dtype.itemsize * rows
    once = job.recomputed.forward
    evaluate = copies + once.at(tokens) + 2 * states + rest.forward - _embedding_bytes(job)
    sample = copies + cache + once.at(rows) + 3 * 4 * config.vocab_size * job.sample_rows
    sample += config.vocab_size * config.hidden_size * job.dtype.itemsize * job.mixed  # the head's copy
    train, evaluate, sample = (int(resident + extra) for extra in (max(moments), evaluate, sample))
    return Peaks(train, evaluate, sample, host)


def tokens_per_second(job: Job, setting: Setting, card: Card) -> float | None:
    """A prediction, and an optimistic one: matrix products near the card's peak, all else at its memory's speed.

    None for a card of which only the memory is known.
    """
    if not card.tflops or not card.bandwidth:
        return None
    config, tier, layer = job.config, TIERS[setting.memory], job.layer(setting.activation_budget)
    tokens, count = min(job.step_tokens, setting.batch_tokens), sum(map(_count, job.shapes))
    batches = -(-job.step_tokens // setting.batch_tokens)
    head = 6 * config.vocab_size * config.hidden_size
    products = (flops_per_token(config, job.mean_context) - head) * layer.operations + head * job.learned_share
    passes = PASSES if job.compiled else EAGER_PASSES
    elementwise = passes * config.num_hidden_layers * job.layers[1.0].kept.a_token * layer.operations
    # Each batch reads the weights twice and writes or adds to the gradients; each step moves weights and states.
    batch = tokens * (products / (REACHED * card.tflops * 1e12) + elementwise / card.bandwidth)
    batch += count * (4 + 2 * tier.gradient_bytes) / card.bandwidth
    moved = count * (2 * tier.bytes_per_parameter + tier.gradient_bytes) / card.bandwidth
    seconds = batches * batch + moved
    if tier.streamed:
        seconds = max(seconds, count * (tier.bytes_per_parameter - 2) / card.link)
    return job.step_tokens / seconds


def _chunk(job: Job) -> int:
    return min(max(map(_count, job.shapes)), CPU_CHUNK if job.device.type == "cpu" else CHUNK)


def _scratch(job: Job, memory: Memory) -> int:
    if job.compiled:
        return FUSED_TEMPORARIES * 4 * _chunk(job)
    return _update_bytes("8bit" if TIERS[memory].streamed else memory, job.place, _chunk(job))


_update_bytes = lru_cache(update_bytes)


def _ferry_bytes(job: Job, memory: Memory) -> int:
    blocks = -(-_chunk(job) // EIGHT_BIT_BLOCK)
    return HELD * 2 * blocks * (EIGHT_BIT_BLOCK + 4) if TIERS[memory].streamed else 0


def _embedding_bytes(job: Job) -> int:
    """One gradient of the head or the embedding."""
    return job.config.vocab_size * job.config.hidden_size * job.weights.itemsize


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
