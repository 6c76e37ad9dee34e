"""The targets that a model can be exported to: how each is named, sized, written, and loaded again."""

import importlib
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from thinktune.config import load_recipe
from thinktune.errors import UserError
from thinktune.export.engines import (
    ENGINE_TITLES,
    EngineName,
    serving_command,
    try_engine,
    write_serving_script,
)
from thinktune.export.serving_settings import read_serving_settings
from thinktune.export.source import ModelSource
from thinktune.export.verification import Asked
from thinktune.model.folder import stored_tensors

# The writers and the engines are imported late: each target needs its own, some of them optional packages.

Tick = Callable[[int], None]  # bytes done since the last call
GgufKind = Literal["f32", "f16", "bf16", "q8_0"]

_GGUF, _OLLAMA = "gguf", "ollama"
_KINDS: dict[str, GgufKind] = {"f32": "f32", "f16": "f16", "bf16": "bf16", "q8_0": "q8_0"}
_KIND_OF_DTYPE: dict[str, GgufKind] = {"F64": "f32", "F32": "f32", "F16": "f16", "BF16": "bf16"}
_FP32_BYTES = 4
_ENGINES: dict[str, EngineName] = {name: name for name in get_args(EngineName)}
TARGETS = (
    "hf",
    "fp8",
    *(f"{form}{kind}" for form in (_GGUF, _OLLAMA) for kind in ("", *(f"-{each}" for each in _KINDS))),
    *_ENGINES,
)


@dataclass(frozen=True, slots=True)
class Target:
    """One form of a model: its name, how its weights are stored, and the engine that loads it for the check.

    `write` fills an empty folder and reports bytes, about `size_bytes` in all. `open` loads what was written; it is
    None where that engine is not installed here, and `unchecked` then says what to do. `finish` is run in the export's
    place and returns a sentence. `notes` say what the engine does otherwise than transformers.
    """

    name: str
    form: str
    engine: str
    size_bytes: int
    write: Callable[[Path, Tick], object]
    open: Callable[[Path], Asked] | None
    unchecked: str = ""
    notes: tuple[str, ...] = ()
    finish: Callable[[Path], str] | None = None

    @property
    def holds_model(self) -> bool:
        """Whether weights are written, not a script alone."""
        return self.size_bytes > 0


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


def own_kind(folder: Path) -> GgufKind:
    """Return the kind that holds a model's weights as they are: that of most of its values."""
    counts: dict[GgufKind, int] = {}
    for tensor in stored_tensors(folder).values():
        kind = _KIND_OF_DTYPE.get(tensor.dtype, "f32")
        counts[kind] = counts.get(kind, 0) + math.prod(tensor.shape)
    return max(counts, key=lambda kind: counts[kind])


def _find_target(source: ModelSource, name: str) -> Target:
    if name == "hf":
        return _hf_target(source)
    if name == "fp8":
        return _fp8_target(source)
    if name in _ENGINES:
        return _engine_target(source, _ENGINES[name])
    form, _, kind = name.partition("-")
    if form not in (_GGUF, _OLLAMA) or name.endswith("-"):
        raise UserError(f"export: {name!r} is not a target; name one or more of {', '.join(TARGETS)}")
    if not kind or kind in _KINDS:
        found = _gguf_target(source, name, _KINDS[kind] if kind else own_kind(source.folder))
    else:
        found = _quantized_target(source, name, kind)
    return _with_modelfile(source, found) if form == _OLLAMA else found


def _hf_target(source: ModelSource) -> Target:
    from thinktune.export.hf import TransformersModel, model_files, write_hf

    trusted = source.run is not None and load_recipe(source.run.recipe).model.trust_remote_code

    def write(folder: Path, tick: Tick) -> None:
        write_hf(source, folder, tick)

    def reopen(folder: Path) -> Asked:
        return TransformersModel(folder, trust_remote_code=trusted)

    size = sum(path.stat().st_size for path in model_files(source))
    return Target("hf", "f32", f"transformers {version('transformers')}", size, write, reopen)


def _fp8_target(source: ModelSource) -> Target:
    from thinktune.export.fp8 import dequantize_fp8, plan_fp8, write_planned_fp8
    from thinktune.export.hf import TransformersModel

    plan = plan_fp8(source.folder)

    def write(folder: Path, tick: Tick) -> None:
        write_planned_fp8(plan, folder, tick)

    def reopen(folder: Path) -> Asked:
        # No engine of this machine need read the form: its weights, as engines read them, are asked in transformers.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".", suffix=".partial") as plain:
            dequantize_fp8(folder, Path(plain), _ignore)
            return TransformersModel(Path(plain))

    parameters = sum(math.prod(tensor.shape) for tensor in plan.stored.values())
    engine = f"transformers {version('transformers')}, from its weights as engines read them"
    return Target("fp8", "fp8", engine, plan.size_bytes + _FP32_BYTES * parameters, write, reopen)


def _gguf_target(source: ModelSource, name: str, kind: GgufKind) -> Target:
    from thinktune.export.gguf.file import plan_gguf, write_planned_gguf

    plan = plan_gguf(source.folder, kind)

    def write(folder: Path, tick: Tick) -> None:
        write_planned_gguf(plan, folder / _gguf_name(source, kind), tick)

    return _in_llama_cpp(source, Target(name, kind, "", plan.tensor_bytes, write, None, notes=plan.notes))


def _quantized_target(source: ModelSource, name: str, kind: str) -> Target:
    """Return the target of a kind that llama-quantize makes, from a GGUF that holds the weights as they are."""
    from thinktune.export.gguf.file import plan_gguf, write_planned_gguf
    from thinktune.export.gguf.programs import quantize_gguf, quantized_kinds, unknown_kind

    if kind not in quantized_kinds():
        raise UserError(unknown_kind(kind, tuple(_KINDS)))
    plan = plan_gguf(source.folder, own_kind(source.folder))

    def write(folder: Path, tick: Tick) -> None:
        whole = folder / "whole.gguf"
        write_planned_gguf(plan, whole, tick)
        quantize_gguf(whole, folder / _gguf_name(source, kind), kind, tick)
        whole.unlink()

    return _in_llama_cpp(source, Target(name, kind, "", 2 * plan.tensor_bytes, write, None, notes=plan.notes))


def _in_llama_cpp(source: ModelSource, target: Target) -> Target:
    """Return a target of one GGUF with the engine that asks it, where that is installed."""
    from thinktune.export.gguf.llama_cpp import EXTRA, LlamaCpp, is_installed

    if not is_installed():
        return replace(target, engine="llama.cpp", unchecked=EXTRA)

    def reopen(folder: Path) -> Asked:
        return LlamaCpp(folder / _gguf_name(source, target.form))

    library: Any = importlib.import_module("llama_cpp")
    return replace(target, engine=f"llama.cpp (llama-cpp-python {library.__version__})", open=reopen)


def _with_modelfile(source: ModelSource, target: Target) -> Target:
    """Return a target that has Ollama's Modelfile beside its GGUF, and is given to Ollama where that is installed."""
    from thinktune.export.ollama import create_in_ollama, write_modelfile

    notes: list[str] = []

    def write(folder: Path, tick: Tick) -> None:
        target.write(folder, tick)
        notes[:] = write_modelfile(source, folder / _gguf_name(source, target.form), folder).notes

    def finish(folder: Path) -> str:
        return "; ".join([create_in_ollama(folder, source.name), *notes])

    return replace(target, write=write, finish=finish)


def _engine_target(source: ModelSource, engine: EngineName) -> Target:
    """Return the target of a script that serves the model's own folder; it has no weights that could be asked."""
    command = serving_command(read_serving_settings(source), engine)

    def write(folder: Path, _: Tick) -> None:
        write_serving_script(source, engine, folder)

    def finish(folder: Path) -> str:
        return f"{try_engine(command)}; the line: {command.line(folder)}"

    unchecked = "a script was written; the engine was not tested"
    return Target(engine, "script", ENGINE_TITLES[engine], 0, write, None, unchecked, command.notes, finish)


def _ignore(_bytes: int) -> None:
    """Do nothing: the progress of a copy that is only asked."""


def _gguf_name(source: ModelSource, kind: str) -> str:
    return f"{source.name}-{kind}.gguf"
