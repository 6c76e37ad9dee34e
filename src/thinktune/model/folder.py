"""Files of a stranger's model folder: what kind of folder it is, its configuration as JSON, and its stored weights.

Nothing here builds a model or runs code: each folder that holds none to train is told so in one sentence.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from thinktune.errors import UserError, shorten_error
from thinktune.files import is_safe_relative_path, read_json

INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
FIELD = "model.name"

_LFS_POINTER = b"version https://git-lfs"
MAX_DEPTH = 3  # of a trainer's folders of checkpoints
_TRAINER_PICKLES = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "random_states")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file; `dtype` is named as there, such as BF16 or F8_E4M3."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def refuse_other_folders(folder: Path) -> None:
    """Raise UserError where a path is no folder, or holds no whole model: pointers, an adapter, no weights."""
    if folder.is_file():
        kind = "a GGUF file, which is for inference" if folder.suffix == ".gguf" else "a file"
        raise UserError(f"{FIELD}: {folder} is {kind}; name the folder of a complete transformers model")
    try:
        files = sorted(path for path in folder.iterdir() if not path.is_dir())
        pointers = [path.name for path in files if _is_lfs_pointer(path)]
    except OSError as error:
        raise UserError(f"{FIELD}: {folder} cannot be read ({shorten_error(error)}); correct it") from error
    if pointers:
        raise UserError(
            f"{FIELD}: {folder} holds Git LFS pointers instead of files ({list_some(pointers)}); run git lfs pull there"
        )
    if any(path.name.startswith(("adapter_config.", "adapter_model.")) for path in files):
        raise UserError(_adapter_fault(folder))
    if not any(path.name in (SINGLE_FILE, INDEX) for path in files):
        raise UserError(f"{FIELD}: {folder} {_describe_without_weights(folder, [path.name for path in files])}")


def _is_lfs_pointer(path: Path) -> bool:
    """Return True for the text that Git leaves where Git LFS did not fetch a file."""
    if path.suffix not in (".safetensors", ".json", ".jinja", ".txt", ".model") or not path.is_file():
        return False
    if path.stat().st_size > 1024:
        return False
    return path.read_bytes().startswith(_LFS_POINTER)


def _adapter_fault(folder: Path) -> str:
    try:
        base = f" of {read_json(folder / 'adapter_config.json')['base_model_name_or_path']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        base = ""
    if (folder / "config.json").exists():
        return (
            f"{FIELD}: {folder} has an adapter{base} beside a model, but only complete models are read; merge it into "
            "the model (merge_and_unload of PEFT), or remove adapter_config.json and adapter_model.* to use the model "
            "without it"
        )
    return (
        f"{FIELD}: {folder} is a LoRA adapter{base}, not a whole model; merge it into its base first "
        "(merge_and_unload of PEFT) and name the folder that this writes"
    )


def _describe_without_weights(folder: Path, names: Sequence[str]) -> str:
    """Describe a folder without safetensors that transformers reads: what it has instead, and what to do."""
    inner = _inner_models(folder)
    shards = _matching(names, lambda name: name.startswith("model-") and name.endswith(".safetensors"))
    found = (
        (
            _matching(names, lambda name: name.endswith(".gguf")),
            "holds GGUF files, which are for inference ({}); use the transformers folder that they were made from",
        ),
        (
            [] if inner else [path.name for path in folder.glob("*") if _is_deepspeed(path)],
            "holds DeepSpeed's shards ({}); run `python zero_to_fp32.py . . --safe_serialization` in it first",
        ),
        (
            [] if inner else [path.name for path in folder.rglob("*.distcp")],
            "holds shards of torch's distributed checkpoint ({}); save the model as safetensors first",
        ),
        (shards, f"holds shards ({{}}) without {INDEX}, which says what is in them; get that file too"),
        (
            _matching(names, _is_pickle),
            "holds PyTorch pickles ({}), which are not read because they can run code; save the model as safetensors "
            "(save_pretrained)",
        ),
        (
            _matching(names, lambda name: name.endswith((".h5", ".msgpack", ".onnx", ".npz", ".tflite"))),
            "holds weights of another framework ({}); save the model as safetensors",
        ),
        (
            _matching(names, lambda name: name.endswith(".safetensors")),
            f"holds weights under another name ({{}}) than {SINGLE_FILE}; use the model in transformers' own form",
        ),
        (inner, "holds no model itself, but folders that do ({}); name one of those"),
        (
            [path.parent.relative_to(folder).as_posix() for path in _within(folder, "adapter_config.json")],
            "holds LoRA adapters ({}) and no whole model; merge one into its base first (merge_and_unload of "
            "PEFT) and name the folder that this writes",
        ),
    )
    for what, sentence in found:
        if what:
            return sentence.format(list_some(what))
    return f"holds no weights ({SINGLE_FILE}, or {INDEX} and its shards); get the whole model"


def _inner_models(folder: Path) -> list[str]:
    """List the models in a trainer's folder (`checkpoint-500`, `v0-20260801/checkpoint-500`), the last one first."""
    found = [path.parent for path in _within(folder, "config.json") if _has_weights(path.parent)]
    return sorted((path.relative_to(folder).as_posix() for path in found), key=_natural_key, reverse=True)


def _within(folder: Path, name: str) -> list[Path]:
    return [path for depth in range(1, MAX_DEPTH + 1) for path in folder.glob("/".join(["*"] * depth + [name]))]


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts checkpoint-90 before checkpoint-500."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _has_weights(folder: Path) -> bool:
    return (folder / SINGLE_FILE).is_file() or (folder / INDEX).is_file()


def _is_deepspeed(path: Path) -> bool:
    return path.name == "zero_to_fp32.py" or (path.is_dir() and path.name.startswith("global_step"))


def _is_pickle(name: str) -> bool:
    return name.endswith((".bin", ".pt", ".pth", ".ckpt")) and not name.startswith(_TRAINER_PICKLES)


def _matching(names: Sequence[str], belongs: Callable[[str], bool]) -> list[str]:
    return [name for name in names if belongs(name)]


def read_raw_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` as JSON; raises UserError where it is missing, cannot be read or is no JSON object."""
    path = folder / "config.json"
    try:
        raw = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{FIELD}: {folder} has no config.json; name a complete transformers folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{FIELD}: {path} cannot be read ({shorten_error(error)}); download the model again") from error
    if not isinstance(raw, dict):
        raise UserError(f"{FIELD}: {path} is not a JSON object; download the model again")
    return raw  # pyright: ignore[reportUnknownVariableType]


def refuse_quantized(raw: dict[str, Any], folder: Path) -> None:
    """Raise UserError where a configuration, or its text part's, says that the weights are quantized."""
    parts = [raw, *(value for value in raw.values() if isinstance(value, dict))]  # pyright: ignore
    for part, key in itertools.product(parts, ("quantization_config", "compression_config", "quantization")):
        if (settings := part.get(key)) is not None:
            method = settings.get("quant_method") if isinstance(settings, dict) else None  # pyright: ignore
            raise UserError(quantized_fault(folder, str(method or key)))  # pyright: ignore[reportUnknownArgumentType]


def quantized_fault(folder: Path, how: str) -> str:
    """Return the sentence for weights that are rounded, `how` being the method or the dtype."""
    return (
        f"{FIELD}: {folder} is quantized ({how}): its weights are rounded, and full training starts from the "
        "unrounded ones; use the model that it was made from"
    )


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors that transformers reads: the single file, or the index's shards.

    Raises UserError where the index is damaged, leads outside the folder, or stands beside another model.
    """
    index, single = folder / INDEX, folder / SINGLE_FILE
    if not index.exists():
        return [single]
    refuse_outside_paths(folder)
    try:
        names = sorted({str(name) for name in read_json(index)["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(
            f"{FIELD}: {index} cannot be read ({shorten_error(error)}); download the model again"
        ) from error
    if single.exists() and names != [SINGLE_FILE]:
        raise UserError(
            f"{FIELD}: {folder} holds two models, {SINGLE_FILE} and the shards of {INDEX}; remove the one that you "
            "do not want"
        )
    return [folder / name for name in names]


def refuse_outside_paths(folder: Path) -> None:
    """Raise UserError if the index of a model's shards names a path outside its folder."""
    for index in folder.glob("*.index.json"):
        try:
            names = set(read_json(index)["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            continue  # said where the index is used
        if outside := sorted(str(name) for name in names if not is_safe_relative_path(str(name))):
            raise UserError(
                f"{FIELD}: {index} names {outside[0]!r}, which is not a file of that folder; get the model from "
                "elsewhere"
            )


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Read the name, shape and dtype of every stored weight; raises UserError for files that are missing or not whole.

    Reads the files' headers, not the weights.
    """
    files = weight_files(folder)
    found: dict[str, StoredTensor] = {}
    faults: list[str] = []
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        faults.append(f"{FIELD}: {folder} lacks {list_some(missing)}; get the missing files")
    for path in files:
        if path.name in missing:
            continue
        try:
            with safe_open(path, framework="pt") as file:
                for name in [*file.keys()]:
                    part = file.get_slice(name)
                    found[name] = StoredTensor(path, tuple(part.get_shape()), str(part.get_dtype()))
        except Exception as error:  # safetensors, in Rust, raises its own kinds
            faults.append(
                f"{FIELD}: {path} is not a complete safetensors file ({shorten_error(error)}); download it again"
            )
    if faults:
        raise UserError(faults)
    return found


def list_some(names: Sequence[str]) -> str:
    """List the first three of many names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
