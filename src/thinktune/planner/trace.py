"""Memory of one layer, of the root and of an update, traced on fake tensors; nothing is computed.

Storages are counted as operations allocate them, on a device without memory, so no figure here needs a card. What cards
add by themselves (a context, rounded sizes) is not counted.
"""

import math
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thinktune.config import MemoryTierName, TrainConfig
from thinktune.model import CausalLM, ModelConfig
from thinktune.model.decoder import decoder_layers
from thinktune.model.forward import autocast
from thinktune.model.loss import PLAIN_LOGITS, LogitChunks, LogitTransform, linear_cross_entropy
from thinktune.model.transforms import apply_activation_budget
from thinktune.optim import Optimizer
from thinktune.planner.layer_calls import (
    TRACE_ATTENTION,
    LayerCall,
    capture_layer_calls,
    fake_mode,
    kernels_without_memory,
    layer_kinds,
    model_without_memory,
    replaced_forwards,
    run_decoder,
    token_inputs,
)

EAGER_RECOMPUTE_FACTOR = 1.25  # of a layer's products, where its whole forward pass but the last product runs again


class LiveBytes(TorchDispatchMode):
    """Bytes of live storages on a device, their peak, and bytes on the host, counted as operations allocate them."""

    def __init__(self, device: torch.device, there_already: Any = None) -> None:
        super().__init__()
        self.current_bytes = self.peak_bytes = self.host_bytes = 0
        self._device, self._seen_storages = device, set[int]()
        for tensor in tree_leaves(there_already.state_dict(keep_vars=True)) if there_already else ():
            self._seen_storages.add(tensor.untyped_storage()._cdata)  # pyright: ignore[reportPrivateUsage]

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
    backward pass. For speed: the products of both passes over those without recomputation, what all other kernels but
    attention read and write for a token, and how often attention's forward pass runs.
    """

    saved: LinearBytes
    forward: LinearBytes
    backward: LinearBytes
    gradient_ready: LinearBytes
    recompute_factor: float = 1.0
    elementwise_bytes: float = 0.0
    attention_runs: float = 1.0


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


@dataclass(frozen=True, slots=True)
class RootBatch:
    """A batch as the root sees it, and how its loss is computed: the options of `linear_cross_entropy`."""

    tokens: int
    label_tokens: int
    chunk_rows: int | None = None
    fused: bool | None = None
    logits: LogitTransform = PLAIN_LOGITS


class TracedModel:
    """A model without memory whose parts are traced: `weight_dtype` of its weights, `dtype` of its arithmetic.

    If they differ, products are autocast, and the copies of the weights that autocast makes count.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, weight_dtype: torch.dtype | None = None
    ) -> None:
        self.dtype, self.device, self.mode = dtype, device, fake_mode()
        with self.mode:
            self.model = model_without_memory(config, weight_dtype or dtype, device, TRACE_ATTENTION).train()
        self.layers = decoder_layers(self.model)
        self.kinds = layer_kinds(self.layers)  # for each layer the index of the first layer of its kind

    @contextmanager
    def live_bytes(self) -> Generator[LiveBytes]:
        """Count live bytes without those of the weights, which are there all the time."""
        with self.mode, kernels_without_memory(), LiveBytes(self.device, self.model) as live:
            yield live

    def capture_calls(self, tokens: int) -> dict[int, LayerCall]:
        """Return the call of the first layer of each kind, by its index, in a forward pass of one row."""
        with self.mode, autocast(self.model, self.dtype):
            return capture_layer_calls(self.model, tokens, self.device)

    def trace_layers(self, *, recompute: bool) -> dict[int, LayerBytes]:
        """Trace the first layer of each kind, by its index, without a compiler, each gradient dropped once complete.

        With `recompute` a layer saves its input only.
        """
        if recompute:
            apply_activation_budget(self.model, 0.0, compiled=False)
        near, far = (self._trace_layers_at(tokens) for tokens in (512, 1024))
        for layer in self.layers if recompute else ():
            layer.gradient_checkpointing = False
        return {
            index: LayerBytes(
                *(_fit_line(512, small, 1024, large) for small, large in zip(near[index], far[index], strict=True)),
                recompute_factor=EAGER_RECOMPUTE_FACTOR if recompute else 1.0,
                attention_runs=2.0 if recompute else 1.0,
            )
            for index in near
        }

    def _trace_layers_at(self, tokens: int) -> dict[int, tuple[int, int, int, int]]:
        with self.live_bytes() as live:
            calls = self.capture_calls(tokens)
            return {index: self._trace_layer(call, live) for index, call in calls.items()}

    def _trace_layer(self, call: LayerCall, live: LiveBytes) -> tuple[int, int, int, int]:
        """Trace both passes of a layer; bytes as the fields of LayerBytes are."""
        states = call.hidden_states
        with _dropped_gradients(self.model, live) as gradients_ready:
            inputs = torch.empty(states.shape, dtype=states.dtype, device=self.device, requires_grad=True)
            before = live.reset_peak()
            with autocast(self.model, self.dtype):
                outputs = call.run(inputs)
            size = outputs.numel() * outputs.element_size()
            saved, forward = live.current_bytes - before - size, live.peak_bytes - before
            gradient = torch.empty_like(outputs)
            before = live.reset_peak()
            outputs.backward(gradient)
            return saved, forward, live.peak_bytes - before, max(gradients_ready, default=before) - before

    def trace_root(self, batch: RootBatch) -> RootBytes:
        """Trace all but the layers, which pass on what they are given."""
        marks: list[int] = []
        calls = self._small_calls

        def mark(gradient: Tensor) -> Tensor:
            marks.extend((live.peak_bytes, live.current_bytes))
            live.reset_peak()
            return gradient

        with self.live_bytes() as live, _dropped_gradients(self.model, live) as gradients_ready:
            inputs = token_inputs(batch.tokens, self.device)
            targets = torch.empty(batch.label_tokens, dtype=torch.int64, device=self.device)
            before = live.reset_peak()
            states, handed_on = self._run_without_layers(inputs, calls, mark)
            hidden = states[0].index_select(0, targets)
            del states
            weight, chunks = self.model.get_output_embeddings().weight, LogitChunks(batch.chunk_rows, batch.fused)
            loss, each = linear_cross_entropy(
                hidden, weight, targets, scale=1.0, dtype=self.dtype, chunks=chunks, transform=batch.logits
            )
            del hidden
            forward = live.peak_bytes
            live.reset_peak()
            loss.backward()
            del handed_on, each
            moments = forward, *marks[:2], live.peak_bytes, gradients_ready[-1]
            return RootBytes(*(live_bytes - before for live_bytes in moments))

    def _run_without_layers(
        self, inputs: tuple[Tensor, Tensor], calls: dict[int, LayerCall], mark: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, list[Any]]:
        """Run the decoder with layers that do nothing; return its states, and what layers are handed beside them.

        `mark` is called with the gradient of the first layer's input.
        """
        handed_on: list[Any] = []

        def make(index: int, _: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*arguments: Any, **options: Any) -> Any:
                states = arguments[0] if arguments else options["hidden_states"]
                if not index:
                    states.register_hook(mark)
                    handed_on.append(states)  # for the last layer's output, which the norm is given in its place
                handed_on.append((arguments[1:], options))
                others = [part for part in tree_leaves((arguments, options)) if part is not states]
                learned = [part for part in others if isinstance(part, Tensor) and part.requires_grad]
                passed: Any = _PassOn.apply(states, *learned) if learned else states
                rest = calls[self.kinds[index]].rest
                return passed if rest is None else (passed, *rest)

            return forward

        with replaced_forwards(self.layers, make):
            return run_decoder(self.model, *inputs), handed_on

    @cached_property
    def _small_calls(self) -> dict[int, LayerCall]:
        with torch.no_grad():
            return self.capture_calls(8)


class _PassOn(torch.autograd.Function):
    """Hidden states as they are, with a gradient for all else that a layer is handed and learns through."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, *learned: Tensor) -> Tensor:
        ctx.save_for_backward(*learned)
        return states.view_as(states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient, *(torch.empty_like(each) for each in ctx.saved_tensors)


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


def parameter_shapes(config: ModelConfig) -> list[tuple[int, ...]]:
    """List the shapes of a model's parameters, tied ones once, from its configuration alone."""
    return [tuple(weight.shape) for weight in model_without_memory(config).parameters()]


def parameter_count(config: ModelConfig) -> int:
    """Count a model's parameters, tied ones once, from its configuration alone."""
    return sum(map(math.prod, parameter_shapes(config)))


@contextmanager
def _dropped_gradients(model: CausalLM, live: LiveBytes) -> Generator[list[int]]:
    """Drop each gradient once it is complete; the list gets the bytes live at each of these moments."""
    found: list[int] = []

    def drop(weight: Tensor) -> None:
        found.append(live.current_bytes)
        weight.grad = None

    hooks = [weight.register_post_accumulate_grad_hook(drop) for weight in model.parameters()]
    yield found
    for hook in hooks:
        hook.remove()


def _fit_line(near: int, small: float, far: int, large: float) -> LinearBytes:
    slope = (large - small) / (far - near)
    return LinearBytes(large - slope * far, slope)
