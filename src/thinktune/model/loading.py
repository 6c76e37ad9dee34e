"""The model over many ranks, by PyTorch's FSDP2: cut before its weights are read, each rank reading its share alone."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_cut
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from thinktune.errors import UserError, shorten_error
from thinktune.files import is_safe_relative_path, read_json
from thinktune.model.protocols import CausalLM
from thinktune.model.transforms import apply_float8

SUPPORTED_MODEL_TYPES = ("qwen3", "qwen2")  # whose forward pass takes boundaries and hands them to the attention


def read_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The configuration in a model's local folder, without its weights."""
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)


def load_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    *,
    trust_remote_code: bool = False,
) -> Any:
    """A causal language model from a local folder, weights in `dtype`.

    Only safetensors are read, and no code of the folder runs unless it is trusted. Raises UserError where the folder
    holds no model that loads whole, or names files outside itself.
    """
    refuse_outside_paths(folder)
    options: Any = {
        "dtype": dtype,
        "attn_implementation": "thinktune_rows",  # which runs anywhere; `set_attention` may choose a faster one
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
        "trust_remote_code": trust_remote_code,
    }
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    except Exception as error:
        raise load_error(folder, error) from error
    model, report = loaded
    refuse_unknown_architecture(model.config, folder)
    wrong = [
        f"{kind} {len(names)} ({', '.join(map(str, sorted(names, key=str)[:3]))})"
        for kind, names in report.items()
        if names and kind in ("missing_keys", "mismatched_keys")
    ]
    if wrong:
        raise UserError(f"model.name: the weights in {folder} are not whole: {'; '.join(wrong)}; fetch the model again")
    return model.to(device)


def load_error(folder: Path, error: Exception) -> UserError:
    """The error for a folder of which no model comes: libraries raise whatever their parsers raise."""
    return UserError(
        f"model.name: {folder} holds no model that loads ({shorten_error(error)}); name a whole transformers folder"
    )


def refuse_outside_paths(folder: Path) -> None:
    """Raise UserError where the list of a model's shards names a place outside its folder."""
    for index in folder.glob("*.index.json"):
        try:
            names = set(read_json(index)["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue  # transformers says what is wrong with it
        if outside := sorted(name for name in names if not is_safe_relative_path(str(name))):
            raise UserError(
                f"model.name: {index} names {outside[0]!r}, which is no file of that folder; take the model elsewhere"
            )


def refuse_unknown_architecture(config: Any, folder: Path) -> None:
    """Raise UserError where a model is of no kind whose forward pass is known to keep packed rows apart."""
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config.model_type not in SUPPORTED_MODEL_TYPES or layers != {"full_attention"}:
        raise UserError(
            f"model.name: {folder} is of type {config.model_type} with layers of {', '.join(sorted(layers))}; "
            f"only {', '.join(SUPPORTED_MODEL_TYPES)} with full_attention are known, so take one of those"
        )


def count_parameters(model: nn.Module | CausalLM) -> int:
    """Number of weights, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


logging.disable_progress_bar()  # its bars for each file would stand between our lines


Result = TypeVar("Result")


def load_sharded_model(
    folder: Path,
    mesh: DeviceMesh,
    device: torch.device,
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
    float8: bool = False,
) -> Any:
    """A causal language model from a local folder, of whose weights each rank holds its share, in `dtype`.

    No rank ever holds more of the weights than its share. All ranks must ask. Raises UserError as `model.load_model`
    does.

    Args:
        folder: a plain transformers folder with safetensors.
        mesh: the ranks, as `World.mesh` gives them.
        device: this rank's own.
        dtype: of the weights.
        trust_remote_code: whether code of the folder may run.
        float8: whether the layers' products are to be made in 8 bits, which must be said before they are cut.
    """
    refuse_outside_paths(folder)
    model = _meta_model(folder, dtype, trust_remote_code)
    refuse_unknown_architecture(model.config, folder)
    if float8:
        apply_float8(model)
    apply_fsdp(model, mesh)
    model.to_empty(device=device)
    # What is computed and not read: the rotary frequencies.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
    _load_sharded_weights(model, folder)
    return model


def apply_fsdp(model: Any, mesh: DeviceMesh) -> None:
    """Cut a model's weights over a mesh, layer by layer; what is not in a layer is a group of its own.

    Gradients are summed in fp32, whatever the weights are kept in. `with_unsharded_root` runs with the group that is in no layer
    put together.
    """
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    model.with_unsharded_root = MethodType(_call_function, model)
    register_fsdp_forward_method(model, "with_unsharded_root")


def _call_function(_model: Any, function: Callable[[], Result]) -> Result:
    return function()


def _meta_model(folder: Path, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The model's parts without any numbers."""
    options: Any = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation="thinktune_rows", trust_remote_code=trust_remote_code
            )
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise load_error(folder, error) from error
    return model


def _load_sharded_weights(model: Any, folder: Path) -> None:
    """Fill this rank's shares from the folder's safetensors; raises UserError where they are not the model's."""
    wanted = dict(model.named_parameters())  # tied weights once
    try:
        written = _safetensors_shapes(folder)
    except Exception as error:
        raise load_error(folder, error) from error
    # Of tied weights a folder may hold either name, or both.
    for name, other in (model.all_tied_weights_keys or {}).items():
        if other in wanted and other not in written and name in written:
            wanted[name] = wanted.pop(other)
    missing = [name for name in wanted if name not in written]
    other = [name for name in wanted if name in written and written[name] != tuple(wanted[name].shape)]
    kinds = {"missing_keys": missing, "mismatched_keys": other}
    wrong = [f"{kind} {len(names)} ({', '.join(sorted(names)[:3])})" for kind, names in kinds.items() if names]
    if wrong:
        raise UserError(f"model.name: the weights in {folder} are not whole: {'; '.join(wrong)}; fetch the model again")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that each rank reads for itself is meant
        load_cut(wanted, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def _safetensors_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a folder's safetensors."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        with safe_open(folder / name, framework="pt") as file:
            found |= {key: tuple(file.get_slice(key).get_shape()) for key in [*file.keys()]}
    return found
