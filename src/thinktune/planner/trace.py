"""Memory of one layer, of the root and of an update, traced on fake tensors; nothing is computed.

Storages are counted as operations allocate them, on a device without memory, so no figure here needs a card. What cards
add by themselves (a context, rounded sizes) is not counted.
"""

import copy
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM

from thinktune.config import MemoryTierName, TrainConfig
from thinktune.library_output import captured_output
from thinktune.model import CausalLM, ModelConfig
from thinktune.model.decoder import decoder_layers
from thinktune.model.flops import head_dim
from thinktune.model.forward import autocast
from thinktune.model.loss import LogitChunks, linear_cross_entropy
from thinktune.model.transforms import apply_activation_budget
from thinktune.optim import Optimizer

TRACE_ATTENTION = "thinktune_counted"


def register_trace_attention() -> None:
    """Register the stand-in attention with transformers, under the name TRACE_ATTENTION."""
    AttentionInterface.register(TRACE_ATTENTION, _attention)
    no_mask: Callable[..., Any] = _no_mask
    AttentionMaskInterface.register(TRACE_ATTENTION, no_mask)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Allocate what a forward attention kernel does: the output, and an fp32 number for each token and head."""
    return torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)


def _attend_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate what a backward attention kernel does: the gradients of query, key and value."""
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


attend = torch.library.custom_op("thinktune::attend", _attend, mutates_args=())


attend_backward = torch.library.custom_op("thinktune::attend_backward", _attend_backward, mutates_args=())


attend.register_fake(_attend)


attend_backward.register_fake(_attend_backward)


def _setup_context(ctx: Any, inputs: Sequence[Tensor], output: Sequence[Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return attend_backward(gradient, *ctx.saved_tensors)


attend.register_autograd(_backward, setup_context=_setup_context)


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    # As kernels take them: under autocast, norms make queries and keys fp32 again.
    return attend(*(part.transpose(1, 2).contiguous().to(value.dtype) for part in (query, key, value)))[0], None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


META = torch.device("meta")


class LiveBytes(TorchDispatchMode):
    """Bytes of live storages on a device, their peak, and bytes on the host, counted as operations allocate them."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.current_bytes = self.peak_bytes = self.host_bytes = 0
        self._device, self._seen_storages = device, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def reset_peak(self) -> int:
        """Start a new peak at the bytes that are live now, and return them."""
        self.peak_bytes = self.current_bytes
        return self.current_bytes

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if (pointer := storage._cdata) in self._seen_storages:  # pyright: ignore[reportPrivateUsage]
            return
        size, on_device = storage.nbytes(), tensor.device.type == self._device.type
        self._seen_storages.add(pointer)
        weakref.finalize(storage, self._release, pointer, size, on_device)
        if on_device:
            self.current_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.current_bytes)
        else:
            self.host_bytes += size

    def _release(self, pointer: int, size: int, on_device: bool) -> None:
        self._seen_storages.discard(pointer)
        self.current_bytes -= size * on_device
        self.host_bytes -= size * (not on_device)


@dataclass(frozen=True, slots=True)
class LinearBytes:
    """Bytes as a linear function of tokens."""

    fixed: float
    per_token: float

    def at(self, tokens: float) -> float:
        """Return the bytes for a number of tokens."""
        return self.fixed + self.per_token * tokens


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Bytes of one decoder layer: saved for the backward pass besides its input, and added by each pass at its peak.

    `gradient_ready` is the most that is live when a weight's gradient is complete, the moment of an update inside the
    backward pass. `recompute_factor` is the operations of both passes over those without recomputation.
    """

    saved: LinearBytes
    forward: LinearBytes
    backward: LinearBytes
    gradient_ready: LinearBytes
    recompute_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class RootBytes:
    """Bytes of embedding, last norm, head and loss for one batch size, at five moments.

    At the peak of the forward pass, at the peak of the backward pass before the layers, held during the layers, at the
    peak after the layers, and when the last gradient is complete.
    """

    forward_peak: int
    backward_start_peak: int
    held_during_layers: int
    backward_end_peak: int
    gradient_ready: int


def trace_layer(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    recompute: bool,
    weight_dtype: torch.dtype | None = None,
) -> LayerBytes:
    """Trace one layer without a compiler, each gradient dropped once complete; `recompute` saves its input only.

    If `weight_dtype` is not `dtype`, products are autocast, and the copies of the weights that autocast makes count.
    """
    dtypes = dtype, weight_dtype or dtype
    near, far = (_trace_layer_bytes(config, dtypes, device, tokens, recompute=recompute) for tokens in (512, 1024))
    lines = [_fit_line(512, small, 1024, large) for small, large in zip(near, far, strict=True)]
    return LayerBytes(*lines, recompute_factor=1.25 if recompute else 1.0)


@dataclass(frozen=True, slots=True)
class RootBatch:
    """A batch as the root sees it, and how its loss is computed: `chunk_rows` and `fused` of `linear_cross_entropy`."""

    tokens: int
    label_tokens: int
    chunk_rows: int | None = None
    fused: bool | None = None


def trace_root(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    batch: RootBatch,
    weight_dtype: torch.dtype | None = None,
) -> RootBytes:
    """Trace all but the layers, on a model without layers; `weight_dtype` is `dtype` by default."""
    marks: list[int] = []

    def mark(gradient: Tensor) -> Tensor:
        marks.extend((live.peak_bytes, live.current_bytes))
        live.reset_peak()
        return gradient

    with FakeTensorMode(), LiveBytes(device) as live:
        kept = weight_dtype or dtype
        model = traced_model(with_changes(config, num_hidden_layers=0, layer_types=[]), kept, device)
        gradients_ready = _drop_gradients(model, live)
        sizes = batch.tokens, batch.label_tokens
        ids, targets = (torch.empty(size, dtype=torch.int64, device=device) for size in sizes)
        before = live.reset_peak()
        embedded = model.model.embed_tokens(ids)
        embedded.register_hook(mark)
        angles = rotary_embeddings(config, batch.tokens, kept, device)
        hidden = model.model.norm(embedded).index_select(0, targets)
        weight, chunks = model.get_output_embeddings().weight, LogitChunks(batch.chunk_rows, batch.fused)
        loss, each = linear_cross_entropy(hidden, weight, targets, scale=1.0, dtype=dtype, chunks=chunks)
        del hidden
        forward = live.peak_bytes
        live.reset_peak()
        loss.backward()
        del angles, each
        moments = forward, *marks[:2], live.peak_bytes, gradients_ready[-1]
        return RootBytes(*(live_bytes - before for live_bytes in moments))


def update_bytes(memory: MemoryTierName, device: torch.device, chunk_elements: int) -> int:
    """Trace an uncompiled update of `chunk_elements` weights: bytes besides weights, states and gradient."""
    with FakeTensorMode(), LiveBytes(device) as live:
        model = torch.nn.Linear(chunk_elements, 1, bias=False, device=device)
        optimizer = Optimizer(model, TrainConfig(rows_per_step=1, memory=memory, update_in_backward=True))
        optimizer.begin_step(1, 1e-5)
        inputs = torch.empty(chunk_elements, dtype=model.weight.dtype, device=device)
        before = live.reset_peak()
        model(inputs).backward()
        return live.peak_bytes - before - model.weight.numel() * model.weight.element_size()


def model_without_memory(config: ModelConfig) -> CausalLM:
    """Build the model of a configuration on the meta device."""
    with torch.device(META), captured_output():
        model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model


def parameter_shapes(config: ModelConfig) -> list[tuple[int, ...]]:
    """List the shapes of a model's parameters, tied ones once, from its configuration alone."""
    return [tuple(weight.shape) for weight in model_without_memory(config).parameters()]


def rotary_embeddings(
    config: ModelConfig, tokens: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Allocate stand-ins for the rotary embeddings (1, tokens, head dimension) of a row: cosines and sines."""
    cosines, sines = (torch.empty(1, tokens, head_dim(config), dtype=dtype, device=device) for _ in range(2))
    return cosines, sines


def one_layer_model(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> CausalLM:
    """Build a model of this shape with one layer and hardly any vocabulary."""
    small = with_changes(config, num_hidden_layers=1, layer_types=["full_attention"], vocab_size=64, pad_token_id=None)
    return traced_model(small, dtype, device)


def traced_model(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> CausalLM:
    """Build the model of a configuration for a trace, with the stand-in attention."""
    register_trace_attention()
    config = with_changes(config, _attn_implementation=TRACE_ATTENTION)
    with torch.device(device), captured_output():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=TRACE_ATTENTION)
    return model.train()


def _trace_layer_bytes(
    config: ModelConfig, dtypes: tuple[torch.dtype, torch.dtype], device: torch.device, tokens: int, *, recompute: bool
) -> tuple[int, int, int, int]:
    """Trace both passes of a layer; bytes as the fields of LayerBytes are."""
    dtype, weight_dtype = dtypes
    with FakeTensorMode(), LiveBytes(device) as live:
        model = one_layer_model(config, weight_dtype, device)
        if recompute:
            apply_activation_budget(model, 0.0, compiled=False)
        gradients_ready = _drop_gradients(model, live)
        inputs = torch.empty(1, tokens, config.hidden_size, dtype=weight_dtype, device=device, requires_grad=True)
        angles = rotary_embeddings(config, tokens, weight_dtype, device)
        before = live.reset_peak()
        with autocast(model, dtype):
            outputs = decoder_layers(model)[0](inputs, attention_mask=None, position_embeddings=angles)
        size = outputs.numel() * outputs.element_size()
        saved, forward = live.current_bytes - before - size, live.peak_bytes - before
        gradient = torch.empty_like(outputs)
        before = live.reset_peak()
        outputs.backward(gradient)
        return saved, forward, live.peak_bytes - before, max(gradients_ready) - before


def with_changes(config: ModelConfig, **changes: Any) -> ModelConfig:
    """Return a copy of a configuration with some values changed."""
    changed = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _drop_gradients(model: CausalLM, live: LiveBytes) -> list[int]:
    """Drop each gradient once it is complete; the list returned gets the bytes live at each of these moments."""
    found: list[int] = []

    def drop(weight: Tensor) -> None:
        found.append(live.current_bytes)
        weight.grad = None

    for weight in model.parameters():
        weight.register_post_accumulate_grad_hook(drop)
    return found


def _fit_line(near: int, small: float, far: int, large: float) -> LinearBytes:
    slope = (large - small) / (far - near)
    return LinearBytes(large - slope * far, slope)
