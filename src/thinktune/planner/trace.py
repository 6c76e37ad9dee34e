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

from thinktune.config.schema import Memory, Train
from thinktune.model.forward import arithmetic
from thinktune.model.loss import linear_cross_entropy
from thinktune.model.transforms import apply_activation_budget
from thinktune.optim.optimizer import Update

COUNTED = "thinktune_counted"


def attend_counted() -> None:
    """Make it known to transformers under the name COUNTED."""
    AttentionInterface.register(COUNTED, _attention)
    nothing: Callable[..., Any] = _no_mask
    AttentionMaskInterface.register(COUNTED, nothing)


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


def _keep(ctx: Any, inputs: Sequence[Tensor], output: Sequence[Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _gradients(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return attend_backward(gradient, *ctx.saved_tensors)


attend.register_autograd(_gradients, setup_context=_keep)


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    # As kernels are given them: under autocast, norms make queries and keys fp32 again.
    return attend(*(part.transpose(1, 2).contiguous().to(value.dtype) for part in (query, key, value)))[0], None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


NOWHERE = torch.device("meta")


class Live(TorchDispatchMode):
    """Counts the bytes of live storages on a device as operations make them, their peak, and those on the host."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.now = self.peak = self.host = 0
        self._device, self._known = device, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return made

    def forget_peak(self) -> int:
        """Begin a new peak; the bytes that are live now."""
        self.peak = self.now
        return self.now

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if (name := storage._cdata) in self._known:  # pyright: ignore[reportPrivateUsage]
            return
        size, here = storage.nbytes(), tensor.device.type == self._device.type
        self._known.add(name)
        weakref.finalize(storage, self._forget, name, size, here)
        if here:
            self.now += size
            self.peak = max(self.peak, self.now)
        else:
            self.host += size

    def _forget(self, name: int, size: int, here: bool) -> None:
        self._known.discard(name)
        self.now -= size * here
        self.host -= size * (not here)


@dataclass(frozen=True, slots=True)
class Share:
    """Bytes as a straight line over tokens."""

    fixed: float
    a_token: float

    def at(self, tokens: float) -> float:
        """Bytes for so many tokens."""
        return self.fixed + self.a_token * tokens


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer: what it keeps for the backward pass beside its input, and what its passes add at their peak.

    `moving` is the most that is there when a weight's gradient is whole, which is when an update inside takes place.
    `operations` counts those of a forward and a backward pass as a share of those where nothing is done twice.
    """

    kept: Share
    forward: Share
    backward: Share
    moving: Share
    operations: float = 1.0


@dataclass(frozen=True, slots=True)
class Ends:
    """Bytes of embedding, last norm, head and loss for one size of batch.

    Their peak in the forward pass, their peak in the backward pass before the layers' turn, what waits while the
    layers have theirs, their peak after it, and what is there when the last gradient is whole.
    """

    forward: int
    start: int
    waiting: int
    last: int
    moving: int


def layer(
    config: Any, dtype: torch.dtype, device: torch.device, *, recompute: bool, weights: torch.dtype | None = None
) -> Layer:
    """One layer without a compiler, each gradient forgotten as it comes; `recompute` keeps its input only.

    Where `weights` are of another type than the arithmetic, it is autocast's, with the copies of them that it makes.
    """
    kinds = dtype, weights or dtype
    near, far = (_layer_bytes(config, kinds, device, tokens, recompute=recompute) for tokens in (512, 1024))
    shares = [_line(512, small, 1024, large) for small, large in zip(near, far, strict=True)]
    return Layer(*shares, operations=1.25 if recompute else 1.0)


def ends(
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    tokens: int,
    learned: int,
    rows: int | None = None,
    fused: bool | None = None,
    weights: torch.dtype | None = None,
) -> Ends:
    """All but the layers, from a model that has none; `rows` and `fused` as `linear_cross_entropy` takes them.

    `weights` are of the type of the arithmetic, if nothing else is said.
    """
    marks: list[int] = []

    def mark(gradient: Tensor) -> Tensor:
        marks.extend((live.peak, live.now))
        live.forget_peak()
        return gradient

    with FakeTensorMode(), Live(device) as live:
        kept = weights or dtype
        model = traced_model(with_changes(config, num_hidden_layers=0, layer_types=[]), kept, device)
        moving = _watch_gradients(model, live)
        sizes = tokens, learned
        ids, targets = (torch.empty(size, dtype=torch.int64, device=device) for size in sizes)
        before = live.forget_peak()
        entering = model.model.embed_tokens(ids)
        entering.register_hook(mark)
        angles = positions(config, tokens, kept, device)
        states = model.model.norm(entering).index_select(0, targets)
        weight = model.lm_head.weight
        loss, each = linear_cross_entropy(states, weight, targets, scale=1.0, dtype=dtype, rows=rows, fused=fused)
        del states
        forward = live.peak
        live.forget_peak()
        loss.backward()
        del angles, each
        return Ends(forward - before, marks[0] - before, marks[1] - before, live.peak - before, moving[-1] - before)


def update_bytes(memory: Memory, device: torch.device, count: int) -> int:
    """What an update of `count` weights at a time takes beyond weights, states and gradient, without a compiler."""
    with FakeTensorMode(), Live(device) as live:
        model = torch.nn.Linear(count, 1, bias=False, device=device)
        update = Update(model, Train(rows_per_step=1, memory=memory, update_in_backward=True))
        update.begin(1, 1e-5)
        entering = torch.empty(count, dtype=model.weight.dtype, device=device)
        before = live.forget_peak()
        model(entering).backward()
        return live.peak - before - model.weight.numel() * model.weight.element_size()


def parameter_shapes(config: Any) -> list[tuple[int, ...]]:
    """The shapes of a model's parameters, tied ones once, from its configuration alone."""
    with torch.device(NOWHERE):
        model: Any = AutoModelForCausalLM.from_config(config)
    return [tuple(weight.shape) for weight in model.parameters()]


def positions(config: Any, tokens: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Stand-ins for the rotary embeddings of a row."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return torch.empty(1, tokens, size, dtype=dtype, device=device), torch.empty(
        1, tokens, size, dtype=dtype, device=device
    )


def one_layer(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of this shape with one layer, and hardly any vocabulary."""
    small = with_changes(config, num_hidden_layers=1, layer_types=["full_attention"], vocab_size=64, pad_token_id=None)
    return traced_model(small, dtype, device)


def traced_model(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Build the model of a configuration on a device without memory, with counted attention."""
    attend_counted()
    config = with_changes(config, _attn_implementation=COUNTED)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=COUNTED)
    return model.train()


def _layer_bytes(
    config: Any, kinds: tuple[torch.dtype, torch.dtype], device: torch.device, tokens: int, *, recompute: bool
) -> tuple[int, int, int, int]:
    dtype, weights = kinds
    with FakeTensorMode(), Live(device) as live:
        model = one_layer(config, weights, device)
        if recompute:
            apply_activation_budget(model, 0.0, compiled=False)
        moving = _watch_gradients(model, live)
        entering = torch.empty(1, tokens, config.hidden_size, dtype=weights, device=device, requires_grad=True)
        angles = positions(config, tokens, weights, device)
        before = live.forget_peak()
        with arithmetic(model, dtype):
            leaving = model.model.layers[0](entering, attention_mask=None, position_embeddings=angles)
        size = leaving.numel() * leaving.element_size()
        kept, forward = live.now - before - size, live.peak - before
        gradient = torch.empty_like(leaving)
        before = live.forget_peak()
        leaving.backward(gradient)
        return kept, forward, live.peak - before, max(moving) - before


def with_changes(config: Any, **changes: Any) -> Any:
    """Return a copy of a configuration with some values changed."""
    changed = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _watch_gradients(model: Any, live: Live) -> list[int]:
    """Forget each gradient as soon as it is whole; the list tells how many bytes were live at that moment."""
    found: list[int] = []

    def forget(weight: Tensor) -> None:
        found.append(live.now)
        weight.grad = None

    for weight in model.parameters():
        weight.register_post_accumulate_grad_hook(forget)
    return found


def _line(near: int, small: float, far: int, large: float) -> Share:
    slope = (large - small) / (far - near)
    return Share(large - slope * far, slope)
