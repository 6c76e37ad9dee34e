"""One step of AdamW on one flat parameter, whatever its weights and states are kept as; nothing is read by the host."""

import math
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thinktune.optim.offload import Ferry
from thinktune.optim.quantization import Blocks, State, cut, decode, encode, join, noise, round_to_bf16, split

EPSILON = 1e-8


# Elements at a time, whole blocks: what stays in a core's cache, and what keeps an accelerator's temporaries small.
CPU_CHUNK, CHUNK = 2**15, 2**22


class Slot(NamedTuple):
    """A parameter and what is kept for it, all flat: weights, the remainder of an exact master, the two moments.

    With a ferry the moments are the host's, and cross the device chunk by chunk. `start` is how many elements of the
    parameter stand before these, where it is cut over ranks: rounding depends on an element's place in the whole.
    """

    weight: Tensor
    remainder: Tensor | None
    first: State
    second: State
    ferry: Ferry | None = None
    start: int = 0


class Push(NamedTuple):
    """What one step asks of a parameter; the tensors have no dimension and stay on the device.

    `moved` is how often it did before, `scale` what gradients are divided by; where `bad`, nothing is changed.
    """

    rate: Tensor
    moved: Tensor
    scale: Tensor
    bad: Tensor
    betas: tuple[float, float]
    decay: float


def move(slot: Slot, gradient: Tensor, push: Push, key: Tensor) -> None:
    """Move a parameter by AdamW (Loshchilov and Hutter, 2019), decayed apart from the gradient, in place.

    Args:
        slot: flat tensors, changed in place.
        gradient: of the parameter's size, in any shape and float type.
        push: the step's numbers.
        key: (2,) from `codec.keys`: where rounding is by chance, its noise.
    """
    size, flat, chunk = slot.weight.numel(), gradient.reshape(-1), chunk_of(slot.weight.device)
    advance = _advance if slot.weight.device.type in ("cpu", "meta") else _compiled()
    for start in range(0, size, chunk):
        stop = min(size, start + chunk)
        remainder = None if slot.remainder is None else slot.remainder[start:stop]
        moments = cut(slot.first, start, stop), cut(slot.second, start, stop)
        before = slot.start + start
        place = torch.stack([key[0] + before, key[1]]) if before else key
        with _on_the_device(slot.ferry, *moments) as here:
            advance(Slot(slot.weight[start:stop], remainder, *here), flat[start:stop], push, place)


def chunk_of(device: torch.device) -> int:
    """Elements that an update moves at a time on a device."""
    return CPU_CHUNK if device.type == "cpu" else CHUNK


def _on_the_device(ferry: Ferry | None, first: State, second: State) -> AbstractContextManager[tuple[State, State]]:
    if ferry is None:
        return nullcontext((first, second))
    assert isinstance(first, Blocks)
    assert isinstance(second, Blocks)
    return ferry.across(first, second)


def _advance(slot: Slot, gradient: Tensor, push: Push, key: Tensor) -> None:
    """One chunk. Each operation rounds by itself, so no result depends on where a vector unit's lanes begin."""
    size, (beta1, beta2) = gradient.numel(), push.betas
    count = push.moved + 1
    bits = noise(key, 0, size) if _rounds(slot) else None
    gradient = gradient.float() / push.scale
    first, second = decode(slot.first, size), decode(slot.second, size)
    first = first + (gradient - first) * (1 - beta1)
    second = second * beta2 + gradient * gradient * (1 - beta2)
    deviation = second.sqrt() / _correction(beta2, count).sqrt() + EPSILON
    master = slot.weight.float() if slot.remainder is None else join(slot.weight, slot.remainder)
    if push.decay:
        master = master * (1 - push.rate * push.decay)
    master = master - first * (push.rate / _correction(beta1, count)) / deviation
    if slot.remainder is not None:
        weight, remainder = split(master)
        _store(slot.remainder, remainder, push.bad)
    else:
        weight = master if bits is None or slot.weight.dtype == torch.float32 else round_to_bf16(master, bits)
    _store(slot.weight, weight, push.bad)
    # The weight and the first moment share bits: neither knows the other's rounding before the next step's noise.
    _store(slot.first, encode(first, slot.first, bits), push.bad)
    _store(slot.second, encode(second, slot.second, None if bits is None else bits >> 16), push.bad)


def _rounds(slot: Slot) -> bool:
    """Whether anything of the slot is rounded by chance."""
    if slot.remainder is None and slot.weight.dtype != torch.float32:
        return True
    return not (isinstance(slot.first, Tensor) and slot.first.dtype == torch.float32)


def _correction(beta: float, count: Tensor) -> Tensor:
    """1 - beta ** count, without the cancellation that it would have in fp32."""
    return -torch.expm1(count * (math.log(beta) if beta else -math.inf))


def _store(kept: State, new: State, bad: Tensor) -> None:
    """Write the new over the kept, unless the step is bad."""
    if isinstance(kept, Tensor):
        assert isinstance(new, Tensor)
        kept.copy_(torch.where(bad, kept, new))
        return
    for old, made in zip(kept[:2], new[:2], strict=True):
        old.copy_(torch.where(bad, old, made))


_kernels: list[Any] = []


def _compiled() -> Any:
    """`_advance` as one kernel, compiled once for all sizes, where the machine can; plain where it cannot."""
    if not _kernels:
        _kernels.append(torch.compile(_advance, dynamic=True) if find_spec("triton") else _advance)
    return _kernels[0]
