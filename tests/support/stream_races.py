"""Streams that run nothing, but know what is ordered: a detector of data races for code that copies on several streams.

Each stream has a vector clock. Two uses of one storage, one of them a write, must be ordered by a wait. The memory of a
device tensor that is freed counts as written by the computing stream at once, as torch's allocator hands it out again.
"""

import weakref
from collections import defaultdict
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Stream:
    """A stream of the detector, with the methods of torch's that our code calls."""

    def __init__(self, races: "Races") -> None:
        self._races = races
        self.clock: dict[int, int] = defaultdict(int)

    def wait_event(self, event: dict[int, int]) -> None:
        for stream, time in event.items():
            self.clock[stream] = max(self.clock[stream], time)

    def wait_stream(self, stream: "Stream") -> None:
        self.wait_event(stream.record_event())

    def record_event(self) -> dict[int, int]:
        return dict(self.clock)

    def __enter__(self) -> None:
        self._races.current.append(self)

    def __exit__(self, *_: object) -> None:
        self._races.current.pop()


class Races(TorchDispatchMode):
    """Uses of storages by streams; `found` has a line for each pair that nothing orders."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.computing = Stream(self)
        self.current = [self.computing]
        self.found: list[str] = []
        self._device = device
        self._uses: dict[int, list[tuple[int, int, bool, str]]] = defaultdict(list)
        self._watched: set[int] = set()

    def current_stream(self, *_: Any) -> Stream:
        """Stand for `torch.accelerator.current_stream`."""
        return self.current[-1]

    def use(self, tensor: Tensor, what: str, *, writes: bool) -> None:
        """Note that the current stream uses a tensor."""
        key = tensor.untyped_storage()._cdata
        if key not in self._watched:
            self._watched.add(key)
            on_device = tensor.device.type == self._device
            weakref.finalize(tensor.untyped_storage(), self._free, key, on_device)
        self._use(self.current[-1], key, what, writes)

    def _free(self, key: int, on_device: bool) -> None:
        if on_device:
            self._use(self.computing, key, "reuse", True)
        self._watched.discard(key)
        self._uses.pop(key, None)

    def _use(self, stream: Stream, key: int, what: str, writes: bool) -> None:
        for other, time, wrote, before in self._uses[key]:
            if (writes or wrote) and stream.clock[other] < time:
                self.found.append(f"{what} while {before}")
        stream.clock[id(stream)] += 1
        self._uses[key].append((id(stream), stream.clock[id(stream)], writes, what))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "aten::copy_":
            target, source = args[:2]
            way = f"a copy to the {'device' if target.device.type == self._device else 'host'}"
            self.use(source, way, writes=False)
            self.use(target, way, writes=True)
        return func(*args, **(kwargs or {}))
