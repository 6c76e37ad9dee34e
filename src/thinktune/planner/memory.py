"""Peak memory of a setting on each card, composed of traced layers, counted bytes and communication buffers.

It is predicted before anything is loaded, from the model's configuration, the rows' lengths and the number of cards.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from math import prod
from operator import add

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thinktune.config import MemoryTierName, Strategy
from thinktune.data.batch_shapes import MAX_SIZES
from thinktune.distributed import ParallelDims
from thinktune.model import ModelConfig
from thinktune.model.decoder import decoder_layers
from thinktune.model.loss import PLAIN_LOGITS, LogitTransform, pick_chunk_rows
from thinktune.model.low_precision.float8 import HELD_BYTES_PER_ELEMENT, Scaling, float8_shapes
from thinktune.model.transforms import MAX_GRAPHS
from thinktune.optim import TIERS, MemoryTier
from thinktune.optim.adamw import CHUNK_ELEMENTS, CPU_CHUNK_ELEMENTS
from thinktune.optim.offload import BUFFER_COUNT
from thinktune.optim.quantization import moment_bytes
from thinktune.planner.activation_budgets import Layers, trace_layers
from thinktune.planner.communication import (
    CommunicationBuffers,
    ParameterGroups,
    Shape,
    communication_buffers,
    shard_shape,
)
from thinktune.planner.flops import Operations, count_operations
from thinktune.planner.hardware import GIB
from thinktune.planner.layer_calls import META, layer_kinds, model_without_memory
from thinktune.planner.long_rows import Exchange, inputs_on_device, pinned_bytes
from thinktune.planner.steps import MeanBatches, RunSteps, part_of_step
from thinktune.planner.trace import RootBatch, RootBytes, TracedModel, parameter_shapes, update_bytes

CONTEXT_BYTES = GIB // 2  # of driver, kernels and workspaces, besides our tensors; not yet measured


ATTENTION_BLOCK_ROWS = 128  # of FlashAttention 2's backward pass


@dataclass(frozen=True, slots=True)
class Setting:
    """A plan's decisions; only the memory tier, and clipping inside the backward pass, change what is learned."""

    memory: MemoryTierName
    update_in_backward: bool
    activation_budget: float
    batch_tokens: int
    strategy: Strategy = "replicate"  # the only one for a single card
    chunk_rows: int | None = None  # rows of logits that exist at a time; None: what suits the device
    offload_activations: bool = False  # the budget is then 0, with layer inputs on the host and MLPs in tiles


@dataclass(frozen=True, slots=True)
class MemoryPeaks:
    """Peak bytes on each card in training, in evaluation and while generating samples, and bytes on the host."""

    train: int
    evaluate: int
    sample: int
    host: int

    @property
    def device_bytes(self) -> int:
        """Largest of the three peaks on the card."""
        return max(self.train, self.evaluate, self.sample)


@dataclass(frozen=True)
class Workload:
    """A run as a plan sees it: shape of the model and of the rows, kind and number of cards, and arithmetic."""

    config: ModelConfig
    device: torch.device  # the CPU, or any other for an accelerator
    fp32: bool  # arithmetic in fp32; else in bf16
    compiled: bool
    step_tokens: int  # of the largest step, over all cards
    longest_row_tokens: int
    label_fraction: float
    row_lengths: ArrayLike  # of all rows
    sample_rows: int = 0
    sample_tokens: int = 0  # of a prompt with its reply
    autocast_weights: bool = False  # weights and hidden states are fp32, matrix products bf16 by autocast
    ranks: int = 1  # cards, one process each
    per_node: int = 1  # of them on one machine
    logits: LogitTransform = PLAIN_LOGITS
    steps: RunSteps | None = None  # None: all steps are as large, and their batches full
    context: int = 1  # cards that share the tokens of each batch
    float8: Scaling | None = None  # how products of layers are scaled that are in fp8

    @property
    def groups(self) -> int:
        """Groups of cards, each of which shares the tokens of its batches."""
        return self.ranks // self.context

    @property
    def one_batch_tokens(self) -> int:
        """Tokens of a batch that holds a card's part of any step."""
        return self.steps.one_batch_tokens if self.steps else self.rank_tokens

    @property
    def mean_step_tokens(self) -> float:
        """Tokens of a step's rows, over all cards, in the mean of all steps."""
        return self.steps.mean_tokens if self.steps else self.step_tokens

    def batches(self, capacity: int) -> MeanBatches:
        """Return the batches of a group of cards in a step, in the mean of all steps."""
        if self.steps:
            return self.steps.mean_batches(capacity, self.most_batch_sizes)
        count = -(-self.rank_tokens // capacity)
        return MeanBatches(count, self.rank_tokens / count, self.step_tokens / self.groups / count)

    def batch_rows(self, capacity: int) -> int:
        """Return the most rows of a batch, those of padding included; without known steps twice as many as fit."""
        if self.steps:
            return self.steps.most_rows(capacity) if self.steps.packed else 0
        return -(-2 * capacity // max(1, int(np.asarray(self.row_lengths).mean())))

    @cached_property
    def most_batch_sizes(self) -> int:
        """Sizes that batches of this model may be padded to."""
        return most_batch_sizes(self.config)

    @property
    def rank_tokens(self) -> int:
        """Tokens of the largest step in one group of cards."""
        return part_of_step(self.step_tokens, self.longest_row_tokens, self.groups)

    @cached_property
    def float8_shapes(self) -> list[tuple[int, int]]:
        """Shapes of the layers' matrices whose products are in fp8."""
        return float8_shapes(model_without_memory(self.config)) if self.float8 else []

    def holds_casts(self, setting: Setting) -> bool:
        """Return True if weights are cast to fp8 once a step: where a step has several batches, on one card."""
        return bool(self.float8) and self.ranks == 1 and self.one_batch_tokens > setting.batch_tokens

    def held_cast_bytes(self, setting: Setting) -> int:
        """Return the bytes of casts that are held for a step."""
        return HELD_BYTES_PER_ELEMENT * sum(map(prod, self.float8_shapes)) if self.holds_casts(setting) else 0

    @cached_property
    def parameter_groups(self) -> ParameterGroups:
        """Shapes of the parameters, grouped as FSDP2 groups them."""
        return parameter_groups(self.config)

    def parallel_dims(self, setting: Setting) -> ParallelDims:
        """Return how a setting distributes weights and states over the cards."""
        return ParallelDims(setting.strategy, self.ranks, self.per_node)

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all parameters, tied ones once."""
        return parameter_shapes(self.config)

    @cached_property
    def layers_by_budget(self) -> dict[float, Layers]:
        """Bytes of each layer by activation budget."""
        return trace_layers(
            self.config, self.compute_dtype, self.trace_device, compiled=self.compiled, weight_dtype=self.weight_dtype
        )

    @cached_property
    def _root_bytes(self) -> dict[tuple[int, int | None], RootBytes]:
        return {}

    def root_bytes(self, tokens: int, rows: int | None = None) -> RootBytes:
        """Return the bytes of all but the layers for a batch of `tokens`, with `rows` of logits at a time."""
        if (tokens, rows) not in self._root_bytes:
            labels = max(1, round(tokens * self.label_fraction))
            batch = RootBatch(tokens, labels, rows, self.fused_loss, self.logits)
            self._root_bytes[tokens, rows] = self._traced_model.trace_root(batch)
        return self._root_bytes[tokens, rows]

    @cached_property
    def _traced_model(self) -> TracedModel:
        return TracedModel(self.config, self.compute_dtype, self.trace_device, self.weight_dtype)

    @cached_property
    def operations(self) -> Operations:
        """Operations of a token, and what it keeps in the KV cache."""
        if (found := count_operations(self.config)) is None:
            raise ValueError("its operations cannot be counted")
        return found

    @cached_property
    def flops_per_token(self) -> float:
        """Operations of training per token of the rows, without recomputation."""
        return self.operations.flops_per_token(self.row_lengths)

    @cached_property
    def context_multiplications(self) -> float:
        """Multiplications of a token's attentions, in the mean of the rows."""
        return self.operations.context_multiplications(self.row_lengths)

    @property
    def fused_loss(self) -> bool:
        """True if the softmax of the loss is one kernel: on an accelerator, where layers are compiled, it is, too."""
        return self.compiled and self.device.type != "cpu"

    def chunk_rows(self, memory_bytes: int) -> int:
        """Return how many rows of logits exist at a time on a card with this much memory."""
        return pick_chunk_rows(
            self.trace_device, self.config.vocab_size, self.compute_dtype, memory_bytes, self.fused_loss
        )

    def layers(self, budget: float) -> Layers:
        """Return the bytes of each layer under a budget: the traced budget next above it."""
        return self.layers_by_budget[min(known for known in self.layers_by_budget if known >= budget)]

    @cached_property
    def long_row_layers(self) -> Layers:
        """Bytes of layers that save nothing on the device, and whose MLPs run in tiles."""
        dtypes = {"dtype": self.compute_dtype, "weight_dtype": self.weight_dtype}
        return trace_layers(self.config, device=self.trace_device, compiled=self.compiled, tiled=True, **dtypes)[0.0]

    @cached_property
    def tiled_passes(self) -> Layers:
        """Bytes of passes without gradients, where MLPs run in tiles."""
        dtypes = {"dtype": self.compute_dtype, "weight_dtype": self.weight_dtype}
        return trace_layers(self.config, device=self.trace_device, compiled=False, tiled=True, **dtypes)[0.0]

    def setting_layers(self, setting: Setting) -> Layers:
        """Return the bytes of each layer in a setting."""
        return self.long_row_layers if setting.offload_activations else self.layers(setting.activation_budget)

    @property
    def exchange(self) -> Exchange:
        """What the cards that share a batch's tokens send each other."""
        keys = getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads
        operations = self.operations if self.context > 1 else None
        return Exchange(operations, keys, self.context, self.compute_dtype.itemsize)

    @cached_property
    def recomputed_layers(self) -> Layers:
        """Bytes of layers that save their input only, which is also what a pass without gradients takes."""
        return trace_layers(
            self.config, self.compute_dtype, self.trace_device, compiled=False, weight_dtype=self.weight_dtype
        )[0.0]

    @cached_property
    def over_fp32_weights(self) -> "Workload":
        """This workload over fp32 weights, of which autocast makes copies if the arithmetic is bf16."""
        return self if self.fp32 else replace(self, autocast_weights=True)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of matrix products."""
        return torch.float32 if self.fp32 else torch.bfloat16

    @property
    def weight_dtype(self) -> torch.dtype:
        """Dtype of the weights, and of the hidden states between layers."""
        return torch.float32 if self.autocast_weights else self.compute_dtype

    @property
    def autocast_copies_bytes(self) -> int:
        """Bytes of autocast's copies of the layers' matrices, kept until the forward pass ends."""
        layers = (shape for shape in self.shapes if len(shape) == 2 and shape[0] != self.config.vocab_size)
        return sum(map(prod, layers)) * self.compute_dtype.itemsize if self.autocast_weights else 0

    @property
    def trace_device(self) -> torch.device:
        """Device of the traces: without memory, but the CPU for autocast, which the meta device does not support."""
        return torch.device("cpu") if self.autocast_weights or self.device.type == "cpu" else META


def parameter_groups(config: ModelConfig) -> ParameterGroups:
    """Group the shapes of a model's parameters as FSDP2 does, tied ones once, from its configuration alone."""
    model = model_without_memory(config)
    layers = decoder_layers(model)
    in_layers = {id(weight) for weight in layers.parameters()}
    root = [weight for weight in model.parameters() if id(weight) not in in_layers]
    return ParameterGroups(_shapes(root), tuple(_shapes(layer.parameters()) for layer in layers))


def _shapes(weights: Iterable[Tensor]) -> tuple[Shape, ...]:
    return tuple(tuple(weight.shape) for weight in weights)


def most_batch_sizes(config: ModelConfig) -> int:
    """Return to how many sizes a run pads its batches: each is a graph of each kind of layer, and evaluation has one.

    The compiler makes no more than MAX_GRAPHS of them.
    """
    kinds = len(set(layer_kinds(decoder_layers(model_without_memory(config)))))
    return max(1, min(MAX_SIZES, MAX_GRAPHS // kinds - 1))


def buffers_for(workload: Workload, setting: Setting) -> CommunicationBuffers:
    """Return the communication buffers of a setting on each card; all zero for a single card."""
    if workload.ranks == 1:
        return CommunicationBuffers()
    return communication_buffers(
        workload.parameter_groups, workload.parallel_dims(setting), TIERS[setting.memory].gradient_bytes_per_parameter
    )


def memory_peaks(workload: Workload, setting: Setting) -> MemoryPeaks:
    """Predict the peak bytes of a setting on one card, without those of the device's driver."""
    tier, config, shards = TIERS[setting.memory], workload.config, workload.parallel_dims(setting).shards
    shapes, extra = [shard_shape(shape, shards) for shape in workload.shapes], buffers_for(workload, setting)
    workload = workload.over_fp32_weights if tier.weights == torch.float32 else workload
    tokens, chunk = -(-setting.batch_tokens // workload.context), _update_chunk_elements(workload, shapes)
    resident, host = tier.moments_bytes(shapes)
    resident += tier.weights_bytes(shapes) + _offload_buffer_bytes(chunk, tier) + workload.held_cast_bytes(setting)
    states = config.hidden_size * tokens * workload.weight_dtype.itemsize
    layers, root = workload.setting_layers(setting), workload.root_bytes(tokens, setting.chunk_rows)
    inside = setting.update_in_backward
    gradients = 0 if inside else sum(map(prod, shapes)) * tier.gradient_bytes_per_parameter
    several = workload.one_batch_tokens > setting.batch_tokens
    before = (extra.replica_sums or gradients) if several else 0  # of earlier batches; replicas sum theirs in fp32
    scratch = _update_scratch_bytes(workload, chunk, setting.memory) if inside or not tier.uses_fused_adamw else 0
    last = root.backward_end_peak
    working = [layer.backward.at(tokens) for layer in layers]
    if inside:
        last = max(last, root.gradient_ready + scratch)
        scratches = _layer_scratch_bytes(workload, setting, shards)
        ready = (layer.gradient_ready.at(tokens) + each for layer, each in zip(layers, scratches, strict=True))
        working = list(map(max, working, ready))
    # All gradients of a layer are there before any is reduced; what the trace already has of them counts once.
    around = root.held_during_layers + extra.layer_weights + extra.root_gradient_waiting
    around += workload.exchange.peak_bytes(tokens) + _attention_row_bytes(workload, setting.batch_tokens)
    working = [
        each + around + max(0, extra.layer_gradient - layer.backward.fixed)
        for each, layer in zip(working, layers, strict=True)
    ]
    last += extra.root_gradient_waiting + extra.layer_reduce
    inputs = inputs_on_device([states] * len(layers), offloaded=setting.offload_activations)
    kept = list(map(add, inputs, accumulate(layer.saved.at(tokens) for layer in layers)))  # up to each layer
    host += pinned_bytes([states] * len(layers)) if setting.offload_activations else 0
    in_layers = list(map(add, kept, working))
    first, late = _late_gradient_bytes(workload, extra, gradients, several_batches=several)
    moments = [
        before + extra.root_all_gather,
        before + extra.root_weights + kept[-1] + max(root.forward_peak, root.backward_start_peak) + extra.layer_weights,
        before + extra.root_weights + max(in_layers),
        before + extra.root_weights + max(in_layers[:-1], default=0) + extra.layer_reduce,  # of the layer after it
        first + extra.root_weights + in_layers[0] + extra.layer_reduce,
        late + extra.root_weights + last,
        late + extra.root_reduce,
        gradients + (0 if inside else scratch),
    ]
    if workload.autocast_copies_bytes:  # copies that no layer saves are still there in a layer's forward pass
        unsaved = workload.autocast_copies_bytes - sum(int(layer.saved.fixed) for layer in layers)
        unsaved += extra.root_weights + extra.layer_weights
        forward = (layer.forward.at(tokens) for layer in layers)
        moments.append(before + unsaved + max(map(add, (0, *kept), forward)))
    evaluate, sample = (
        each + extra.root_weights + extra.layer_weights for each in _inference_bytes(workload, setting, root, states)
    )
    train, evaluate, sample = (int(resident + each) for each in (max(moments), evaluate, sample))
    return MemoryPeaks(train, evaluate, sample, host)


def _attention_row_bytes(workload: Workload, tokens: int) -> int:
    """Return what attention's backward pass adds for the rows of a batch: FlashAttention 2 rounds each up by a block.

    It adds up the gradients of queries in fp32, of all tokens (which the trace counts) and of these. Cards that share a
    batch attend to all of it, each with its share of the heads.
    """
    query_elements = max((each.query_elements for each in workload.operations.attentions), default=0) // 2
    query_elements //= workload.context
    return 4 * query_elements * ATTENTION_BLOCK_ROWS * workload.batch_rows(tokens)


def _inference_bytes(workload: Workload, setting: Setting, root: RootBytes, states: int) -> tuple[float, float]:
    """Predict the bytes that evaluation and generation add; `states` are those of a batch's hidden states."""
    config, itemsize = workload.config, workload.compute_dtype.itemsize

    def layer(tokens: int) -> float:
        layers = workload.tiled_passes if setting.offload_activations else workload.recomputed_layers
        return max(each.forward.at(tokens) for each in layers)

    tokens = -(-setting.batch_tokens // workload.context)
    evaluate = workload.autocast_copies_bytes + layer(tokens) + 2 * states
    evaluate += root.forward_peak - _embedding_gradient_bytes(workload)
    tokens = workload.sample_rows * workload.sample_tokens
    kv_cache = workload.operations.kv_elements * itemsize * tokens
    logits = 3 * 4 * config.vocab_size * workload.sample_rows
    head_copy = config.vocab_size * config.hidden_size * itemsize * workload.autocast_weights
    return evaluate, workload.autocast_copies_bytes + kv_cache + layer(tokens) + logits + head_copy


def _update_chunk_elements(workload: Workload, shapes: Sequence[Shape]) -> int:
    return min(max(map(prod, shapes)), CPU_CHUNK_ELEMENTS if workload.device.type == "cpu" else CHUNK_ELEMENTS)


def _update_scratch_bytes(workload: Workload, chunk: int, memory: MemoryTierName) -> int:
    if workload.compiled:
        return 0  # where layers are compiled the update is one kernel, which keeps all in registers
    return _update_bytes(memory, workload.trace_device, chunk)


def _layer_scratch_bytes(workload: Workload, setting: Setting, shards: int) -> list[int]:
    """Return what the update of each layer's largest weight takes; the embedding may be larger than all of them."""
    groups = workload.parameter_groups.layers
    chunks = (_update_chunk_elements(workload, [shard_shape(shape, shards) for shape in shapes]) for shapes in groups)
    return [_update_scratch_bytes(workload, chunk, setting.memory) for chunk in chunks]


_update_bytes = lru_cache(update_bytes)


def _offload_buffer_bytes(chunk: int, tier: MemoryTier) -> int:
    return BUFFER_COUNT * 2 * sum(moment_bytes(tier.moments, chunk)) if tier.offloaded else 0


def _embedding_gradient_bytes(workload: Workload) -> int:
    """Return the bytes of the gradient of the head or of the embedding."""
    return workload.config.vocab_size * workload.config.hidden_size * workload.weight_dtype.itemsize


def _late_gradient_bytes(
    workload: Workload, extra: CommunicationBuffers, gradients: int, *, several_batches: bool
) -> tuple[int, int]:
    """Return the gradient bytes live when the first layer's, and then the root's, gradients arrive.

    The last of several batches adds to gradients that are all there; where replicas sum theirs, all sums are.
    """
    if workload.ranks == 1:
        late = max(0, gradients - _embedding_gradient_bytes(workload))
        return late, late
    accumulates = several_batches and not extra.replica_sums
    late = gradients + extra.replica_sums - (extra.root_gradient_shard if gradients and not accumulates else 0)
    first = late - (extra.layer_gradient_shard if gradients and not accumulates else 0)
    if several_batches:
        return first, late
    return first - extra.root_replica_sum - extra.layer_replica_sum, late - extra.root_replica_sum
