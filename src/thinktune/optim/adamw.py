"""One step of AdamW on one flat parameter, whatever its weights and states are kept as; nothing is read by the host."""

import math
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thinktune.optim.offload import StateOffloader
from thinktune.optim.quantization import (
    BlockQuantized,
    Moment,
    dequantize,
    join_master,
    quantize,
    random_bits,
    slice_moment,
    split_master,
    stochastic_round_to_bf16,
)

EPSILON = 1e-8


# Elements at a time, whole blocks: what stays in a core's cache, and what keeps an accelerator's temporaries small.
CPU_CHUNK_ELEMENTS, CHUNK_ELEMENTS = 2**15, 2**22


class ParameterState(NamedTuple):
    """A parameter and what is kept for it, all flat: weights, the remainder of an exact master, the two moments.

    With a ferry the moments are the host's, and cross the device chunk by chunk. `element_offset` is how many elements of the
    parameter stand before these, where it is cut over ranks: rounding depends on an element's place in the whole.
    """

    weight: Tensor
    remainder: Tensor | None
    first: Moment
    second: Moment
    offloader: StateOffloader | None = None
    element_offset: int = 0


class StepScalars(NamedTuple):
    """What one step asks of a parameter; the tensors have no dimension and stay on the device.

    `step_count` is how often it did before, `grad_scale` what gradients are divided by; where `found_inf`, nothing is changed.
    """

    learning_rate: Tensor
    step_count: Tensor
    grad_scale: Tensor
    found_inf: Tensor
    betas: tuple[float, float]
    weight_decay: float


def adamw_update(state: ParameterState, gradient: Tensor, scalars: StepScalars, random_key: Tensor) -> None:
    """Move a parameter by AdamW (Loshchilov and Hutter, 2019), decayed apart from the gradient, in place.

    Args:
        slot: flat tensors, changed in place.
        gradient: of the parameter's size, in any shape and float type.
        push: the step's numbers.
        key: (2,) from `codec.keys`: where rounding is by chance, its noise.
    """
    size, flat, chunk = state.weight.numel(), gradient.reshape(-1), chunk_elements(state.weight.device)
    advance = _update_chunk if state.weight.device.type in ("cpu", "meta") else _compiled_update()
    for start in range(0, size, chunk):
        stop = min(size, start + chunk)
        remainder = None if state.remainder is None else state.remainder[start:stop]
        moments = slice_moment(state.first, start, stop), slice_moment(state.second, start, stop)
        before = state.element_offset + start
        place = torch.stack([random_key[0] + before, random_key[1]]) if before else random_key
        with _on_device(state.offloader, *moments) as here:
            advance(ParameterState(state.weight[start:stop], remainder, *here), flat[start:stop], scalars, place)


def chunk_elements(device: torch.device) -> int:
    """Elements that an update moves at a time on a device."""
    return CPU_CHUNK_ELEMENTS if device.type == "cpu" else CHUNK_ELEMENTS


def _on_device(
    offloader: StateOffloader | None, first: Moment, second: Moment
) -> AbstractContextManager[tuple[Moment, Moment]]:
    if offloader is None:
        return nullcontext((first, second))
    assert isinstance(first, BlockQuantized)
    assert isinstance(second, BlockQuantized)
    return offloader.on_device(first, second)


def _update_chunk(state: ParameterState, gradient: Tensor, scalars: StepScalars, random_key: Tensor) -> None:
    """One chunk. Each operation rounds by itself, so no result depends on where a vector unit's lanes begin."""
    size, (beta1, beta2) = gradient.numel(), scalars.betas
    count = scalars.step_count + 1
    bits = random_bits(random_key, 0, size) if _rounds_stochastically(state) else None
    gradient = gradient.float() / scalars.grad_scale
    first, second = dequantize(state.first, size), dequantize(state.second, size)
    first = first + (gradient - first) * (1 - beta1)
    second = second * beta2 + gradient * gradient * (1 - beta2)
    deviation = second.sqrt() / _bias_correction(beta2, count).sqrt() + EPSILON
    master = state.weight.float() if state.remainder is None else join_master(state.weight, state.remainder)
    if scalars.weight_decay:
        master = master * (1 - scalars.learning_rate * scalars.weight_decay)
    master = master - first * (scalars.learning_rate / _bias_correction(beta1, count)) / deviation
    if state.remainder is not None:
        weight, remainder = split_master(master)
        _write_unless_inf(state.remainder, remainder, scalars.found_inf)
    else:
        weight = (
            master if bits is None or state.weight.dtype == torch.float32 else stochastic_round_to_bf16(master, bits)
        )
    _write_unless_inf(state.weight, weight, scalars.found_inf)
    # The weight and the first moment share bits: neither knows the other's rounding before the next step's noise.
    _write_unless_inf(state.first, quantize(first, state.first, bits), scalars.found_inf)
    _write_unless_inf(
        state.second, quantize(second, state.second, None if bits is None else bits >> 16), scalars.found_inf
    )


def _rounds_stochastically(state: ParameterState) -> bool:
    """Whether anything of the slot is rounded by chance."""
    if state.remainder is None and state.weight.dtype != torch.float32:
        return True
    return not (isinstance(state.first, Tensor) and state.first.dtype == torch.float32)


def _bias_correction(beta: float, count: Tensor) -> Tensor:
    """1 - beta ** count, without the cancellation that it would have in fp32."""
    return -torch.expm1(count * (math.log(beta) if beta else -math.inf))


def _write_unless_inf(kept: Moment, new: Moment, found_inf: Tensor) -> None:
    """Write the new over the kept, unless the step is bad."""
    if isinstance(kept, Tensor):
        assert isinstance(new, Tensor)
        kept.copy_(torch.where(found_inf, kept, new))
        return
    for old, made in zip(kept[:2], new[:2], strict=True):
        old.copy_(torch.where(found_inf, old, made))


_kernels: list[Any] = []


def _compiled_update() -> Any:
    """`_update_chunk` as one kernel, compiled once for all sizes, where the machine can; plain where it cannot."""
    if not _kernels:
        _kernels.append(torch.compile(_update_chunk, dynamic=True) if find_spec("triton") else _update_chunk)
    return _kernels[0]
