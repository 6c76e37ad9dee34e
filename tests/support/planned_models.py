"""Tiny configurations of many kinds of decoder, for what is counted before a model is loaded: bytes and operations."""

from typing import Any

from transformers import CONFIG_MAPPING

SIZES = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 2,
}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
LATENT = {
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "num_key_value_heads": 4,
}
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
LINEAR = {
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "head_dim": 32,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("qwen3", {"head_dim": 32}),
    "dynamic rope": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    "partial rope": ("glm", {"head_dim": 32}),
    "windows": ("gemma3_text", {"head_dim": 32, "layer_types": ALTERNATING, "sliding_window": 16}),
    "shared keys": (
        "gemma4_text",
        {
            "head_dim": 32,
            "global_head_dim": 64,
            "layer_types": ALTERNATING,
            "sliding_window": 16,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": 320,
        },
    ),
    "experts": ("qwen3_moe", {**EXPERTS, "head_dim": 32, "num_experts": 8}),
    "latent attention, one dense layer": (
        "deepseek_v3",
        {**EXPERTS, **LATENT, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    ),
    "sinks": (
        "gpt_oss",
        {"head_dim": 32, "layer_types": ALTERNATING, "sliding_window": 16, "num_local_experts": 4, **EXPERTS},
    ),
    "linear attention": ("qwen3_5_text", LINEAR),
    "convolutions": (
        "lfm2",
        {"layer_types": ["conv", "full_attention"] * 2, "block_ff_dim": 160, "conv_L_cache": 3},
    ),
    "state and attention in one layer": (
        "falcon_h1",
        {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16},
    ),
}


def planned_config(kind: str, **changes: Any) -> Any:
    """Make the configuration of a kind, some of its values changed."""
    name, own = KINDS[kind]
    return CONFIG_MAPPING[name](**{**SIZES, **own, **changes})
