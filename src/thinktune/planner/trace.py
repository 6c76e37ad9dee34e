"""What a step holds in memory, counted on fake tensors: of one layer, of the head, or of a whole step. Nothing is run.

Storages are counted, as the operations make them, on a device that has no memory; so no figure here needs a card. What
cards add by themselves (a context, rounding of sizes) is not counted.
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
from thinktune.model.forward import autocast
from thinktune.model.loss import LogitChunks, linear_cross_entropy
from thinktune.model.transforms import apply_activation_budget
from thinktune.optim import Optimizer

TRACE_ATTENTION = "thinktune_counted"


def register_trace_attention() -> None:
    """Make it known to transformers under the name COUNTED."""
    AttentionInterface.register(TRACE_ATTENTION, _attention)
    nothing: Callable[..., Any] = _no_mask
    AttentionMaskInterface.register(TRACE_ATTENTION, nothing)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """What attention kernels make in the forward pass: the output, and a number for each token and head."""
    return torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)


def _attend_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What they make in the backward pass."""
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
    # As kernels are given them: under autocast, norms make queries and keys fp32 again.
    return attend(*(part.transpose(1, 2).contiguous().to(value.dtype) for part in (query, key, value)))[0], None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


META = torch.device("meta")


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live storages on a device as operations make them, their peak, and those on the host."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.current_bytes = self.peak_bytes = self.host_bytes = 0
        self._device, self._seen_storages = device, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return made

    def reset_peak(self) -> int:
        """Begin a new peak; the bytes that are live now."""
        self.peak_bytes = self.current_bytes
        return self.current_bytes

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if (name := storage._cdata) in self._seen_storages:  # pyright: ignore[reportPrivateUsage]
            return
        size, here = storage.nbytes(), tensor.device.type == self._device.type
        self._seen_storages.add(name)
        weakref.finalize(storage, self._release, name, size, here)
        if here:
            self.current_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.current_bytes)
        else:
            self.host_bytes += size

    def _release(self, name: int, size: int, here: bool) -> None:
        self._seen_storages.discard(name)
        self.current_bytes -= size * here
        self.host_bytes -= size * (not here)


@dataclass(frozen=True, slots=True)
class LinearBytes:
    """Bytes as a straight line over tokens."""

    fixed: float
    per_token: float

    def at(self, tokens: float) -> float:
        """Bytes for so many tokens."""
        return self.fixed + self.per_token * tokens


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """One decoder layer: what it keeps for the backward pass beside its input, and what its passes add at their peak.

    `gradient_ready` is the most that is there when a weight's gradient is whole, which is when an update inside takes place.
    `recompute_factor` counts those of a forward and a backward pass as a share of those where nothing is done twice.
    """

    saved: LinearBytes
    forward: LinearBytes
    backward: LinearBytes
    gradient_ready: LinearBytes
    recompute_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class RootBytes:
    """Bytes of embedding, last norm, head and loss for one size of batch.

    Their peak in the forward pass, their peak in the backward pass before the layers' turn, what waits while the
    layers have theirs, their peak after it, and what is there when the last gradient is whole.
    """

    forward_peak: int
    backward_start_peak: int
    held_during_layers: int
    backward_end_peak: int
    gradient_ready: int


def trace_layer(
    config: Any, dtype: torch.dtype, device: torch.device, *, recompute: bool, weight_dtype: torch.dtype | None = None
) -> LayerBytes:
    """One layer without a compiler, each gradient forgotten as it comes; `recompute` keeps its input only.

    Where `weight_dtype` are of another type than the arithmetic, it is autocast's, with the copies of them that it makes.
    """
    kinds = dtype, weight_dtype or dtype
    near, far = (_trace_layer_bytes(config, kinds, device, tokens, recompute=recompute) for tokens in (512, 1024))
    shares = [_fit_line(512, small, 1024, large) for small, large in zip(near, far, strict=True)]
    return LayerBytes(*shares, recompute_factor=1.25 if recompute else 1.0)


def trace_root(
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    tokens: int,
    label_tokens: int,
    chunk_rows: int | None = None,
    fused: bool | None = None,
    weight_dtype: torch.dtype | None = None,
) -> RootBytes:
    """All but the layers, from a model that has none; `chunk_rows` and `fused` as `linear_cross_entropy` takes them.

    `weight_dtype` are of the type of the arithmetic, if nothing else is said.
    """
    marks: list[int] = []

    def mark(gradient: Tensor) -> Tensor:
        marks.extend((live.peak_bytes, live.current_bytes))
        live.reset_peak()
        return gradient

    with FakeTensorMode(), LiveBytes(device) as live:
        kept = weight_dtype or dtype
        model = traced_model(with_changes(config, num_hidden_layers=0, layer_types=[]), kept, device)
        moving = _drop_gradients(model, live)
        sizes = tokens, label_tokens
        ids, targets = (torch.empty(size, dtype=torch.int64, device=device) for size in sizes)
        before = live.reset_peak()
        entering = model.model.embed_tokens(ids)
        entering.register_hook(mark)
        angles = rotary_embeddings(config, tokens, kept, device)
        states = model.model.norm(entering).index_select(0, targets)
        weight = model.lm_head.weight
        loss, each = linear_cross_entropy(
            states, weight, targets, scale=1.0, dtype=dtype, chunks=LogitChunks(chunk_rows, fused)
        )
        del states
        forward = live.peak_bytes
        live.reset_peak()
        loss.backward()
        del angles, each
        return RootBytes(
            forward - before, marks[0] - before, marks[1] - before, live.peak_bytes - before, moving[-1] - before
        )


def update_bytes(memory: MemoryTierName, device: torch.device, chunk_elements: int) -> int:
    """What an update of `chunk_elements` weights at a time takes beyond weights, states and gradient, without a compiler."""
    with FakeTensorMode(), LiveBytes(device) as live:
        model = torch.nn.Linear(chunk_elements, 1, bias=False, device=device)
        update = Optimizer(model, TrainConfig(rows_per_step=1, memory=memory, update_in_backward=True))
        update.begin_step(1, 1e-5)
        entering = torch.empty(chunk_elements, dtype=model.weight.dtype, device=device)
        before = live.reset_peak()
        model(entering).backward()
        return live.peak_bytes - before - model.weight.numel() * model.weight.element_size()


def parameter_shapes(config: Any) -> list[tuple[int, ...]]:
    """The shapes of a model's parameters, tied ones once, from its configuration alone."""
    with torch.device(META):
        model: Any = AutoModelForCausalLM.from_config(config)
    return [tuple(weight.shape) for weight in model.parameters()]


def rotary_embeddings(config: Any, tokens: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Stand-ins for the rotary embeddings of a row."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return torch.empty(1, tokens, size, dtype=dtype, device=device), torch.empty(
        1, tokens, size, dtype=dtype, device=device
    )


def one_layer_model(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of this shape with one layer, and hardly any vocabulary."""
    small = with_changes(config, num_hidden_layers=1, layer_types=["full_attention"], vocab_size=64, pad_token_id=None)
    return traced_model(small, dtype, device)


def traced_model(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Build the model of a configuration on a device without memory, with counted attention."""
    register_trace_attention()
    config = with_changes(config, _attn_implementation=TRACE_ATTENTION)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=TRACE_ATTENTION)
    return model.train()


def _trace_layer_bytes(
    config: Any, dtypes: tuple[torch.dtype, torch.dtype], device: torch.device, tokens: int, *, recompute: bool
) -> tuple[int, int, int, int]:
    dtype, weights = dtypes
    with FakeTensorMode(), LiveBytes(device) as live:
        model = one_layer_model(config, weights, device)
        if recompute:
            apply_activation_budget(model, 0.0, compiled=False)
        moving = _drop_gradients(model, live)
        entering = torch.empty(1, tokens, config.hidden_size, dtype=weights, device=device, requires_grad=True)
        angles = rotary_embeddings(config, tokens, weights, device)
        before = live.reset_peak()
        with autocast(model, dtype):
            leaving = model.model.layers[0](entering, attention_mask=None, position_embeddings=angles)
        size = leaving.numel() * leaving.element_size()
        kept, forward = live.current_bytes - before - size, live.peak_bytes - before
        gradient = torch.empty_like(leaving)
        before = live.reset_peak()
        leaving.backward(gradient)
        return kept, forward, live.peak_bytes - before, max(moving) - before


def with_changes(config: Any, **changes: Any) -> Any:
    """Return a copy of a configuration with some values changed."""
    changed = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _drop_gradients(model: Any, live: LiveBytes) -> list[int]:
    """Forget each gradient as soon as it is whole; the list tells how many bytes were live at that moment."""
    found: list[int] = []

    def forget(weight: Tensor) -> None:
        found.append(live.current_bytes)
        weight.grad = None

    for weight in model.parameters():
        weight.register_post_accumulate_grad_hook(forget)
    return found


def _fit_line(near: int, small: float, far: int, large: float) -> LinearBytes:
    slope = (large - small) / (far - near)
    return LinearBytes(large - slope * far, slope)
