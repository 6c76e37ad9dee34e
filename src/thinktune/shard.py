"""The model over many ranks, by PyTorch's FSDP2: cut before its weights are read, each rank reading its share alone."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_cut
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from thinktune.errors import UserError
from thinktune.files import read_json
from thinktune.layers import use_float8
from thinktune.model import does_not_load, refuse_escapes, refuse_unknown

Made = TypeVar("Made")


def load_shares(
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
    refuse_escapes(folder)
    model = _empty_model(folder, dtype, trust_remote_code)
    refuse_unknown(model.config, folder)
    if float8:
        use_float8(model)
    spread_over(model, mesh)
    model.to_empty(device=device)
    # What is computed and not read: the rotary frequencies.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
    _read_weights(model, folder)
    return model


def spread_over(model: Any, mesh: DeviceMesh) -> None:
    """Cut a model's weights over a mesh, layer by layer; what is not in a layer is a group of its own.

    Gradients are summed in fp32, whatever the weights are kept in. `gathered` runs with the group that is in no layer
    put together.
    """
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    model.gathered = MethodType(_call, model)
    register_fsdp_forward_method(model, "gathered")


def _call(_model: Any, function: Callable[[], Made]) -> Made:
    return function()


def _empty_model(folder: Path, dtype: torch.dtype, trust_remote_code: bool) -> Any:
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
        raise does_not_load(folder, error) from error
    return model


def _read_weights(model: Any, folder: Path) -> None:
    """Fill this rank's shares from the folder's safetensors; raises UserError where they are not the model's."""
    wanted = dict(model.named_parameters())  # tied weights once
    try:
        written = _shapes(folder)
    except Exception as error:
        raise does_not_load(folder, error) from error
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


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a folder's safetensors."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        with safe_open(folder / name, framework="pt") as file:
            found |= {key: tuple(file.get_slice(key).get_shape()) for key in [*file.keys()]}
    return found
