"""The `fp8` target: weights of the layers' products in 8-bit floats, as vLLM and SGLang read compressed-tensors.

Each output channel of a weight has its own scale, found from the weight alone, and the engine rounds the inputs token
by token as they come (W8A8 dynamic), so that nothing is calibrated. Embedding, head, norms and biases stay in 16 bits.
Scales are rounded to bf16 before the weights are divided by them: readers that keep scales in bf16 and those that keep
them in fp32 then see the same weights.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from thinktune.checkpoint.base_files import CARRIED_PATTERNS, CONFIG_FILE
from thinktune.errors import UserError
from thinktune.export.source import ModelSource
from thinktune.files import write_json
from thinktune.model.admission import admit_model, meta_model
from thinktune.model.decoder import decoder_layers
from thinktune.model.folder import INDEX, SINGLE_FILE, StoredTensor, list_some, read_raw_config, stored_tensors

Tick = Callable[[int], None]  # bytes done since the last call

LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448
KERNEL_MULTIPLE = 16  # of both sizes of a weight, for the 8-bit products of the cards
SHARD_BYTES = 2**30  # held in memory at once, or the largest tensor
SCALE_SUFFIX = "_scale"  # after the weight's own name

_OTHER_FILES = (*CARRIED_PATTERNS, "LICENSE*", "NOTICE*")


@dataclass(frozen=True, slots=True)
class Fp8Plan:
    """What is written: the stored tensors, those that become 8-bit floats, and modules that stay as they are.

    `ignored` are names of linear modules, as compressed-tensors wants them. `size_bytes` is that of the new weights.
    """

    folder: Path
    stored: Mapping[str, StoredTensor]
    rounded: frozenset[str]
    ignored: tuple[str, ...]
    size_bytes: int


def plan_fp8(folder: Path) -> Fp8Plan:
    """Plan the export of a model folder from its headers; raises UserError for a class that this form cannot hold."""
    admitted = admit_model(folder)
    weights = admitted.weights
    model = meta_model(folder, admitted.config, torch.float32)
    layers = {id(module): module for module in decoder_layers(model).modules()}
    whole = [name for name, parameter in decoder_layers(model).named_parameters() if parameter.ndim > 2]
    if weights.converted or whole:
        some = list_some(sorted(weights.converted) or whole)
        raise UserError(
            f"fp8: {type(model).__name__} has weights that are not plain matrices ({some}), such as experts, which "
            "fp8 does not support; export hf, and quantize it with llm-compressor"
        )
    rounded: set[str] = set()
    ignored: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        fits = module.in_features % KERNEL_MULTIPLE == 0 and module.out_features % KERNEL_MULTIPLE == 0
        if id(module) in layers and fits:
            rounded.add(weights.names[f"{name}.weight"])
        else:
            ignored.append(name)
    if not rounded:
        raise UserError(
            f"fp8: no matrix in the layers of {type(model).__name__} has sizes that are multiples of "
            f"{KERNEL_MULTIPLE}, as 8-bit kernels need; export hf or gguf"
        )
    # What no parameter reads, such as the other parts of a model of several modalities, is left out.
    read = {name: tensor for name, tensor in weights.stored.items() if name not in weights.unread}
    size = sum(_size(tensor, name in rounded) for name, tensor in read.items())
    return Fp8Plan(folder, read, frozenset(rounded), tuple(ignored), size)


def write_fp8(source: ModelSource, folder: Path, tick: Tick) -> Fp8Plan:
    """Write a model into an empty folder, a shard at a time; raises UserError where `plan_fp8` does."""
    plan = plan_fp8(source.folder)
    write_planned_fp8(plan, folder, tick)
    return plan


def write_planned_fp8(plan: Fp8Plan, folder: Path, tick: Tick) -> None:
    """Write what is planned into an empty folder, a shard at a time."""

    def convert(name: str, tensor: Tensor) -> dict[str, Tensor]:
        if name in plan.rounded:
            values, scale = round_rows(tensor)
            return {name: values, name + SCALE_SUFFIX: scale}
        return {name: tensor.to(_kept_dtype(plan.stored[name]))}

    _write_shards(plan.stored, lambda name: _size(plan.stored[name], name in plan.rounded), convert, folder, tick)
    _copy_other_files(plan.folder, folder)
    config = read_raw_config(plan.folder) | {"quantization_config": quantization_config(plan.ignored)}
    kept = "float16" if all(tensor.dtype == "F16" for tensor in plan.stored.values()) else "bfloat16"
    write_json(folder / CONFIG_FILE, _with_dtype(config, kept))


def round_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight (out, in) to float8_e4m3fn; returns it with its scales (out, 1) bf16."""
    values = weight.float()
    scale = values.abs().amax(1, keepdim=True) / LARGEST
    scale = scale.clamp_min(torch.finfo(torch.bfloat16).tiny).to(torch.bfloat16)
    # A scale that was rounded down would put the largest value of its row above what 8 bits hold.
    rounded = (values / scale.float()).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return rounded, scale


def dequantize_fp8(folder: Path, to: Path, tick: Tick) -> None:
    """Write an fp8 export's weights, as engines read them, as a plain fp32 folder that any release loads."""
    stored = stored_tensors(folder)
    scales = {name + SCALE_SUFFIX for name in stored}
    plain = {name: tensor for name, tensor in stored.items() if name not in scales}

    def convert(name: str, tensor: Tensor) -> dict[str, Tensor]:
        scale = stored.get(name + SCALE_SUFFIX)
        if scale is None:
            return {name: tensor.float()}
        return {name: tensor.float() * _read(scale, name + SCALE_SUFFIX).float()}

    _write_shards(plain, lambda name: 4 * math.prod(plain[name].shape), convert, to, tick)
    _copy_other_files(folder, to)
    config = read_raw_config(folder)
    del config["quantization_config"]
    write_json(to / CONFIG_FILE, _with_dtype(config, "float32"))


def quantization_config(ignored: tuple[str, ...]) -> dict[str, Any]:
    """Return the key of `config.json` that names this form, as the library compressed-tensors 0.20 writes it."""
    shared = {"num_bits": 8, "type": "float", "symmetric": True, "group_size": None}
    group = {
        "targets": ["Linear"],
        "weights": shared | {"strategy": "channel", "dynamic": False},
        "input_activations": shared | {"strategy": "token", "dynamic": True},
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(ignored),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    return {**config, **{key: dtype for key in ("dtype", "torch_dtype") if key in config}}


def _kept_dtype(tensor: StoredTensor) -> torch.dtype:
    return torch.float16 if tensor.dtype == "F16" else torch.bfloat16


def _size(tensor: StoredTensor, rounded: bool) -> int:
    values = math.prod(tensor.shape)
    return values + 2 * tensor.shape[0] if rounded else 2 * values


def _read(tensor: StoredTensor, name: str) -> Tensor:
    with safe_open(tensor.file, framework="pt") as file:
        return file.get_tensor(name)


def _write_shards(
    stored: Mapping[str, StoredTensor],
    size: Callable[[str], int],
    convert: Callable[[str, Tensor], dict[str, Tensor]],
    folder: Path,
    tick: Tick,
) -> None:
    """Convert stored tensors and write them as shards with an index, or as one file where they fit."""
    shards = [*_shards(stored, size)]
    places: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, 1):
        file = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensors |= convert(name, _read(stored[name], name))
            tick(size(name))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})


def _shards(stored: Mapping[str, StoredTensor], size: Callable[[str], int]) -> Iterator[list[str]]:
    """Group tensors into shards in the order of the files, so that each file is read once."""
    names: list[str] = []
    held = 0
    for name in sorted(stored, key=lambda name: (stored[name].file, name)):
        if names and held + size(name) > SHARD_BYTES:
            yield names
            names, held = [], 0
        names.append(name)
        held += size(name)
    yield names


def _copy_other_files(folder: Path, to: Path) -> None:
    for path in sorted({path for pattern in _OTHER_FILES for path in folder.glob(pattern) if path.is_file()}):
        place = to / path.relative_to(folder)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
