"""Tiny models of several modalities, in the layouts in which hubs and transformers keep them."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForMultimodalLM, PreTrainedTokenizerFast

from support.model_folders import WEIGHTS, edit

TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4, "layer_types": 2 * ["linear_attention", "full_attention"],
}  # fmt: skip
WINDOWS = {"sliding_window": 4, "layer_types": 2 * ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
QWEN_VISION = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0], "fullatt_block_indexes": [0],
}  # fmt: skip
SMALL_VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 16, "head_dim": 16,
}  # fmt: skip

# A wrapper's settings of its text and of the rest, and the class as which its text part is trained.
WRAPPERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "qwen3_vl": (TEXT | {"rope_parameters": MROPE}, {"vision_config": QWEN_VISION}, "Qwen3ForCausalLM"),
    "qwen3_vl_moe": (
        TEXT | EXPERTS | {"rope_parameters": MROPE},
        {"vision_config": QWEN_VISION},
        "Qwen3MoeForCausalLM",
    ),
    "qwen2_5_vl": (TEXT | {"rope_parameters": MROPE}, {"vision_config": QWEN_VISION}, "Qwen2ForCausalLM"),
    "qwen3_5": (TEXT | LINEAR, {"vision_config": QWEN_VISION}, "Qwen3_5ForCausalLM"),
    "qwen3_5_moe": (
        TEXT | LINEAR | EXPERTS | {"shared_expert_intermediate_size": 32},
        {"vision_config": QWEN_VISION},
        "Qwen3_5MoeForCausalLM",
    ),
    "gemma3": (TEXT | WINDOWS, {"vision_config": SMALL_VISION, "mm_tokens_per_image": 4}, "Gemma3ForCausalLM"),
    "gemma4": (
        TEXT | WINDOWS | {"global_head_dim": 32, "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 2},
        {"vision_config": SMALL_VISION | {"num_key_value_heads": 2}, "audio_config": None},
        "Gemma4ForCausalLM",
    ),
    "mistral3": (
        TEXT | {"model_type": "mistral", "sliding_window": None},
        {"vision_config": SMALL_VISION | {"model_type": "pixtral"}},
        "MistralForCausalLM",
    ),
    "internvl": (TEXT | {"model_type": "qwen2"}, {"vision_config": SMALL_VISION}, "Qwen2ForCausalLM"),
    "llava": (
        TEXT | {"model_type": "llama"},
        {"vision_config": SMALL_VISION | {"model_type": "clip_vision_model", "projection_dim": 32}},
        "LlamaForCausalLM",
    ),
}
HEAD = "lm_head.weight"


def wrapper_config(kind: str, vocab_size: int) -> Any:
    text, rest, _ = WRAPPERS[kind]
    sizes = {"vocab_size": vocab_size, "vocab_size_per_layer_input": vocab_size, "pad_token_id": 0}
    made = CONFIG_MAPPING[kind]
    inner = text if "model_type" in text else text | {"model_type": made.sub_configs["text_config"].model_type}
    # Only settings that the text part's class has: each would keep all others too.
    known = CONFIG_MAPPING[inner["model_type"]]().to_dict()
    kept = {name: value for name, value in (inner | sizes).items() if name in known or name.startswith("rope")}
    return made(text_config=kept, **rest)


def make_wrapper(folder: Path, kind: str, tokenizer: PreTrainedTokenizerFast, *, tied: bool = False) -> Any:
    """Write a model of several modalities with its tokenizer, and return it."""
    config = wrapper_config(kind, len(tokenizer) + -len(tokenizer) % 64)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = AutoModelForMultimodalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def text_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def store_under(path: str, folder: Path, *, head: str | None = None) -> None:
    """Move the text part of a stored wrapper to another path, as other releases and tools write it."""
    stored = load_file(folder / WEIGHTS)
    body = next(name for name in stored if name.endswith("embed_tokens.weight")).removesuffix("embed_tokens.weight")
    moved = {
        (path + name.removeprefix(body) if name.startswith(body) else name): tensor for name, tensor in stored.items()
    }
    if head and (found := next((name for name in moved if name.endswith(HEAD)), None)):
        moved[head] = moved.pop(found)
    save_file(moved, folder / WEIGHTS, {"format": "pt"})


def transpose_experts(folder: Path) -> int:
    """Store fused experts as hubs keep Qwen3-VL-MoE's: input first. Returns how many tensors changed."""
    stored = load_file(folder / WEIGHTS)
    fused = [name for name in stored if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]
    stored |= {name: stored[name].transpose(1, 2).contiguous() for name in fused}
    save_file(stored, folder / WEIGHTS, {"format": "pt"})
    return len(fused)


__all__ = ["WRAPPERS", "edit", "make_wrapper", "store_under", "text_logits", "transpose_experts", "wrapper_config"]
