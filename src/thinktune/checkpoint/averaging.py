"""Averages of a base's and a tuned model's weights, written to new files a piece of one tensor at a time.

The weights are those of WiSE-FT (Wortsman et al., 2022, arXiv 2109.01903): w times the tuned model's plus 1 - w times
the base's, tensor by tensor.
"""

import json
import math
import struct
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from thinktune.checkpoint.base_files import StoredAs
from thinktune.checkpoint.weight_files import WeightPlan, plan_weights, tensor_files, write_index
from thinktune.errors import UserError
from thinktune.files import name_path

PIECE_ELEMENTS = 2**24  # of a tensor in memory at a time, of each model

# As safetensors names them in its files.
_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Average:
    """An average: the weight of the tuned model (0 to 1), and where the base stores each tensor.

    `base` has for each name that a tensor may have in a checkpoint the base's file and the name there. A tensor that
    it lacks, such as a buffer that the class computes, and one that holds no floating numbers stay the tuned model's.
    """

    weight: float
    base: Mapping[str, tuple[Path, str]]


@dataclass(frozen=True, slots=True)
class _Piecewise:
    """A tensor to write: its name in the checkpoint, its dtype in the new file, and its shape."""

    source: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_average(
    files: Sequence[Path],
    folder: Path,
    place: Path,
    average: Average,
    form: tuple[torch.dtype, Mapping[str, StoredAs]],
) -> None:
    """Write the average of a checkpoint's weights and its base's as safetensors: names, files, dtypes as `final/` has.

    The arithmetic is fp32's, or that of a wider dtype that either has. Never more than a piece of one tensor of each
    model is in memory. Raises UserError where a tensor has another shape in the base, OSError as `write_weights` does.

    Args:
        files: the checkpoint's safetensors.
        folder: where the new ones are written.
        place: the folder's later name, for errors.
        average: the weight, and the base's tensors.
        form: the dtype of the weights, and how the base stores them.
    """
    dtype, stored_as = form
    holders = tensor_files(files)
    plan = plan_weights(holders, stored_as)
    with ExitStack() as stack:
        opened: dict[Path, Any] = {}
        for path in {*holders.values(), *(path for path, _ in average.base.values())}:
            with name_path(path):
                opened[path] = stack.enter_context(safe_open(path, framework="pt"))
        reader = _Reader(opened, holders, average)
        tensors = {name: reader.describe(source, own or dtype) for name, (_, source, own) in plan.items()}
        for file in dict.fromkeys(file for file, _, _ in plan.values()):
            with name_path(place / file):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                _write_file(folder / file, _of_file(plan, tensors, file), reader)
    write_index(folder, plan, {name: (each.size_bytes, math.prod(each.shape)) for name, each in tensors.items()})


def _of_file(plan: WeightPlan, tensors: Mapping[str, _Piecewise], file: str) -> dict[str, _Piecewise]:
    """Return a file's tensors in the order in which safetensors writes them: wide dtypes first, so that all align."""
    names = [name for name, (where, _, _) in plan.items() if where == file]
    return {name: tensors[name] for name in sorted(names, key=lambda name: (-tensors[name].dtype.itemsize, name))}


def _write_file(path: Path, tensors: Mapping[str, _Piecewise], reader: "_Reader") -> None:
    """Write a safetensors file, whose header comes first: the sizes are known before any number is."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, each in tensors.items():
        begin, end = end, end + each.size_bytes
        header[name] = {"dtype": _NAMES[each.dtype], "shape": list(each.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for each in tensors.values():
            for piece in reader.pieces(each):
                file.write(piece.to(each.dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reader of averaged tensors from the opened files of both models."""

    opened: Mapping[Path, Any]
    holders: Mapping[str, Path]  # the checkpoint's file of each tensor
    average: Average

    def describe(self, source: str, dtype: torch.dtype) -> _Piecewise:
        """Describe a tensor by the files' headers; `dtype` counts for floating numbers."""
        part = self.opened[self.holders[source]].get_slice(source)
        shape, stored = tuple(part.get_shape()), _DTYPES[str(part.get_dtype())]
        if stored.is_floating_point and source in self.average.base:
            path, name = self.average.base[source]
            base = tuple(self.opened[path].get_slice(name).get_shape())
            if base != shape:
                raise UserError(
                    f"{path}: {name} has the shape {base} there and {shape} in the tuned model, so the two cannot "
                    "be averaged; put back the base that the run started from"
                )
        return _Piecewise(source, dtype if stored.is_floating_point else stored, shape)

    def pieces(self, tensor: _Piecewise) -> Generator[Tensor]:
        """Yield a tensor some rows at a time."""
        tuned = _read_pieces(self.opened[self.holders[tensor.source]], tensor.source, tensor.shape)
        if not tensor.dtype.is_floating_point or tensor.source not in self.average.base:
            yield from tuned
            return
        path, name = self.average.base[tensor.source]
        base = _read_pieces(self.opened[path], name, tensor.shape)
        for before, after in zip(base, tuned, strict=True):
            kind = torch.promote_types(torch.promote_types(before.dtype, after.dtype), torch.float32)
            yield torch.lerp(before.to(kind), after.to(kind), self.average.weight)


def _read_pieces(file: Any, name: str, shape: tuple[int, ...]) -> Generator[Tensor]:
    if not shape or not shape[0]:
        yield file.get_tensor(name)
        return
    part = file.get_slice(name)
    rows = max(1, PIECE_ELEMENTS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield part[start : start + rows]
