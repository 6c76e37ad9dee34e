"""One AdamW update of one flat parameter in any format; the host waits for nothing in it."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

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


# Elements updated at a time, whole blocks: they fit a core's cache, and keep the temporaries of an accelerator small.
CPU_CHUNK_ELEMENTS, CHUNK_ELEMENTS = 2**15, 2**22


class ParameterState(NamedTuple):
    """A parameter and its optimizer state, all flat: weight (n,), remainder of an exact master (n,), both moments.

    With an `offloader` the moments are on the host and cross the device chunk by chunk. `element_offset` is the index
    of the first element in the whole parameter, where it is sharded over ranks: rounding depends on that index.
    """

    weight: Tensor
    remainder: Tensor | None
    first: Moment
    second: Moment
    offloader: StateOffloader | None = None
    element_offset: int = 0


class StepScalars(NamedTuple):
    """Scalars of one step: 0-dimensional tensors on the device, and the hyperparameters that never change.

    `step_count` is the number of updates so far. Gradients are divided by `grad_scale`. Where `found_inf`, nothing is
    changed.
    """

    learning_rate: Tensor
    step_count: Tensor
    grad_scale: Tensor
    found_inf: Tensor
    betas: tuple[float, float]
    weight_decay: float


def adamw_update(state: ParameterState, gradient: Tensor, scalars: StepScalars, random_key: Tensor) -> None:
    """Update a parameter in place by AdamW, with decoupled weight decay (Loshchilov and Hutter, 2019).

    Args:
        state: flat tensors, changed in place.
        gradient: as many elements as the parameter, in any shape and float type.
        scalars: of this step.
        random_key: (2,) int32 from `quantization.random_keys`, for stochastic rounding.
    """
    size, flat, chunk = state.weight.numel(), gradient.reshape(-1), chunk_elements(state.weight.device)
    for start in range(0, size, chunk):
        stop = min(size, start + chunk)
        remainder = None if state.remainder is None else state.remainder[start:stop]
        moments = slice_moment(state.first, start, stop), slice_moment(state.second, start, stop)
        offset = state.element_offset + start
        key = torch.stack([random_key[0] + offset, random_key[1]]) if offset else random_key
        with _on_device(state.offloader, *moments) as on_device:
            _update_chunk(
                ParameterState(state.weight[start:stop], remainder, *on_device), flat[start:stop], scalars, key
            )


def chunk_elements(device: torch.device) -> int:
    """Return the number of elements that an update processes at a time on a device."""
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
    """Update one chunk. Each operation rounds by itself, so no result depends on where a vector unit's lanes begin."""
    size, (beta1, beta2), found_inf = gradient.numel(), scalars.betas, scalars.found_inf
    count = scalars.step_count + 1
    bits = random_bits(random_key, 0, size) if _rounds_stochastically(state) else None
    gradient = gradient.float() / scalars.grad_scale
    first, second = dequantize(state.first, size), dequantize(state.second, size)
    first = first + (gradient - first) * (1 - beta1)
    second = second * beta2 + gradient * gradient * (1 - beta2)
    deviation = _root(second) / _bias_correction(beta2, count).sqrt() + EPSILON
    master = state.weight.float() if state.remainder is None else join_master(state.weight, state.remainder)
    if scalars.weight_decay:
        master = master * (1 - scalars.learning_rate * scalars.weight_decay)
    master = master - first * (scalars.learning_rate / _bias_correction(beta1, count)) / deviation
    if state.remainder is not None:
        weight, remainder = split_master(master)
        _write_unless_inf(state.remainder, remainder, found_inf)
    elif bits is None or state.weight.dtype == torch.float32:
        weight = master
    else:
        weight = stochastic_round_to_bf16(master, bits)
    _write_unless_inf(state.weight, weight, found_inf)
    # Weight and first moment share bits: neither sees the other's rounding before the next step has new bits.
    _write_unless_inf(state.first, quantize(first, state.first, bits), found_inf)
    _write_unless_inf(state.second, quantize(second, state.second, None if bits is None else bits >> 16), found_inf)


def _rounds_stochastically(state: ParameterState) -> bool:
    """Return True if the weight or a moment is rounded stochastically."""
    if state.remainder is None and state.weight.dtype != torch.float32:
        return True
    return not (isinstance(state.first, Tensor) and state.first.dtype == torch.float32)


def _root(values: Tensor) -> Tensor:
    """Return the root of fp32 values, rounded as IEEE 754 says, so that it has the same bits on every machine.

    On the CPU torch asks a library whose fp32 roots may be off by one in the last place, depending on the machine;
    those of its fp64 roots, rounded to fp32, are not.
    """
    return values.double().sqrt().float() if values.device.type == "cpu" else values.sqrt()


def _bias_correction(beta: float, count: Tensor) -> Tensor:
    """Compute 1 - beta ** count, without the cancellation that it would have in fp32."""
    return -torch.expm1(count * (math.log(beta) if beta else -math.inf))


def _write_unless_inf(kept: Moment, new: Moment, found_inf: Tensor) -> None:
    """Overwrite `kept` with `new`, but where `found_inf`."""
    if isinstance(kept, Tensor):
        assert isinstance(new, Tensor)
        kept.copy_(torch.where(found_inf, kept, new))
        return
    assert isinstance(new, BlockQuantized)
    for old, made in ((kept.codes, new.codes), (kept.scales, new.scales)):
        old.copy_(torch.where(found_inf, old, made))
