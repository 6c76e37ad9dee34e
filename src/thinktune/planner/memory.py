"""What a setting takes: peak memory on each card, composed of traced shares, of bytes that are counted, and of buffers.

All of it before anything is loaded: from the model's configuration, the rows' lengths and how many cards there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from thinktune.config.schema import Memory, Strategy
from thinktune.distributed.sharding import Spread
from thinktune.model.flops import head_size
from thinktune.model.loss import chunk_rows
from thinktune.optim.adamw import CHUNK, CPU_CHUNK
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.offload import HELD
from thinktune.optim.quantization import EIGHT_BIT_BLOCK, FOUR_BIT_BLOCK
from thinktune.planner.activation_budgets import layers
from thinktune.planner.communication import Buffers, Groups, Shape, buffers, share
from thinktune.planner.hardware import GIB
from thinktune.planner.trace import NOWHERE, Ends, Layer, ends, parameter_shapes, update_bytes

CONTEXT_BYTES = GIB // 2  # what a driver, its kernels and their workspaces take beside our tensors; not yet measured


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
    """Bytes on each card at the worst moment of training, of evaluation and of writing samples, and on the host."""

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
    """What a run asks, known before it: the model's shape, the rows', and the cards' kind, number and arithmetic."""

    config: Any
    device: torch.device  # the CPU, or any other for an accelerator
    fp32: bool  # arithmetic; else bf16
    compiled: bool
    step_tokens: int  # of the largest step, over all cards
    longest: int  # tokens of a row
    learned_share: float
    mean_context: float
    sample_rows: int = 0
    sample_tokens: int = 0  # of a prompt and its reply together
    mixed: bool = False  # weights and states between the layers are fp32, products bf16 by autocast
    ranks: int = 1  # cards, one process each
    per_node: int = 1  # of them on one machine

    @property
    def rank_tokens(self) -> int:
        """Tokens of the largest step on one card: an even share, but no less than a row, which is never cut."""
        even = -(-self.step_tokens // self.ranks)
        return even if self.ranks == 1 else max(even, min(self.longest, self.step_tokens))

    @cached_property
    def groups(self) -> Groups:
        """All parameters as they are exchanged."""
        return parameter_groups(self.config)

    def spread(self, setting: Setting) -> Spread:
        """How a setting spreads weights and states over the cards."""
        return Spread(setting.strategy, self.ranks, self.per_node)

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
        return sum(map(prod, layers)) * self.dtype.itemsize if self.mixed else 0

    @property
    def place(self) -> torch.device:
        """The device that is traced for it; autocast is known on the CPU, and not where there is no memory."""
        return torch.device("cpu") if self.mixed or self.device.type == "cpu" else NOWHERE


def parameter_groups(config: Any) -> Groups:
    """A model's parameters by what is exchanged together, tied ones once, from its configuration alone."""
    with torch.device(NOWHERE):
        model: Any = AutoModelForCausalLM.from_config(config)
    first, *_ = blocks = model.model.layers
    inside = {id(weight) for weight in blocks.parameters()}
    root = [weight for weight in model.parameters() if id(weight) not in inside]
    shapes = [tuple(tuple(weight.shape) for weight in weights) for weights in (root, first.parameters())]
    return Groups(*shapes, depth=len(blocks))


def weights_bytes(shapes: Sequence[Shape], memory: Memory) -> int:
    """Weights, with the remainder of an exact master."""
    return sum(map(prod, shapes)) * (2 if TIERS[memory].weights == "rounded" else 4)


def states_bytes(shapes: Sequence[Shape], memory: Memory) -> tuple[int, int]:
    """Both moments, in bytes on the device and on the host, where pinned memory comes in powers of two."""
    tier = TIERS[memory]
    device = host = 0
    for shape in shapes:
        count = prod(shape)
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


def exchanged(job: Job, setting: Setting) -> Buffers:
    """What exchanging weights and gradients takes on each card; nothing where there is one."""
    if job.ranks == 1:
        return Buffers()
    return buffers(job.groups, job.spread(setting), TIERS[setting.memory].gradient_bytes)


def peaks(job: Job, setting: Setting) -> Peaks:
    """The bytes of a setting at their peak on one card, without what the device's driver takes for itself."""
    tier, config, shards = TIERS[setting.memory], job.config, job.spread(setting).shards
    shapes, extra = [share(shape, shards) for shape in job.shapes], exchanged(job, setting)
    job = job.cast if tier.weights == "fp32" else job
    tokens, depth, chunk = setting.batch_tokens, config.num_hidden_layers, _chunk(job, shapes)
    resident, host = states_bytes(shapes, setting.memory)
    resident += weights_bytes(shapes, setting.memory) + _ferry_bytes(chunk, setting.memory)
    states = config.hidden_size * tokens * job.weights.itemsize  # what goes from one layer to the next
    layer, rest = job.layer(setting.activation_budget), job.ends(tokens, setting.chunk_rows)
    inside = setting.update_in_backward
    gradients = 0 if inside else sum(map(prod, shapes)) * tier.gradient_bytes
    several = job.rank_tokens > tokens
    before = (extra.held or gradients) if several else 0  # of former batches; what copies have yet to sum is fp32
    scratch = _scratch(job, chunk, setting.memory) if setting.memory != "fp32" or inside else 0
    kept = layer.kept.at(tokens) + states
    working, last = layer.backward.at(tokens), rest.last
    if inside:
        working, last = max(working, layer.moving.at(tokens) + scratch), max(last, rest.moving + scratch)
    # A whole layer's gradient is there before any of it is summed; what the trace already has of it counts once.
    working += rest.waiting + extra.layers + extra.head + max(0, extra.gradient - layer.backward.fixed)
    last += extra.head + extra.summing
    first, late = _late(job, extra, gradients, several=several)
    moments = [
        before + extra.entering,
        before + extra.root + depth * kept + max(rest.forward, rest.start) + extra.layers,
        before + extra.root + depth * kept + working,
        before + extra.root + (depth - 1) * kept + working + extra.summing,  # of the layer before
        first + extra.root + kept + working + extra.summing,
        late + extra.root + last,
        late + extra.leaving,
        gradients + (0 if inside else scratch),
    ]
    if job.copies:  # those that the layers do not keep themselves are there while the last layer works
        unkept = job.copies - depth * int(layer.kept.fixed) + extra.root + extra.layers
        moments.append(before + (depth - 1) * kept + unkept + layer.forward.at(tokens))
    evaluate, sample = (each + extra.root + extra.layers for each in _without_gradients(job, setting, rest, states))
    train, evaluate, sample = (int(resident + each) for each in (max(moments), evaluate, sample))
    return Peaks(train, evaluate, sample, host)


def _without_gradients(job: Job, setting: Setting, rest: Ends, states: int) -> tuple[float, float]:
    """What evaluation and writing samples take beside what is always there; `states` go from one layer to the next."""
    config, rows, once = job.config, job.sample_rows * job.sample_tokens, job.recomputed.forward
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size(config) * job.dtype.itemsize * rows
    evaluate = job.copies + once.at(setting.batch_tokens) + 2 * states + rest.forward - _embedding_bytes(job)
    sample = job.copies + cache + once.at(rows) + 3 * 4 * config.vocab_size * job.sample_rows
    sample += config.vocab_size * config.hidden_size * job.dtype.itemsize * job.mixed  # the head's copy
    return evaluate, sample


def _chunk(job: Job, shapes: Sequence[Shape]) -> int:
    return min(max(map(prod, shapes)), CPU_CHUNK if job.device.type == "cpu" else CHUNK)


def _scratch(job: Job, chunk: int, memory: Memory) -> int:
    if job.compiled:
        return FUSED_TEMPORARIES * 4 * chunk
    return _update_bytes("8bit" if TIERS[memory].streamed else memory, job.place, chunk)


_update_bytes = lru_cache(update_bytes)


def _ferry_bytes(chunk: int, memory: Memory) -> int:
    blocks = -(-chunk // EIGHT_BIT_BLOCK)
    return HELD * 2 * blocks * (EIGHT_BIT_BLOCK + 4) if TIERS[memory].streamed else 0


def _embedding_bytes(job: Job) -> int:
    """One gradient of the head or the embedding."""
    return job.config.vocab_size * job.config.hidden_size * job.weights.itemsize


def _late(job: Job, extra: Buffers, gradients: int, *, several: bool) -> tuple[int, int]:
    """What is kept of gradients when the first layer's come, the last but those of the root, and when the root's do.

    The last of `several` batches finds all gradients there and adds to them, or all sums, where copies sum theirs.
    """
    if job.ranks == 1:
        late = max(0, gradients - _embedding_bytes(job))
        return late, late
    again = several and not extra.held
    late = gradients + extra.held - (extra.root_share if gradients and not again else 0)
    first = late - (extra.layer_share if gradients and not again else 0)
    return (first, late) if several else (first - extra.root_sum - extra.layer_sum, late - extra.root_sum)


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()
