"""The model: transformers' own class, loaded from a folder, with attention that keeps packed rows apart."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from thinktune.attention import reads_boundaries_on_device
from thinktune.errors import UserError, brief
from thinktune.files import is_inside, read_json
from thinktune.knobs import Memory, Precision
from thinktune.pack import Batch, Padding, padding

Made = TypeVar("Made")

MODEL_TYPES = ("qwen3", "qwen2")  # whose forward pass takes boundaries and hands them to the attention


def pick_device() -> torch.device:
    """The machine's accelerator (CUDA, NPU, MPS), else the CPU; of several processes each takes its own."""
    # A build for an accelerator names it even on a machine that has none, so availability is asked for first.
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found and (place := os.environ.get("LOCAL_RANK")):
        torch.accelerator.set_device_index(int(place))
        return torch.device(found.type, int(place))
    return found or torch.device("cpu")


def pick_precision(wanted: Precision, device: torch.device, memory: Literal["auto"] | Memory = "auto") -> torch.dtype:
    """The arithmetic for `train.precision`: auto is that of the weights where `train.memory` keeps them in bf16.

    Otherwise it is bf16 on an accelerator, where it is fast, and fp32 on the CPU. With fp8, only the matrix products
    of the layers are fp8; all that stands between them is bf16.
    """
    if memory not in ("auto", "fp32"):
        return torch.bfloat16
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.float32 if wanted == "fp32" else torch.bfloat16


def arithmetic(model: Any, precision: torch.dtype) -> AbstractContextManager[Any]:
    """The context in which a model computes in `precision`; weights of that type need none."""
    if precision in (torch.float32, model.dtype):
        return nullcontext()
    return torch.autocast(model.device.type, precision)


def no_gradients(model: Any) -> AbstractContextManager[Any]:
    """The context in which a model only answers; FSDP2 cannot train on with what it made in inference mode."""
    return torch.no_grad() if hasattr(model, "gathered") else torch.inference_mode()


def pick_padding(device: torch.device, tokenizer: Any, lengths: NDArray[np.integer], capacity: int) -> Padding | None:
    """What fills batches to a fixed size; nothing on the CPU, where padding costs as much as real tokens."""
    return None if device.type == "cpu" else padding(tokenizer.pad_token_id or 0, lengths, capacity)


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
    refuse_escapes(folder)
    options: Any = {
        "dtype": dtype,
        "attn_implementation": "thinktune_rows",  # which runs anywhere; `use_attention` may choose a faster one
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
        "trust_remote_code": trust_remote_code,
    }
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    except Exception as error:
        raise does_not_load(folder, error) from error
    model, report = loaded
    refuse_unknown(model.config, folder)
    wrong = [
        f"{kind} {len(names)} ({', '.join(map(str, sorted(names, key=str)[:3]))})"
        for kind, names in report.items()
        if names and kind in ("missing_keys", "mismatched_keys")
    ]
    if wrong:
        raise UserError(f"model.name: the weights in {folder} are not whole: {'; '.join(wrong)}; fetch the model again")
    return model.to(device)


def does_not_load(folder: Path, error: Exception) -> UserError:
    """The error for a folder of which no model comes: libraries raise whatever their parsers raise."""
    return UserError(
        f"model.name: {folder} holds no model that loads ({brief(error)}); name a whole transformers folder"
    )


def refuse_escapes(folder: Path) -> None:
    """Raise UserError where the list of a model's shards names a place outside its folder."""
    for index in folder.glob("*.index.json"):
        try:
            names = set(read_json(index)["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue  # transformers says what is wrong with it
        if outside := sorted(name for name in names if not is_inside(str(name))):
            raise UserError(
                f"model.name: {index} names {outside[0]!r}, which is no file of that folder; take the model elsewhere"
            )


def refuse_unknown(config: Any, folder: Path) -> None:
    """Raise UserError where a model is of no kind whose forward pass is known to keep packed rows apart."""
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config.model_type not in MODEL_TYPES or layers != {"full_attention"}:
        raise UserError(
            f"model.name: {folder} is of type {config.model_type} with layers of {', '.join(sorted(layers))}; "
            f"only {', '.join(MODEL_TYPES)} with full_attention are known, so take one of those"
        )


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """The last hidden states (n, hidden) of a packed batch; a row sees only itself."""
    boundaries = batch.boundaries
    if reads_boundaries_on_device(model.config._attn_implementation):
        boundaries = boundaries.to(batch.ids.device, non_blocking=True)
    output = model.model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        attention_mask={"full_attention": None},  # the boundaries say it all; transformers builds no mask
        use_cache=False,
        boundaries=boundaries,
        longest=batch.longest,
    )
    return output.last_hidden_state[0]


def gathered(model: Any, function: Callable[[], Made]) -> Made:
    """What a function gives that uses parts of the model by themselves; where its weights are cut over ranks, those
    that belong to no layer are put together for it."""
    return model.gathered(function) if hasattr(model, "gathered") else function()


def sum_over_copies(model: Any, *, now: bool) -> None:
    """Whether the coming backward pass is a step's last, after which copies of the model sum their gradients.

    Until then each adds up its own: the wire between copies, the slowest, is used once a step.
    """
    if hasattr(model, "set_requires_all_reduce"):
        model.set_requires_all_reduce(now)


def head_weight(model: Any) -> Tensor:
    """The matrix (vocabulary, hidden) that turns hidden states into logits."""
    return model.get_output_embeddings().weight


def count_parameters(model: nn.Module) -> int:
    """Number of weights, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


logging.disable_progress_bar()  # its bars for each file would stand between our lines
