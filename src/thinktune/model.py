"""The model: transformers' own class, loaded from a folder, with attention that keeps packed rows apart."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from thinktune.errors import UserError, brief
from thinktune.knobs import Memory
from thinktune.pack import Batch

MODEL_TYPES = ("qwen3", "qwen2")  # whose forward pass takes boundaries and hands them to the attention
ATTENTION = "thinktune_packed"  # must not hold "flash", or transformers looks for a kernel


def pick_device() -> torch.device:
    """The machine's accelerator (CUDA, NPU, MPS), else the CPU."""
    # A build for an accelerator names it even on a machine that has none, so availability is asked for first.
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def pick_precision(
    wanted: Literal["auto", "fp32", "bf16"], device: torch.device, memory: Literal["auto"] | Memory = "auto"
) -> torch.dtype:
    """The arithmetic for `train.precision`: auto is that of the weights where `train.memory` keeps them in bf16.

    Otherwise it is bf16 on an accelerator, where it is fast, and fp32 on the CPU.
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


def padding(device: torch.device, tokenizer: Any) -> int | None:
    """The token that fills batches to a fixed size; none on the CPU, where padding costs as much as real tokens."""
    return None if device.type == "cpu" else tokenizer.pad_token_id or 0


def load_model(folder: Path, device: torch.device, dtype: torch.dtype | Literal["auto"] = torch.float32) -> Any:
    """A causal language model from a local folder (safetensors only, no remote code), weights in `dtype`.

    Raises UserError where the folder holds no model that loads whole.
    """
    options: Any = {
        "dtype": dtype,
        "attn_implementation": ATTENTION,
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
    }
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    except Exception as error:
        # transformers raises whatever its parsers raise; each means that this folder cannot be loaded.
        raise UserError(
            f"model.name: {folder} holds no model that loads ({brief(error)}); name a whole transformers folder"
        ) from error
    model, report = loaded
    _refuse_unknown(model.config, folder)
    wrong = [
        f"{kind} {len(names)} ({', '.join(map(str, sorted(names, key=str)[:3]))})"
        for kind, names in report.items()
        if names and kind in ("missing_keys", "mismatched_keys")
    ]
    if wrong:
        raise UserError(f"model.name: the weights in {folder} are not whole: {'; '.join(wrong)}; fetch the model again")
    return model.to(device)


def _refuse_unknown(config: Any, folder: Path) -> None:
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if config.model_type not in MODEL_TYPES or layers != {"full_attention"}:
        raise UserError(
            f"model.name: {folder} is of type {config.model_type} with layers of {', '.join(sorted(layers))}; "
            f"only {', '.join(MODEL_TYPES)} with full_attention are known, so take one of those"
        )


def recompute_activations(model: Any) -> None:
    """Keep only each layer's input, and compute the rest again in the backward pass."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name from transformers 5.23 on
    (enable or model.gradient_checkpointing_enable)()


def apply_activation_budget(model: Any, budget: float, compiled: bool) -> None:
    """Keep a share of each layer's activations for the backward pass; without a compiler, all or only its input."""
    assert not compiled, "layers are not compiled yet"
    if budget < 1:
        recompute_activations(model)


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """The last hidden states (n, hidden) of a packed batch; a row sees only itself."""
    output = model.model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        attention_mask={"full_attention": None},  # the boundaries say it all; transformers builds no mask
        use_cache=False,
        boundaries=batch.boundaries,
    )
    return output.last_hidden_state[0]


def head_weight(model: Any) -> Tensor:
    """The matrix (vocabulary, hidden) that turns hidden states into logits."""
    return model.get_output_embeddings().weight


def count_parameters(model: nn.Module) -> int:
    """Number of weights, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    boundaries: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each packed row: one call of torch's own attention for each.

    Args:
        module: the attention layer, as transformers hands it over.
        query: (1, heads, n, size).
        key: (1, groups, n, size).
        value: (1, groups, n, size).
        attention_mask: used where there are no boundaries (generation), as transformers' own attention uses it.
        boundaries: (rows + 1,) where each row starts and the last ends, on the CPU.
        options: what else transformers passes on.

    Returns:
        (1, n, heads, size) and None, as transformers asks.
    """
    if boundaries is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # split's backward is one concatenation; slicing each row out would fill a tensor of full size for every row
    lengths: list[int] = boundaries.diff().tolist()
    rows = [
        scaled_dot_product_attention(
            *parts,
            is_causal=True,
            scale=options.get("scaling"),
            dropout_p=options.get("dropout", 0.0),
            enable_gqa=query.shape[1] != key.shape[1],
        ).transpose(1, 2)
        for parts in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(rows, dim=1), None


logging.disable_progress_bar()  # its bars for each file would stand between our lines
_mask: Callable[..., Any] = sdpa_mask
AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, _mask)
