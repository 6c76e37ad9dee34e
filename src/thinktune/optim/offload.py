"""Optimizer states offloaded to the host: double-buffered copies to the device and back, while it computes."""

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch

from thinktune.optim.quantization import BlockFormat, BlockQuantized

BUFFER_COUNT = 2  # chunks on the device at any time: one is updated while another is copied


class DeviceBuffer(NamedTuple):
    """Device memory for a chunk of both moments, and the events that mark its progress (None on the CPU)."""

    moments: tuple[BlockQuantized, BlockQuantized]
    copied_in: Any
    computed: Any
    copied_out: Any


class StateOffloader:
    """Double-buffered copies of optimizer states between host and device, on two streams of their own.

    The host enqueues far ahead of the device, so that a chunk is copied while the device still computes what comes
    before it. Only `synchronize` makes the host wait. On the CPU the same code copies without streams.
    """

    def __init__(self, device: torch.device, chunk_elements: int, block_format: BlockFormat) -> None:
        """Allocate the buffers, each for up to `chunk_elements` elements."""
        self._device, self._next_buffer = device, 0
        has_streams = device.type not in ("cpu", "meta")
        self._to_device_stream, self._to_host_stream = (torch.Stream(device) if has_streams else None for _ in range(2))
        self._buffers = [
            DeviceBuffer(
                (
                    block_format.zeros(chunk_elements, device, signed=True),
                    block_format.zeros(chunk_elements, device, signed=False),
                ),
                *(torch.Event(device) if has_streams else None for _ in range(3)),
            )
            for _ in range(BUFFER_COUNT)
        ]

    @contextmanager
    def on_device(
        self, first: BlockQuantized, second: BlockQuantized
    ) -> Generator[tuple[BlockQuantized, BlockQuantized]]:
        """Copy both moments of a chunk to the device, to be changed in place; copy them back when the block ends."""
        buffer = self._buffers[self._next_buffer]
        self._next_buffer = (self._next_buffer + 1) % BUFFER_COUNT
        on_device = _first_blocks_of(buffer.moments[0], first), _first_blocks_of(buffer.moments[1], second)
        with self._to_device_stream or nullcontext():
            if self._to_device_stream:
                self._to_device_stream.wait_event(buffer.copied_out)
            _copy((first, second), on_device)
        if not self._to_device_stream or not self._to_host_stream:
            yield on_device
            _copy(on_device, (first, second))
            return
        computing = torch.accelerator.current_stream(self._device)
        self._to_device_stream.record_event(buffer.copied_in)
        computing.wait_event(buffer.copied_in)
        yield on_device
        computing.record_event(buffer.computed)
        with self._to_host_stream:
            self._to_host_stream.wait_event(buffer.computed)
            _copy(on_device, (first, second))
        self._to_host_stream.record_event(buffer.copied_out)

    def begin_step(self) -> None:
        """Order the copies of a step after those of the step before, which may still be on their way to the host.

        The first step's come after the zero-filling of the buffers, which the current stream was given.
        """
        if self._to_device_stream and self._to_host_stream:
            self._to_device_stream.wait_stream(self._to_host_stream)
            self._to_device_stream.wait_stream(torch.accelerator.current_stream(self._device))

    def synchronize(self) -> None:
        """Wait until all states are in host memory, before they are read or written there."""
        if self._to_device_stream and self._to_host_stream:
            self._to_host_stream.synchronize()


def zero_blocks_on_host(block_format: BlockFormat, size: int, device: torch.device, *, signed: bool) -> BlockQuantized:
    """Make zero blocks for `size` values in host memory, pinned if the device is an accelerator.

    The codebook is on the device, where the blocks are dequantized.
    """
    pinned = device.type not in ("cpu", "meta")
    codes, scales = block_format.shapes(size)
    return BlockQuantized(
        torch.zeros(codes, dtype=torch.uint8, device="cpu", pin_memory=pinned),
        torch.zeros(scales, device="cpu", pin_memory=pinned),
        block_format.make_codebook(signed).to(device),
        block_format.bits,
    )


def _first_blocks_of(buffer: BlockQuantized, chunk: BlockQuantized) -> BlockQuantized:
    blocks = len(chunk.scales)
    return buffer._replace(codes=buffer.codes[:blocks], scales=buffer.scales[:blocks])


def _copy(some: tuple[BlockQuantized, BlockQuantized], others: tuple[BlockQuantized, BlockQuantized]) -> None:
    for source, target in zip(some, others, strict=True):
        target.codes.copy_(source.codes, non_blocking=True)
        target.scales.copy_(source.scales, non_blocking=True)
