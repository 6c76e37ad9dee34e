"""States that live in the host's memory and cross the device in chunks, a few at a time, while it computes."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thinktune.optim.quantization import Blocks, eight_bit_levels, empty_blocks

HELD = 2  # chunks on the device at any time: one is computed with, while another comes or goes


class Place(NamedTuple):
    """Room for one chunk of both moments on the device, and what says how far it is (none on the CPU)."""

    moments: tuple[Blocks, Blocks]
    arrived: Any
    used: Any
    left: Any


class Ferry:
    """Brings chunks of states to the device and back on streams of their own, in turns over `HELD` places.

    The host enqueues far ahead of the device, so that a chunk is on its way while the device still computes what comes
    before it. Nothing here waits on the host but `wait`. On the CPU the same code copies without streams.
    """

    def __init__(self, device: torch.device, chunk: int) -> None:
        """Room for chunks of up to `chunk` elements."""
        self._device, self._turn = device, 0
        apart = device.type not in ("cpu", "meta")
        self._coming, self._going = (torch.Stream(device) if apart else None for _ in range(2))
        first, second = (eight_bit_levels(signed=signed).to(device) for signed in (True, False))
        self._places = [
            Place(
                (empty_blocks(chunk, first), empty_blocks(chunk, second)),
                *(torch.Event(device) if apart else None for _ in range(3)),
            )
            for _ in range(HELD)
        ]

    @contextmanager
    def across(self, first: Blocks, second: Blocks) -> Generator[tuple[Blocks, Blocks]]:
        """Both moments of a chunk on the device, to be changed in place; they go back where the block ends."""
        place = self._places[self._turn]
        self._turn = (self._turn + 1) % HELD
        here = _cut_like(place.moments[0], first), _cut_like(place.moments[1], second)
        with _on(self._coming):
            if self._coming:
                self._coming.wait_event(place.left)
            _copy((first, second), here)
        if not self._coming or not self._going:
            yield here
            _copy(here, (first, second))
            return
        computing = torch.accelerator.current_stream(self._device)
        self._coming.record_event(place.arrived)
        computing.wait_event(place.arrived)
        yield here
        computing.record_event(place.used)
        with self._going:
            self._going.wait_event(place.used)
            _copy(here, (first, second))
        self._going.record_event(place.left)

    def begin(self) -> None:
        """Before a step: what comes to the device comes after all that went back in the former one."""
        if self._coming and self._going:
            self._coming.wait_stream(self._going)

    def wait(self) -> None:
        """Until all states are in the host's memory, for those who read or write them there."""
        if self._coming and self._going:
            self._going.synchronize()


def host_blocks(size: int, levels: Tensor) -> Blocks:
    """Blocks for `size` values in the host's memory, pinned where an accelerator copies while it computes.

    The levels stay where they are: on the device, which decodes with them.
    """
    made = empty_blocks(size, levels.to("meta"))
    pinned = levels.device.type not in ("cpu", "meta")
    codes, scales = (
        torch.zeros(kept.shape, dtype=kept.dtype, device="cpu", pin_memory=pinned) for kept in (made.codes, made.scales)
    )
    return Blocks(codes, scales, levels)


def _cut_like(room: Blocks, chunk: Blocks) -> Blocks:
    blocks = len(chunk.scales)
    return Blocks(room.codes[:blocks], room.scales[:blocks], room.levels)


def _copy(some: tuple[Blocks, Blocks], others: tuple[Blocks, Blocks]) -> None:
    for source, target in zip(some, others, strict=True):
        target.codes.copy_(source.codes, non_blocking=True)
        target.scales.copy_(source.scales, non_blocking=True)


def _on(stream: Any) -> AbstractContextManager[Any]:
    return stream or nullcontext()
