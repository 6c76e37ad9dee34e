"""Load transformers' models from local folders: whole, or sharded over ranks by FSDP2."""

import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_dcp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from thinktune.distributed.world import raise_checkpoint_cause
from thinktune.errors import UserError, shorten_error
from thinktune.files import is_safe_relative_path, read_json
from thinktune.model.protocols import CausalLM, ModelConfig
from thinktune.model.transforms import apply_float8

SUPPORTED_MODEL_TYPES = ("qwen3", "qwen2")  # their forward pass hands cu_seqlens on to the attention


def read_config(folder: Path, *, trust_remote_code: bool = False) -> ModelConfig:
    """Read the configuration in a model's local folder."""
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    return config


def load_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    *,
    trust_remote_code: bool = False,
) -> CausalLM:
    """Load a causal language model from a local folder, with weights in `dtype`.

    Reads safetensors only, and runs no code of the folder unless it is trusted. Raises UserError if the folder has no
    model that loads whole, or names files outside itself.
    """
    refuse_outside_paths(folder)
    options: Any = {
        "dtype": dtype,
        "attn_implementation": "thinktune_rows",  # runs anywhere; `set_attention` may choose a faster one
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
    _require_whole_weights(folder, {kind: report[kind] for kind in ("missing_keys", "mismatched_keys")})
    return model.to(device)


def load_error(folder: Path, error: Exception) -> UserError:
    """Return the error for a folder whose model does not load; libraries raise whatever their parsers raise."""
    return UserError(
        f"model.name: {folder} has no model that loads ({shorten_error(error)}); name a whole transformers folder"
    )


def _require_whole_weights(folder: Path, faults: Mapping[str, Collection[Any]]) -> None:
    """Raise UserError if any weight is missing or has another shape; `faults` are names of weights by kind of fault."""
    wrong = [
        f"{kind} {len(names)} ({', '.join(map(str, sorted(names, key=str)[:3]))})"
        for kind, names in faults.items()
        if names
    ]
    if wrong:
        raise UserError(f"model.name: the weights in {folder} are not whole: {'; '.join(wrong)}; get the model again")


def refuse_outside_paths(folder: Path) -> None:
    """Raise UserError if the index of a model's shards names a path outside its folder."""
    for index in folder.glob("*.index.json"):
        try:
            names = set(read_json(index)["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue  # transformers reports what is wrong with it
        if outside := sorted(name for name in names if not is_safe_relative_path(str(name))):
            raise UserError(
                f"model.name: {index} names {outside[0]!r}, which is not a file of that folder; get the model elsewhere"
            )


def refuse_unknown_architecture(config: ModelConfig, folder: Path) -> None:
    """Raise UserError unless the forward pass of a model's class is known to keep packed rows apart."""
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config.model_type not in SUPPORTED_MODEL_TYPES or layers != {"full_attention"}:
        raise UserError(
            f"model.name: {folder} is of type {config.model_type} with layers of {', '.join(sorted(layers))}; "
            f"only {', '.join(SUPPORTED_MODEL_TYPES)} with full_attention are supported; use one of those"
        )


def count_parameters(model: nn.Module | CausalLM) -> int:
    """Return the number of weights, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


logging.disable_progress_bar()  # its bars for each file would break into our lines


Result = TypeVar("Result")


def load_sharded_model(
    folder: Path,
    mesh: DeviceMesh,
    device: torch.device,
    dtype: torch.dtype,
    *,
    trust_remote_code: bool = False,
    float8: bool = False,
) -> CausalLM:
    """Load a causal language model sharded over ranks by FSDP2, with weights in `dtype`.

    The model is sharded before its weights are read: no rank ever holds more than its shard. Collective: all ranks must
    call it. Raises UserError as `load_model` does.

    Args:
        folder: a plain transformers folder with safetensors.
        mesh: the ranks, from `World.mesh`.
        device: this rank's device.
        dtype: dtype of the weights.
        trust_remote_code: whether code of the folder may run.
        float8: whether the layers' matrix products use fp8, which must be set before sharding.
    """
    refuse_outside_paths(folder)
    model = _meta_model(folder, dtype, trust_remote_code)
    refuse_unknown_architecture(model.config, folder)
    if float8:
        apply_float8(model)
    apply_fsdp(model, mesh)
    model.to_empty(device=device)
    # The rotary frequencies are computed, not read.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
    _load_sharded_weights(model, folder)
    return model


def apply_fsdp(model: Any, mesh: DeviceMesh) -> None:
    """Shard a model's weights over a mesh, one FSDP group per layer and a root group for the rest.

    Gradients are reduced in fp32, whatever the dtype of the weights. Sets the method `with_unsharded_root`, which
    calls a function while the root group is unsharded.
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
    """Build the model on the meta device, without weights."""
    try:
        config: Any = read_config(folder, trust_remote_code=trust_remote_code)
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
    """Read this rank's shards from the folder's safetensors; raise UserError if they are not the model's."""
    wanted = dict(model.named_parameters())  # tied weights once
    try:
        written = _safetensors_shapes(folder)
    except Exception as error:
        raise load_error(folder, error) from error
    # A folder may have either name of tied weights, or both.
    for name, other in (model.all_tied_weights_keys or {}).items():
        if other in wanted and other not in written and name in written:
            wanted[name] = wanted.pop(other)
    missing = [name for name in wanted if name not in written]
    other = [name for name in wanted if name in written and written[name] != tuple(wanted[name].shape)]
    _require_whole_weights(folder, {"missing_keys": missing, "mismatched_keys": other})
    with torch.no_grad(), warnings.catch_warnings(), raise_checkpoint_cause():
        warnings.simplefilter("ignore")  # each rank reads for itself, on purpose
        load_dcp(wanted, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def _safetensors_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a folder's safetensors."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        with safe_open(folder / name, framework="pt") as file:
            found |= {key: tuple(file.get_slice(key).get_shape()) for key in [*file.keys()]}
    return found
