"""Device, sizes and clock of the micro-measurements."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """The device, and sizes: of a card, or tiny."""

    tiny: bool

    @property
    def device(self) -> torch.device:
        """Return the device that is measured."""
        return torch.device("cpu" if self.tiny else "cuda")

    def wait(self) -> None:
        """Wait for the card."""
        if not self.tiny:
            torch.cuda.synchronize()

    def milliseconds(self, function: Callable[[], Any], runs: int = 10, warm_up: int = 3) -> float:
        """Return the mean milliseconds of some runs in a row."""
        if self.tiny:
            runs, warm_up = 1, 1
        for _ in range(warm_up):
            function()
        self.wait()
        started = time.perf_counter()
        for _ in range(runs):
            function()
        self.wait()
        return 1000 * (time.perf_counter() - started) / runs

    def random(self, *shape: int, grad: bool = False) -> Tensor:
        """Return random bf16 numbers."""
        return torch.randn(shape, device=self.device, dtype=torch.bfloat16).requires_grad_(grad)

    def peak_bytes(self, function: Callable[[], Any]) -> float:
        """Return how far above what is there the card's memory goes; not a number on the CPU."""
        if self.tiny:
            function()
            return math.nan
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
