"""AdamW over all parameters in one launch: the table of addresses that `update_kernels` reads, and its launches."""

import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from thinktune.optim.adamw import ParameterState, chunk_elements
from thinktune.optim.quantization import SCALE_BYTES, BlockQuantized, level_lines, slice_moment

MIN_CAPABILITY = (8, 0)  # of the cards that Triton supports
VECTOR_BYTES = 16  # of a wide load; it also takes sizes that are multiples of so many elements
INTERPRETER = "TRITON_INTERPRET"  # "1" makes Triton run kernels on the CPU, which tests do


def supports_fused_update(
    device_type: str, capability: tuple[int, int] | None, *, has_triton: bool, interpreted: bool
) -> bool:
    """Return True where the kernels run: on CUDA cards that Triton supports, and on the CPU in Triton's interpreter."""
    if not has_triton:
        return False
    if device_type == "cpu":
        return interpreted
    return device_type == "cuda" and capability is not None and capability >= MIN_CAPABILITY


def can_update_fused(device: torch.device) -> bool:
    """Return `supports_fused_update` for a device of this machine."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    interpreted = os.environ.get(INTERPRETER) == "1"
    return supports_fused_update(
        device.type, capability, has_triton=find_spec("triton") is not None, interpreted=interpreted
    )


def launch_options(bits: int) -> dict[str, Any]:
    """Return Triton's options of a launch, where moments have codes of so many bits (0: none).

    Contracted sums and products would be rounded once for both. A thread of a block-quantized update needs many
    registers for each element, so that it has fewer of them.
    """
    return {"enable_fp_fusion": False, "num_warps": 8 if bits else 4}


class FusedUpdate:
    """AdamW of all parameters, or of one inside the backward pass, without a launch for each tensor.

    `decays` are the weight decays of the parameters, `counts` (parameters,) fp64 the updates of each so far, which
    the kernel counts on. States must keep their places in memory. Offloaded moments cross the device chunk by chunk,
    with a launch for each chunk.
    """

    def __init__(
        self, states: Sequence[ParameterState], decays: Sequence[float], betas: tuple[float, float], counts: Tensor
    ) -> None:
        from thinktune.optim import update_kernels  # imports Triton

        self._kernels: Any = update_kernels
        self._states, self._betas, self._counts, device = states, betas, counts, counts.device
        # Offloaded ones come last: all others are one run of programs.
        self._order = sorted(range(len(states)), key=lambda index: states[index].offloader is not None)
        sizes = [states[index].weight.numel() for index in self._order]
        programs = [max(1, -(-size // update_kernels.SPAN_ELEMENTS)) for size in sizes]
        starts = [0]
        for count in programs:
            starts.append(starts[-1] + count)
        self._starts = starts
        self._place = {index: place for place, index in enumerate(self._order)}
        resident = sum(state.offloader is None for state in states)
        self._resident_programs = starts[resident]
        rows = [_table_row(states[index], index) for index in self._order]
        self._aligned = all(address % VECTOR_BYTES == 0 for row in rows for address in row[:7])
        self._table = torch.tensor(rows, dtype=torch.int64, device=device)
        self._program_starts = torch.tensor(starts, dtype=torch.int64, device=device)
        self._decays = torch.tensor(decays, dtype=counts.dtype, device=device)
        self._codebooks, self._formats = _codebooks(states, device), _formats(states)
        self._launch_options = launch_options(self._formats["BITS"])
        self._gradients = torch.zeros(len(states), dtype=torch.int64, device=device)
        self._gradients_aligned = True
        self._partial_sums = torch.empty(starts[-1], device=device)
        self._factors = self._random_keys = torch.empty(0)
        self._search_steps = len(states).bit_length()

    def begin_step(self, learning_rate: Tensor, random_keys: Tensor) -> None:
        """Prepare a step: `learning_rate` is a scalar in the dtype of the counts, the keys are (parameters, 2)."""
        beta1, beta2 = (math.log(beta) if beta else -math.inf for beta in self._betas)
        counts = self._counts + 1
        columns = (
            learning_rate / -torch.expm1(counts * beta1),
            (-torch.expm1(counts * beta2)).sqrt(),
            1 - learning_rate * self._decays,
        )
        self._factors, self._random_keys = torch.stack(columns, 1).float(), random_keys

    def set_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Set the gradients, contiguous and of the weights' dtype, which the caller keeps; the host does not wait."""
        addresses = [0 if (found := gradients[index]) is None else _address(found) for index in self._order]
        pinned = torch.tensor(addresses, dtype=torch.int64, pin_memory=self._gradients.device.type == "cuda")
        self._gradients = pinned.to(self._gradients.device, non_blocking=True)
        self._gradients_aligned = all(address % VECTOR_BYTES == 0 for address in addresses)

    def squared_norm(self) -> Tensor:
        """Compute the sum of the squares of all gradients that were set, a scalar, in fp32."""
        self._sum_squares(0, self._starts[-1], 0, aligned=self._gradients_aligned)
        return self._partial_sums.sum()

    def update_all(self, grad_scale: Tensor, found_inf: Tensor) -> None:
        """Update all parameters by the gradients that were set."""
        aligned = self._gradients_aligned
        if self._resident_programs:
            self._launch(0, self._resident_programs, (grad_scale, found_inf), aligned=aligned)
        for index in self._order:
            if self._states[index].offloader:
                self._update_offloaded(index, 0, (grad_scale, found_inf), aligned=aligned)

    def partial_squares(self, index: int, gradient: Tensor) -> Tensor:
        """Sum the squares of one gradient by parts, fp32, which `clip` adds up; the next call overwrites them."""
        first, last = self._starts[self._place[index]], self._starts[self._place[index] + 1]
        address = _address(gradient)
        self._sum_squares(first, last, address, aligned=address % VECTOR_BYTES == 0)
        return self._partial_sums[: last - first]

    def clip(
        self, partial_sums: Tensor, squared_norm: Tensor, last_norm: Tensor, clip_norm: float
    ) -> tuple[Tensor, Tensor]:
        """Add partial sums to the step's squared norm so far; return the gradient's scale, and whether it is bad."""
        grad_scale, found_inf = torch.empty_like(squared_norm), torch.empty_like(squared_norm, dtype=torch.bool)
        self._kernels.clip_in_backward[(1,)](
            partial_sums, partial_sums.numel(), squared_norm, last_norm, clip_norm, grad_scale, found_inf,
            **launch_options(0),
        )  # fmt: skip
        return grad_scale, found_inf

    def update(self, index: int, gradient: Tensor, grad_scale: Tensor, found_inf: Tensor) -> None:
        """Update one parameter by its gradient."""
        address = _address(gradient)
        aligned = address % VECTOR_BYTES == 0
        if self._states[index].offloader:
            self._update_offloaded(index, address, (grad_scale, found_inf), aligned=aligned)
            return
        first, last = self._starts[self._place[index]], self._starts[self._place[index] + 1]
        self._launch(first, last, (grad_scale, found_inf), (address, 0, 0, 0, 0), aligned=aligned)

    def _update_offloaded(self, index: int, gradient: int, clipping: tuple[Tensor, Tensor], *, aligned: bool) -> None:
        """Update a parameter whose moments are on the host, chunk by chunk."""
        state, span = self._states[index], self._kernels.SPAN_ELEMENTS
        assert state.offloader is not None
        chunk = chunk_elements(state.weight.device) // span * span
        for start in range(0, state.weight.numel(), chunk):
            stop = min(state.weight.numel(), start + chunk)
            first_chunk, second_chunk = (slice_moment(each, start, stop) for each in (state.first, state.second))
            assert isinstance(first_chunk, BlockQuantized)
            assert isinstance(second_chunk, BlockQuantized)
            with state.offloader.on_device(first_chunk, second_chunk) as moments:
                addresses = [address for moment in moments for address in _virtual_addresses(moment, start)]
                first = self._starts[self._place[index]] + start // span
                last = first + -(-(stop - start) // span)
                self._launch(first, last, clipping, (gradient, *addresses), aligned=aligned)

    def _launch(
        self,
        first: int,
        last: int,
        clipping: tuple[Tensor, Tensor],
        addresses: tuple[int, ...] = (0, 0, 0, 0, 0),
        *,
        aligned: bool,
    ) -> None:
        """Launch the programs from `first` to `last`; addresses are of a gradient and moments that the table lacks."""
        beta1, beta2 = self._betas
        self._kernels.update_spans[(last - first,)](
            self._table, self._program_starts, self._gradients, self._counts, self._random_keys, self._factors,
            *clipping, self._codebooks, 1 - beta1, beta2, 1 - beta2, len(self._states), first, *addresses,
            SEARCH=self._search_steps, ALIGNED=self._aligned and aligned, **self._formats, **self._launch_options,
        )  # fmt: skip

    def _sum_squares(self, first: int, last: int, gradient: int, *, aligned: bool) -> None:
        self._kernels.sum_squares[(last - first,)](
            self._table, self._program_starts, self._gradients, self._partial_sums, len(self._states), first, gradient,
            SEARCH=self._search_steps, EXACT=self._formats["EXACT"], ALIGNED=self._aligned and aligned,
            **launch_options(0),
        )  # fmt: skip


def _table_row(state: ParameterState, index: int) -> list[int]:
    """Return a parameter's line in the table; moments on the host are 0, and scales that are 0 say there are none."""
    moments: list[int] = []
    for moment in (state.first, state.second):
        if isinstance(moment, Tensor):
            moments += [moment.data_ptr(), 0]
        else:
            moments += [0, 0] if state.offloader else [moment.codes.data_ptr(), moment.scales.data_ptr()]
    remainder = 0 if state.remainder is None else state.remainder.data_ptr()
    return [state.weight.data_ptr(), remainder, *moments, state.weight.numel(), state.element_offset, index]


def _address(gradient: Tensor) -> int:
    """Return where a gradient is; one without elements (of a rank without rows) is nowhere, but not missing."""
    return gradient.data_ptr() or VECTOR_BYTES


def _virtual_addresses(chunk: BlockQuantized, start: int) -> tuple[int, int]:
    """Return where codes and scales of the whole moment would begin, given the chunk from element `start` on."""
    codes = chunk.codes.data_ptr() - start * chunk.bits // 8
    return codes, chunk.scales.data_ptr() - start // chunk.block_size * SCALE_BYTES


def _formats(states: Sequence[ParameterState]) -> dict[str, int]:
    """Return the kernel's constants: bits of codes (0: none), of plain moments, and how exact the weights are kept."""
    moments = [state.first for state in states]
    bits = next((moment.bits for moment in moments if isinstance(moment, BlockQuantized)), 0)
    plain = next((moment.dtype for moment in moments if isinstance(moment, Tensor)), torch.float32)
    exact = 2 if states[0].weight.dtype == torch.float32 else int(states[0].remainder is not None)
    return {"BITS": bits, "MOMENT_BITS": plain.itemsize * 8, "EXACT": exact}


def _codebooks(states: Sequence[ParameterState], device: torch.device) -> Tensor:
    """Lay out the levels of both moments (256 places each), then the lines that the 8-bit ones follow (32 each)."""
    made = torch.zeros(2 * 256 + 2 * 32)
    for state in states:
        if isinstance(state.first, BlockQuantized) and isinstance(state.second, BlockQuantized):
            for start, book in ((0, state.first.codebook), (256, state.second.codebook)):
                made[start : start + len(book)] = book.cpu()
            break
    made[512:] = torch.cat([level_lines(signed=True).flatten(), level_lines(signed=False).flatten()])
    return made.to(device)
