"""Capture of a function's work as a CUDA graph, which the host then launches as one."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

Step = Callable[[], Tensor]  # from tensors with fixed addresses to one
Capture = Callable[[Step], Step]  # to what repeats it on whatever stands at those addresses


class CudaGraphs:
    """Graphs that are replayed one at a time and share the memory of what lives within them.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None  # one for all that share memory
        self._alive: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def __call__(self, step: Step) -> Step:
        """Return a function that repeats the work of `step`, which must have run before; its result is overwritten.

        Raises RuntimeError where the host reads from the device in it, torch.OutOfMemoryError where memory is full.
        """
        self._stream = self._stream or torch.cuda.Stream(self._device)
        # Of a graph that lives: a pool whose graphs have all gone cannot be taken again.
        pool = next((graph.pool() for graph in self._alive), None)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may allocate and copy meanwhile, as one that writes a checkpoint does.
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                found = step()
        except Exception:
            _end_allocation(graph, self._stream.device_index)
            raise
        self._alive.add(graph)

        def replay() -> Tensor:
            graph.replay()
            return found

        return replay


def _end_allocation(graph: torch.cuda.CUDAGraph, device_index: int) -> None:
    """Tell torch's allocator that a capture is over: `capture_end` does not where CUDA refused the capture.

    It would never again give back memory that it keeps for later, and training would run out of it.
    """
    library: Any = torch._C  # pyright: ignore[reportPrivateUsage]
    with suppress(RuntimeError, AttributeError):  # where it knows already
        library._cuda_endAllocateToPool(device_index, graph.pool())
