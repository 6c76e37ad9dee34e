"""Inputs of the decoder layers, in host memory from the forward to the backward pass, copied while layers compute."""

import weakref
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from thinktune.errors import UserError
from thinktune.model.decoder import decoder_layers
from thinktune.model.protocols import CausalLM

LEAVING_INPUTS = 2  # on the device while they are copied to the host; the last ones of a pass never leave it


class OffloadedInput:
    """A layer's input: on the device until it is copied to the host, and there again before it is needed."""

    def __init__(self, tensor: Tensor, on_host: Tensor, previous: "OffloadedInput | None") -> None:
        self.on_device: Tensor | None = tensor
        self.on_host = on_host
        self.copied: Any = None  # the event after the copy under way, in either direction; None on the CPU
        self.previous = previous  # that of the layer before, which the backward pass needs next

    def wait(self) -> None:
        """Let what computes from here on wait for the copy under way."""
        if self.copied is not None:
            torch.accelerator.current_stream().wait_event(self.copied)
            self.copied = None

    def release(self) -> None:
        """Let go of the tensor on the device, whose memory the current stream may use from here on."""
        self.wait()
        self.on_device = None

    def __del__(self) -> None:
        self.wait()  # of a pass that never came to its backward pass: the copy still uses the memory


_View = tuple[OffloadedInput, torch.Size, tuple[int, ...], int]  # a layer may save its input in another shape


class ActivationOffloader:
    """Copies of layer inputs to the host and back, on two streams of their own.

    The device never holds more than the `LEAVING_INPUTS` whose copies are under way and the one in use; in the backward
    pass the one in use and the next. The host waits for nothing. On the CPU the same code copies without streams.
    """

    def __init__(self, device: torch.device) -> None:
        has_streams = device.type not in ("cpu", "meta")
        self._device, self._pinned = device, has_streams
        self._to_host, self._to_device = (torch.Stream(device) if has_streams else None for _ in range(2))
        # Weak: what a pass has left behind goes with its graph.
        self._leaving: deque[weakref.ref[OffloadedInput]] = deque()
        self._last: weakref.ref[OffloadedInput] | None = None

    @torch.no_grad()
    def pack(self, tensor: Tensor) -> OffloadedInput:
        """Start the copy of an input to the host, and let go of the one whose copy began longest ago."""
        on_host = torch.empty_like(tensor, device="cpu", pin_memory=self._pinned)
        packed = OffloadedInput(tensor, on_host, self._last() if self._last else None)
        packed.copied = self._copy(tensor, on_host, self._to_host)
        self._last = weakref.ref(packed)
        self._leaving.append(self._last)
        if len(self._leaving) > LEAVING_INPUTS and (leaving := self._leaving.popleft()()):
            leaving.release()
        return packed

    @torch.no_grad()
    def unpack(self, packed: OffloadedInput) -> Tensor:
        """Return an input on the device, and start the copy of the one that the backward pass needs next."""
        found = self._fetch(packed)
        packed.release()  # the graph holds it from here on
        self._last = None
        if packed.previous:
            self._last = weakref.ref(packed.previous)
            self._fetch(packed.previous)
        return found

    def _fetch(self, packed: OffloadedInput) -> Tensor:
        """Start the copy of an input to the device, unless it is there, and return its place."""
        if packed.on_device is None:
            # Made on the current stream, which uses and frees it.
            packed.on_device = torch.empty_like(packed.on_host, device=self._device, pin_memory=False)
            packed.copied = self._copy(packed.on_host, packed.on_device, self._to_device)
        return packed.on_device

    def _copy(self, source: Tensor, target: Tensor, stream: Any) -> Any:
        """Copy on a stream, after all that the current one has been given, and return the event that marks its end."""
        if stream:
            stream.wait_stream(torch.accelerator.current_stream(self._device))
        with stream or nullcontext():
            target.copy_(source, non_blocking=True)
        return stream.record_event() if stream else None


def offload_layer_inputs(model: CausalLM, compiled: bool) -> None:
    """Keep nothing of a layer but its input, in host memory, and recompute the rest in the backward pass.

    Loss and gradients are the same to the bit. Compiled layers must have the activation budget 0, by which the compiler
    keeps their inputs alone; others are recomputed by torch's checkpoint. Call it after `compile_layers`, in place of
    `apply_activation_budget` where layers are not compiled. Raises UserError for a class that cannot be recomputed.
    """
    if not compiled and not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(
            f"expert.offload_activations: is true, and {type(model).__name__} cannot recompute its activations; set "
            "expert.offload_activations: false"
        )
    offloader = ActivationOffloader(model.device)
    for layer in decoder_layers(model):
        layer.forward = _offloading(layer.forward, offloader, recompute=not compiled)


def _offloading(plain: Callable[..., Any], offloader: ActivationOffloader, *, recompute: bool) -> Callable[..., Any]:
    @wraps(plain)
    def forward(*arguments: Any, **options: Any) -> Any:
        states, rest = (arguments[0], arguments[1:]) if arguments else (options.pop("hidden_states"), ())
        if not torch.is_grad_enabled() or not states.requires_grad:
            return plain(states, *rest, **options)
        # Facts of the input, not the input: autograd keeps `pack` until the backward pass, and all that it refers to.
        key, shape, stride, dtype = _storage(states), states.shape, states.stride(), states.dtype
        start, contiguous, packed = states.storage_offset(), states.is_contiguous(), list[OffloadedInput]()

        def pack(tensor: Tensor) -> Tensor | _View:
            # All else that a layer saves is weights, positions and boundaries, which stay.
            if _storage(tensor) != key or tensor.dtype != dtype or not contiguous:
                return tensor
            if not packed:
                packed.append(offloader.pack(tensor.detach().as_strided(shape, stride, start)))
            return packed[0], tensor.shape, tensor.stride(), tensor.storage_offset() - start

        def unpack(saved: Tensor | _View) -> Tensor:
            if isinstance(saved, Tensor):
                return saved
            offloaded, shape, stride, offset = saved
            return offloader.unpack(offloaded).as_strided(shape, stride, offset)

        with saved_tensors_hooks(pack, unpack):
            if recompute:
                return checkpoint(plain, states, *rest, use_reentrant=False, **options)
            return plain(states, *rest, **options)

    return forward


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
