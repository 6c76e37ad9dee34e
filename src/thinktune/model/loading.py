"""Load transformers' models from local folders: whole, or sharded over ranks by FSDP2."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_dcp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from thinktune.distributed.world import raise_checkpoint_cause
from thinktune.errors import UserError, shorten_error
from thinktune.files import system_error
from thinktune.library_output import captured_output
from thinktune.model.admission import Admitted, AdmittedModel, admit_model, meta_model
from thinktune.model.decoder import decoder_layers
from thinktune.model.folder import FIELD, list_some
from thinktune.model.generation_config import GENERATION_CONFIG, read_generation_config
from thinktune.model.protocols import CausalLM
from thinktune.model.stored_weights import MatchedWeights, read_chunks, refuse_non_finite
from thinktune.model.weight_names import set_saved_names, wrapper_conversions
from thinktune.progress import Say, say_nothing


def load_model(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    *,
    trust_remote_code: bool = False,
    say: Say = say_nothing,
) -> CausalLM:
    """Load a causal language model from a local folder, with weights in `dtype`.

    Reads safetensors only, and runs no code of the folder unless it is trusted; `say` is told what of the folder is not
    used. Raises UserError where `admit_model` does, and where a weight is not finite.
    """
    admitted = admit_model(folder, trust_remote_code=trust_remote_code)
    for note in admitted.notes:
        say(note)
    return load_admitted(folder, admitted, device, dtype, trust_remote_code=trust_remote_code)


def load_admitted(
    folder: Path,
    admitted: AdmittedModel,
    device: torch.device,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    *,
    trust_remote_code: bool = False,
) -> CausalLM:
    """Load a folder's model, or its text part, once it is admitted; other tensors of its files are never read.

    Raises UserError where transformers does not load it, and where a weight is not finite.
    """
    options: Any = {
        "config": admitted.config,
        "dtype": dtype,
        "attn_implementation": "thinktune_rows",  # runs anywhere; `set_attention` may choose a faster one
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
        "trust_remote_code": trust_remote_code,
        "key_mapping": dict(admitted.weights.renamings) or None,
    }
    tensors = admitted.weights.names.keys() | admitted.weights.converted
    try:
        # This imports the model's class, and what that imports.
        with captured_output(), wrapper_conversions(admitted.config.model_type, tensors, admitted.weights.wrapper):
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    except Exception as error:
        raise load_error(folder, error) from error
    model, report = loaded
    if wrong := [*report["missing_keys"], *report["mismatched_keys"]]:
        raise load_error(folder, ValueError(f"weights are missing: {list_some(sorted(map(str, wrong)))}"))
    set_saved_names(model, is_part=admitted.weights.is_part)
    model = model.to(device)
    refuse_non_finite(model, folder)
    return model


def load_error(folder: Path, error: Exception) -> UserError:
    """Return the error for a folder whose model does not load; libraries raise whatever their parsers raise."""
    if failed := system_error(error):
        return UserError(
            f"model.name: {folder} cannot be read ({failed.strerror or failed}); check its disk, its permissions and "
            "the limits of memory and files (ulimit -a)"
        )
    return UserError(
        f"{FIELD}: {folder} has no model that can be loaded ({shorten_error(error)}); name a complete transformers "
        "folder"
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
    """
    admitted = admit_model(folder, trust_remote_code=trust_remote_code)
    model = meta_model(folder, admitted.config, dtype, trust_remote_code=trust_remote_code)
    if fault := sharding_fault(model, admitted.weights, folder):
        raise UserError(fault)
    computed = _computed_buffers(model, admitted.weights)
    if (folder / GENERATION_CONFIG).is_file():
        model.generation_config = read_generation_config(folder)
    apply_fsdp(model, mesh)
    model.to_empty(device=device)
    _load_sharded_weights(model, admitted.weights, folder)
    _fill_buffers(model, admitted.weights, computed)
    return model


def many_ranks_fault(folder: Path, admitted: Admitted | AdmittedModel, *, trust_remote_code: bool) -> str | None:
    """Return the sentence for an admitted folder that one rank can train and many cannot, or None."""
    model = meta_model(folder, admitted.config, torch.float32, trust_remote_code=trust_remote_code)
    return sharding_fault(model, admitted.weights, folder)


def sharding_fault(model: Any, weights: MatchedWeights, folder: Path) -> str | None:
    """Return the sentence for a model whose shards cannot be read each for itself, or that has none; else None."""
    converted: frozenset[str] = getattr(weights, "converted", frozenset())
    parameters = dict(model.named_parameters())
    if fused := sorted(name for name in parameters if name in converted or name not in weights.names):
        return (
            f"{FIELD}: {folder} stores {list_some(fused)} in another form than the model has (experts that are "
            "fused while loading), which several ranks cannot read yet; train it on one card"
        )
    if whole := sorted(name for name, weight in parameters.items() if not weight.ndim):
        return f"{FIELD}: {folder}: {list_some(whole)} cannot be sharded over ranks; train it on one card"
    return _buffer_fault(model, weights, folder)


def _buffer_fault(model: Any, weights: MatchedWeights, folder: Path) -> str | None:
    """Return the sentence for buffers that no rank could have: they are made with the model, and it is made empty."""
    computed = _computed_buffers(model, weights)
    if left := [name for name, buffer in computed.items() if buffer.is_floating_point() and buffer.isnan().any()]:
        return (
            f"{FIELD}: {folder}: several ranks cannot compute {list_some(left)}, which the class computes while it "
            "is built; train it on one card"
        )
    return None


def _computed_buffers(model: Any, weights: MatchedWeights) -> dict[str, torch.Tensor]:
    """Let the class of a model on the meta device compute the buffers that are not stored, such as rotary frequencies.

    On the CPU, as loading on one device does; NaN where the class leaves one as it was. To be asked before FSDP puts
    classes of its own in front of the model's, which transformers takes for a stranger's, and does not run in full.
    """
    empty = copy.deepcopy(model)
    stored = _stored_buffers(empty, weights)
    for tensor in empty.parameters():
        tensor._is_hf_initialized = True  # transformers leaves alone what has this mark
    for module in empty.modules():
        for name, buffer in [*module.named_buffers(recurse=False)]:
            blank = torch.full_like(buffer, torch.nan if buffer.is_floating_point() else 0, device="cpu")
            module._buffers[name] = blank
    for name in stored:
        empty.get_buffer(name)._is_hf_initialized = True
    with torch.no_grad():
        empty.initialize_weights()
    return {name: buffer for name, buffer in empty.named_buffers() if name not in stored}


def _stored_buffers(model: Any, weights: MatchedWeights) -> dict[str, str]:
    """Return the buffers that the folder holds, each with its name there."""
    saved = model.state_dict().keys()
    return {name: weights.names[name] for name, _ in model.named_buffers() if name in saved and name in weights.names}


def _fill_buffers(model: Any, weights: MatchedWeights, computed: dict[str, torch.Tensor]) -> None:
    """Read the buffers that the folder holds, and set the others to what the class has computed."""
    with torch.no_grad():
        for name, known in _stored_buffers(model, weights).items():
            buffer = model.get_buffer(name)
            chunks = [chunk.reshape(-1) for chunk in read_chunks(weights.stored[known], known)]
            buffer.copy_(torch.cat(chunks).view(buffer.shape))
        for name, value in computed.items():
            model.get_buffer(name).copy_(value)


def apply_fsdp(model: Any, mesh: DeviceMesh) -> None:
    """Shard a model's weights over a mesh, one FSDP group per layer and a root group for the rest.

    Gradients are reduced in fp32, whatever the dtype of the weights. Sets the method `with_unsharded_root`, which
    calls a function while the root group is unsharded.
    """
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    model.with_unsharded_root = MethodType(_call_function, model)
    register_fsdp_forward_method(model, "with_unsharded_root")


def _call_function(_model: Any, function: Callable[[], Result]) -> Result:
    return function()


def _load_sharded_weights(model: Any, weights: MatchedWeights, folder: Path) -> None:
    """Read this rank's shards from the folder's safetensors; raise UserError where they cannot be read."""
    wanted = {weights.names[name]: parameter for name, parameter in model.named_parameters()}  # tied weights once
    try:
        with torch.no_grad(), warnings.catch_warnings(), raise_checkpoint_cause():
            warnings.simplefilter("ignore")  # each rank reads for itself, on purpose
            load_dcp(wanted, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except Exception as error:
        raise load_error(folder, error) from error
