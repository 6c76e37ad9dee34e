"""The targets that a model can be exported to: how each is named, sized, written, and loaded again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from thinktune.errors import UserError
from thinktune.export.source import ModelSource
from thinktune.export.verification import Asked
from thinktune.model.folder import stored_tensors

Tick = Callable[[int], None]  # bytes done since the last call
GgufKind = Literal["f32", "f16", "bf16", "q8_0"]

_KIND_OF_DTYPE: dict[str, GgufKind] = {"F64": "f32", "F32": "f32", "F16": "f16", "BF16": "bf16"}
TARGETS = ("hf", "gguf", "gguf-f32", "gguf-f16", "gguf-bf16", "gguf-q8_0")


@dataclass(frozen=True, slots=True)
class Target:
    """One form of a model: its name, how its weights are stored, and the engine that loads it for the check.

    `write` fills an empty folder and reports bytes, about `size_bytes` in all. `open` loads what was written; it is
    None where that engine is not installed here, and `unchecked` then says what to do. `notes` say what the engine does
    otherwise than transformers.
    """

    name: str
    form: str
    engine: str
    size_bytes: int
    write: Callable[[Path, Tick], object]
    open: Callable[[Path], Asked] | None
    unchecked: str = ""
    notes: tuple[str, ...] = ()


def find_targets(source: ModelSource, names: Sequence[str]) -> list[Target]:
    """Return the targets of these names for a model, each once.

    Raises one UserError with every name that is unknown and every target that cannot hold this model.
    """
    found: list[Target] = []
    faults: list[str] = []
    for name in dict.fromkeys(names):
        try:
            found.append(_find_target(source, name))
        except UserError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise UserError(faults)
    return found


def _find_target(source: ModelSource, name: str) -> Target:
    match name:
        case "hf":
            return _hf_target(source)
        case "gguf":
            return _gguf_target(source, name, own_kind(source.folder))
        case "gguf-f32":
            return _gguf_target(source, name, "f32")
        case "gguf-f16":
            return _gguf_target(source, name, "f16")
        case "gguf-bf16":
            return _gguf_target(source, name, "bf16")
        case "gguf-q8_0":
            return _gguf_target(source, name, "q8_0")
        case _:
            raise UserError(f"export: {name!r} is not a target; name one or more of {', '.join(TARGETS)}")


def _hf_target(source: ModelSource) -> Target:
    from thinktune.export.hf import TransformersModel, write_hf  # imported late: another target does not need it

    size = sum(path.stat().st_size for path in source.folder.rglob("*") if path.is_file())
    engine = f"transformers {version('transformers')}"

    def write(folder: Path, tick: Tick) -> None:
        write_hf(source, folder, tick)

    return Target("hf", "f32", engine, size, write, TransformersModel)


def _gguf_target(source: ModelSource, name: str, kind: GgufKind) -> Target:
    from thinktune.export.gguf_file import plan_gguf, write_planned_gguf
    from thinktune.export.llama_cpp import EXTRA, LlamaCpp, is_installed

    plan = plan_gguf(source.folder, kind)
    file_name = f"{source.name}-{kind}.gguf"

    def write(folder: Path, tick: Tick) -> None:
        write_planned_gguf(plan, folder / file_name, tick)

    def reopen(folder: Path) -> Asked:
        return LlamaCpp(folder / file_name)

    known = is_installed()
    engine = f"llama.cpp (llama-cpp-python {version('llama-cpp-python')})" if known else "llama.cpp"
    return Target(
        name, kind, engine, plan.tensor_bytes, write, reopen if known else None, "" if known else EXTRA, plan.notes
    )


def own_kind(folder: Path) -> GgufKind:
    """Return the kind that holds a model's weights as they are: that of most of its values."""
    counts: dict[GgufKind, int] = {}
    for tensor in stored_tensors(folder).values():
        kind = _KIND_OF_DTYPE.get(tensor.dtype, "f32")
        counts[kind] = counts.get(kind, 0) + math.prod(tensor.shape)
    return max(counts, key=lambda kind: counts[kind])
