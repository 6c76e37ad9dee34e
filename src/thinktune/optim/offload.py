"""States that live in the host's memory and cross the device in chunks, a few at a time, while it computes."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thinktune.optim.quantization import BlockQuantized, eight_bit_codebook, zero_blocks

BUFFER_COUNT = 2  # chunks on the device at any time: one is computed with, while another comes or goes


class DeviceBuffer(NamedTuple):
    """Room for one chunk of both moments on the device, and what says how far it is (none on the CPU)."""

    moments: tuple[BlockQuantized, BlockQuantized]
    copied_in: Any
    computed: Any
    copied_out: Any


class StateOffloader:
    """Brings chunks of states to the device and back on streams of their own, in turns over `BUFFER_COUNT` places.

    The host enqueues far ahead of the device, so that a chunk is on its way while the device still computes what comes
    before it. Nothing here waits on the host but `synchronize`. On the CPU the same code copies without streams.
    """

    def __init__(self, device: torch.device, chunk_elements: int) -> None:
        """Room for chunks of up to `chunk_elements` elements."""
        self._device, self._next_buffer = device, 0
        apart = device.type not in ("cpu", "meta")
        self._to_device_stream, self._to_host_stream = (torch.Stream(device) if apart else None for _ in range(2))
        first, second = (eight_bit_codebook(signed=signed).to(device) for signed in (True, False))
        self._buffers = [
            DeviceBuffer(
                (zero_blocks(chunk_elements, first), zero_blocks(chunk_elements, second)),
                *(torch.Event(device) if apart else None for _ in range(3)),
            )
            for _ in range(BUFFER_COUNT)
        ]

    @contextmanager
    def on_device(
        self, first: BlockQuantized, second: BlockQuantized
    ) -> Generator[tuple[BlockQuantized, BlockQuantized]]:
        """Both moments of a chunk on the device, to be changed in place; they go back where the block ends."""
        place = self._buffers[self._next_buffer]
        self._next_buffer = (self._next_buffer + 1) % BUFFER_COUNT
        here = _first_blocks_of(place.moments[0], first), _first_blocks_of(place.moments[1], second)
        with _stream_context(self._to_device_stream):
            if self._to_device_stream:
                self._to_device_stream.wait_event(place.copied_out)
            _copy((first, second), here)
        if not self._to_device_stream or not self._to_host_stream:
            yield here
            _copy(here, (first, second))
            return
        computing = torch.accelerator.current_stream(self._device)
        self._to_device_stream.record_event(place.copied_in)
        computing.wait_event(place.copied_in)
        yield here
        computing.record_event(place.computed)
        with self._to_host_stream:
            self._to_host_stream.wait_event(place.computed)
            _copy(here, (first, second))
        self._to_host_stream.record_event(place.copied_out)

    def begin_step(self) -> None:
        """Before a step: what comes to the device comes after all that went back in the former one."""
        if self._to_device_stream and self._to_host_stream:
            self._to_device_stream.wait_stream(self._to_host_stream)

    def synchronize(self) -> None:
        """Until all states are in the host's memory, for those who read or write them there."""
        if self._to_device_stream and self._to_host_stream:
            self._to_host_stream.synchronize()


def zero_blocks_on_host(size: int, codebook: Tensor) -> BlockQuantized:
    """Blocks for `size` values in the host's memory, pinned where an accelerator copies while it computes.

    The levels stay where they are: on the device, which decodes with them.
    """
    made = zero_blocks(size, codebook.to("meta"))
    pinned = codebook.device.type not in ("cpu", "meta")
    codes, scales = (
        torch.zeros(kept.shape, dtype=kept.dtype, device="cpu", pin_memory=pinned) for kept in (made.codes, made.scales)
    )
    return BlockQuantized(codes, scales, codebook)


def _first_blocks_of(buffer: BlockQuantized, chunk: BlockQuantized) -> BlockQuantized:
    blocks = len(chunk.scales)
    return BlockQuantized(buffer.codes[:blocks], buffer.scales[:blocks], buffer.codebook)


def _copy(some: tuple[BlockQuantized, BlockQuantized], others: tuple[BlockQuantized, BlockQuantized]) -> None:
    for source, target in zip(some, others, strict=True):
        target.codes.copy_(source.codes, non_blocking=True)
        target.scales.copy_(source.scales, non_blocking=True)


def _stream_context(stream: Any) -> AbstractContextManager[Any]:
    return stream or nullcontext()
