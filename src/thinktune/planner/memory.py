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

from thinktune.config import MemoryTierName, Strategy
from thinktune.distributed import ParallelDims
from thinktune.model.flops import head_dim
from thinktune.model.loss import pick_chunk_rows
from thinktune.optim import TIERS, MemoryTier
from thinktune.optim.adamw import CHUNK_ELEMENTS, CPU_CHUNK_ELEMENTS
from thinktune.optim.offload import BUFFER_COUNT
from thinktune.optim.quantization import moment_bytes
from thinktune.planner.activation_budgets import trace_layers
from thinktune.planner.communication import (
    CommunicationBuffers,
    ParameterGroups,
    Shape,
    communication_buffers,
    shard_shape,
)
from thinktune.planner.hardware import GIB
from thinktune.planner.trace import META, LayerBytes, RootBytes, parameter_shapes, trace_root, update_bytes

CONTEXT_BYTES = GIB // 2  # what a driver, its kernels and their workspaces take beside our tensors; not yet measured


FUSED_UPDATE_TEMPORARIES = 4  # fp32 ones of a chunk, where an update is compiled


@dataclass(frozen=True, slots=True)
class Setting:
    """What a plan decides: none of it changes what is learned but the memory tier, and clipping in the backward."""

    memory: MemoryTierName
    update_in_backward: bool
    activation_budget: float
    batch_tokens: int
    strategy: Strategy = "replicate"  # of many cards; one card has only this
    chunk_rows: int | None = None  # of logits that exist at a time; none means what suits the device


@dataclass(frozen=True, slots=True)
class MemoryPeaks:
    """Bytes on each card at the worst moment of training, of evaluation and of writing samples, and on the host."""

    train: int
    evaluate: int
    sample: int
    host: int

    @property
    def device_bytes(self) -> int:
        """Of the three on the card."""
        return max(self.train, self.evaluate, self.sample)


@dataclass(frozen=True)
class Workload:
    """What a run asks, known before it: the model's shape, the rows', and the cards' kind, number and arithmetic."""

    config: Any
    device: torch.device  # the CPU, or any other for an accelerator
    fp32: bool  # arithmetic; else bf16
    compiled: bool
    step_tokens: int  # of the largest step, over all cards
    longest_row_tokens: int  # tokens of a row
    label_fraction: float
    mean_context_tokens: float
    sample_rows: int = 0
    sample_tokens: int = 0  # of a prompt and its reply together
    autocast_weights: bool = False  # weights and states between the layers are fp32, products bf16 by autocast
    ranks: int = 1  # cards, one process each
    per_node: int = 1  # of them on one machine

    @property
    def rank_tokens(self) -> int:
        """Tokens of the largest step on one card: an even share, but no less than a row, which is never cut."""
        even = -(-self.step_tokens // self.ranks)
        return even if self.ranks == 1 else max(even, min(self.longest_row_tokens, self.step_tokens))

    @cached_property
    def parameter_groups(self) -> ParameterGroups:
        """All parameters as they are exchanged."""
        return parameter_groups(self.config)

    def parallel_dims(self, setting: Setting) -> ParallelDims:
        """How a setting spreads weights and states over the cards."""
        return ParallelDims(setting.strategy, self.ranks, self.per_node)

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of all parameters, tied ones once."""
        return parameter_shapes(self.config)

    @cached_property
    def layers_by_budget(self) -> dict[float, LayerBytes]:
        """One layer under each activation budget."""
        return trace_layers(
            self.config, self.compute_dtype, self.trace_device, compiled=self.compiled, weight_dtype=self.weight_dtype
        )

    @cached_property
    def _root_bytes(self) -> dict[tuple[int, int | None], RootBytes]:
        return {}

    def root_bytes(self, tokens: int, rows: int | None = None) -> RootBytes:
        """All but the layers, of a batch of so many tokens, with so many rows of logits at a time."""
        if (tokens, rows) not in self._root_bytes:
            learned = max(1, round(tokens * self.label_fraction))
            facts = self.config, self.compute_dtype, self.trace_device, tokens, learned
            self._root_bytes[tokens, rows] = trace_root(*facts, rows, self.fused_loss, self.weight_dtype)
        return self._root_bytes[tokens, rows]

    @property
    def fused_loss(self) -> bool:
        """Whether the softmax of the loss is one kernel: where layers are compiled, it is, too."""
        return self.compiled and self.device.type != "cpu"

    def chunk_rows(self, memory_bytes: int) -> int:
        """How many rows of logits exist at a time on a card of so much memory."""
        return pick_chunk_rows(
            self.trace_device, self.config.vocab_size, self.compute_dtype, memory_bytes, self.fused_loss
        )

    def layer(self, budget: float) -> LayerBytes:
        """One layer under a budget: of those that were traced, the next that keeps no less."""
        return self.layers_by_budget[min(known for known in self.layers_by_budget if known >= budget)]

    @cached_property
    def recomputed_layer(self) -> LayerBytes:
        """A layer that keeps its input alone: what a pass without gradients takes, too."""
        return trace_layers(
            self.config, self.compute_dtype, self.trace_device, compiled=False, weight_dtype=self.weight_dtype
        )[0.0]

    @cached_property
    def over_fp32_weights(self) -> "Workload":
        """The same over fp32 weights; in bf16 arithmetic autocast makes copies of them."""
        return self if self.fp32 else replace(self, autocast_weights=True)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the arithmetic."""
        return torch.float32 if self.fp32 else torch.bfloat16

    @property
    def weight_dtype(self) -> torch.dtype:
        """Of the weights, and of what goes from one layer to the next."""
        return torch.float32 if self.autocast_weights else self.compute_dtype

    @property
    def autocast_copies_bytes(self) -> int:
        """Bytes of the layers' matrices as autocast copies them, kept until the forward pass is over."""
        layers = (shape for shape in self.shapes if len(shape) == 2 and shape[0] != self.config.vocab_size)
        return sum(map(prod, layers)) * self.compute_dtype.itemsize if self.autocast_weights else 0

    @property
    def trace_device(self) -> torch.device:
        """The device that is traced for it; autocast is known on the CPU, and not where there is no memory."""
        return torch.device("cpu") if self.autocast_weights or self.device.type == "cpu" else META


def parameter_groups(config: Any) -> ParameterGroups:
    """A model's parameters by what is exchanged together, tied ones once, from its configuration alone."""
    with torch.device(META):
        model: Any = AutoModelForCausalLM.from_config(config)
    first, *_ = blocks = model.model.layers
    inside = {id(weight) for weight in blocks.parameters()}
    root = [weight for weight in model.parameters() if id(weight) not in inside]
    shapes = [tuple(tuple(weight.shape) for weight in weights) for weights in (root, first.parameters())]
    return ParameterGroups(*shapes, num_layers=len(blocks))


def buffers_for(workload: Workload, setting: Setting) -> CommunicationBuffers:
    """What exchanging weights and gradients takes on each card; nothing where there is one."""
    if workload.ranks == 1:
        return CommunicationBuffers()
    return communication_buffers(
        workload.parameter_groups, workload.parallel_dims(setting), TIERS[setting.memory].gradient_bytes_per_parameter
    )


def memory_peaks(workload: Workload, setting: Setting) -> MemoryPeaks:
    """The bytes of a setting at their peak on one card, without what the device's driver takes for itself."""
    tier, config, shards = TIERS[setting.memory], workload.config, workload.parallel_dims(setting).shards
    shapes, extra = [shard_shape(shape, shards) for shape in workload.shapes], buffers_for(workload, setting)
    workload = workload.over_fp32_weights if tier.weights == torch.float32 else workload
    tokens, depth, chunk = setting.batch_tokens, config.num_hidden_layers, _update_chunk_elements(workload, shapes)
    resident, host = tier.moments_bytes(shapes)
    resident += tier.weights_bytes(shapes) + _offload_buffer_bytes(chunk, tier)
    states = config.hidden_size * tokens * workload.weight_dtype.itemsize  # what goes from one layer to the next
    layer, rest = workload.layer(setting.activation_budget), workload.root_bytes(tokens, setting.chunk_rows)
    inside = setting.update_in_backward
    gradients = 0 if inside else sum(map(prod, shapes)) * tier.gradient_bytes_per_parameter
    several = workload.rank_tokens > tokens
    before = (
        (extra.replica_sums or gradients) if several else 0
    )  # of former batches; what copies have yet to sum is fp32
    scratch = _update_scratch_bytes(workload, chunk, setting.memory) if inside or not tier.uses_fused_adamw else 0
    kept = layer.saved.at(tokens) + states
    working, last = layer.backward.at(tokens), rest.backward_end_peak
    if inside:
        working, last = (
            max(working, layer.gradient_ready.at(tokens) + scratch),
            max(last, rest.gradient_ready + scratch),
        )
    # A whole layer's gradient is there before any of it is summed; what the trace already has of it counts once.
    working += (
        rest.held_during_layers
        + extra.layer_weights
        + extra.root_gradient_waiting
        + max(0, extra.layer_gradient - layer.backward.fixed)
    )
    last += extra.root_gradient_waiting + extra.layer_reduce
    first, late = _late_gradient_bytes(workload, extra, gradients, several_batches=several)
    moments = [
        before + extra.root_all_gather,
        before
        + extra.root_weights
        + depth * kept
        + max(rest.forward_peak, rest.backward_start_peak)
        + extra.layer_weights,
        before + extra.root_weights + depth * kept + working,
        before + extra.root_weights + (depth - 1) * kept + working + extra.layer_reduce,  # of the layer before
        first + extra.root_weights + kept + working + extra.layer_reduce,
        late + extra.root_weights + last,
        late + extra.root_reduce,
        gradients + (0 if inside else scratch),
    ]
    if (
        workload.autocast_copies_bytes
    ):  # those that the layers do not keep themselves are there while the last layer works
        unkept = (
            workload.autocast_copies_bytes - depth * int(layer.saved.fixed) + extra.root_weights + extra.layer_weights
        )
        moments.append(before + (depth - 1) * kept + unkept + layer.forward.at(tokens))
    evaluate, sample = (
        each + extra.root_weights + extra.layer_weights for each in _inference_bytes(workload, setting, rest, states)
    )
    train, evaluate, sample = (int(resident + each) for each in (max(moments), evaluate, sample))
    return MemoryPeaks(train, evaluate, sample, host)


def _inference_bytes(workload: Workload, setting: Setting, rest: RootBytes, states: int) -> tuple[float, float]:
    """What evaluation and writing samples take beside what is always there; `states` go from one layer to the next."""
    config, rows, once = (
        workload.config,
        workload.sample_rows * workload.sample_tokens,
        workload.recomputed_layer.forward,
    )
    cache = (
        2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * head_dim(config)
        * workload.compute_dtype.itemsize
        * rows
    )
    evaluate = (
        workload.autocast_copies_bytes
        + once.at(setting.batch_tokens)
        + 2 * states
        + rest.forward_peak
        - _embedding_gradient_bytes(workload)
    )
    sample = workload.autocast_copies_bytes + cache + once.at(rows) + 3 * 4 * config.vocab_size * workload.sample_rows
    sample += (
        config.vocab_size * config.hidden_size * workload.compute_dtype.itemsize * workload.autocast_weights
    )  # the head's copy
    return evaluate, sample


def _update_chunk_elements(workload: Workload, shapes: Sequence[Shape]) -> int:
    return min(max(map(prod, shapes)), CPU_CHUNK_ELEMENTS if workload.device.type == "cpu" else CHUNK_ELEMENTS)


def _update_scratch_bytes(workload: Workload, chunk: int, memory: MemoryTierName) -> int:
    if workload.compiled:
        return FUSED_UPDATE_TEMPORARIES * 4 * chunk
    return _update_bytes(memory, workload.trace_device, chunk)


_update_bytes = lru_cache(update_bytes)


def _offload_buffer_bytes(chunk: int, tier: MemoryTier) -> int:
    return BUFFER_COUNT * 2 * sum(moment_bytes(tier.moments, chunk)) if tier.offloaded else 0


def _embedding_gradient_bytes(workload: Workload) -> int:
    """One gradient of the head or the embedding."""
    return workload.config.vocab_size * workload.config.hidden_size * workload.weight_dtype.itemsize


def _late_gradient_bytes(
    workload: Workload, extra: CommunicationBuffers, gradients: int, *, several_batches: bool
) -> tuple[int, int]:
    """What is kept of gradients when the first layer's come, the last but those of the root, and when the root's do.

    The last of `several_batches` batches finds all gradients there and adds to them, or all sums, where copies sum theirs.
    """
    if workload.ranks == 1:
        late = max(0, gradients - _embedding_gradient_bytes(workload))
        return late, late
    again = several_batches and not extra.replica_sums
    late = gradients + extra.replica_sums - (extra.root_gradient_shard if gradients and not again else 0)
    first = late - (extra.layer_gradient_shard if gradients and not again else 0)
    return (
        (first, late)
        if several_batches
        else (first - extra.root_replica_sum - extra.layer_replica_sum, late - extra.root_replica_sum)
    )
