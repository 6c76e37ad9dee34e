"""Random models of many classes, small enough to generate in milliseconds, with every switch that changes generation."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCABULARY = 96
WINDOW = 5
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
LINEAR = ["linear_attention", "full_attention", "linear_attention"]
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT = {  # multi-head latent attention
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
DELTA = {  # gated delta rule
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 3,
    "layer_types": LINEAR,
}
GEMMA4 = {
    "layer_types": SLIDING,
    "sliding_window": WINDOW,
    "global_head_dim": 24,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
}


@dataclass(frozen=True)
class Kind:
    """A class with switches: its model_type, and what its configuration has beside `SIZES`."""

    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "qwen3": Kind("qwen3"),
    "qwen2": Kind("qwen2"),
    "qwen2 window": Kind(
        "qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": SLIDING, "max_window_layers": 1}
    ),
    "llama": Kind("llama"),
    "llama yarn": Kind(
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral": Kind("mistral", {"sliding_window": None}),
    "mistral window": Kind("mistral", {"sliding_window": WINDOW}),
    "ministral": Kind("ministral", {"sliding_window": WINDOW, "layer_types": SLIDING}),
    "ministral3": Kind("ministral3", {"sliding_window": None}),
    "phi3": Kind("phi3", {"sliding_window": None}),
    "gemma": Kind("gemma"),
    "gemma2": Kind(
        "gemma2",
        {
            "sliding_window": WINDOW,
            "layer_types": SLIDING,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": Kind("gemma3_text", {"sliding_window": WINDOW, "layer_types": SLIDING, "query_pre_attn_scalar": 12}),
    "gemma4": Kind("gemma4_text", GEMMA4 | {"num_kv_shared_layers": 0}),
    "gemma4 shared": Kind(
        "gemma4_text",
        GEMMA4 | {"num_hidden_layers": 4, "layer_types": SLIDING[:2] * 2, "num_kv_shared_layers": 2},
    ),
    "smollm3": Kind("smollm3", {"no_rope_layers": [1, 0, 1]}),
    "glm": Kind("glm"),
    "glm4": Kind("glm4"),
    "glm4 moe": Kind("glm4_moe", EXPERTS),
    "glm4 moe lite": Kind("glm4_moe_lite", EXPERTS | LATENT),
    "gpt-oss": Kind("gpt_oss", {**EXPERTS, "sliding_window": WINDOW, "layer_types": SLIDING, "intermediate_size": 48}),
    "granite": Kind(
        "granite",
        {
            "logits_scaling": 3.0,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
    ),
    "granite moe": Kind("granitemoe", {**EXPERTS, "logits_scaling": 3.0}),
    "granite hybrid": Kind(
        "granitemoehybrid",
        {
            **EXPERTS,
            "layer_types": ["mamba", "attention", "mamba"],
            "mamba_n_heads": 8,
            "mamba_d_head": 12,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "shared_intermediate_size": 32,
            "logits_scaling": 3.0,
        },
    ),
    "olmo2": Kind("olmo2"),
    "olmo3": Kind("olmo3", {"sliding_window": WINDOW, "layer_types": SLIDING}),
    "olmo hybrid": Kind("olmo_hybrid", DELTA),
    "hunyuan": Kind("hunyuan_v1_dense"),
    "ernie4.5": Kind("ernie4_5"),
    "ernie4.5 moe": Kind(
        "ernie4_5_moe",
        {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            "moe_intermediate_size": 32,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 2,
            "moe_layer_interval": 1,
        },
    ),
    "seed-oss": Kind("seed_oss"),
    "minicpm3": Kind("minicpm3", {**LATENT, "dim_model_base": 16}),
    "qwen3 moe": Kind("qwen3_moe", {**EXPERTS, "decoder_sparse_step": 1, "mlp_only_layers": []}),
    "qwen2 moe": Kind(
        "qwen2_moe",
        {**EXPERTS, "decoder_sparse_step": 1, "mlp_only_layers": [], "shared_expert_intermediate_size": 32},
    ),
    "qwen3-next": Kind(
        "qwen3_next",
        EXPERTS | DELTA | {"shared_expert_intermediate_size": 32, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "qwen3.5": Kind("qwen3_5_text", DELTA),
    "qwen3.5 moe": Kind("qwen3_5_moe_text", {**EXPERTS, **DELTA, "shared_expert_intermediate_size": 32}),
    "cohere2": Kind("cohere2", {"sliding_window": WINDOW, "layer_types": SLIDING, "logit_scale": 0.25}),
    "deepseek v3": Kind("deepseek_v3", EXPERTS | LATENT),
    "lfm2": Kind("lfm2", {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 64, "conv_L_cache": 3}),
    "falcon-h1": Kind(
        "falcon_h1",
        {
            "mamba_d_ssm": 48,
            "mamba_n_heads": 4,
            "mamba_d_head": 12,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "lm_head_multiplier": 0.5,
            "embedding_multiplier": 2.0,
        },
    ),
    "nemotron-h": Kind(
        "nemotron_h",
        {
            **EXPERTS,
            "layers_block_type": ["mamba", "attention", "mamba"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 12,
            "ssm_state_size": 8,
            "n_groups": 1,
        },
    ),
    "exaone4": Kind("exaone4", {"sliding_window": WINDOW, "sliding_window_pattern": 2, "layer_types": SLIDING}),
    "mixtral": Kind("mixtral", {**EXPERTS, "sliding_window": None}),
    "minimax m2": Kind("minimax_m2", EXPERTS),
    "starcoder2": Kind("starcoder2", {"sliding_window": None}),
    "stablelm": Kind(
        "stablelm", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
    ),
    "apertus": Kind("apertus"),
    "hy v3": Kind("hy_v3", EXPERTS),
    "dots1": Kind("dots1", EXPERTS),
    "mamba2": Kind("mamba2", {"num_heads": 8, "head_dim": 12, "state_size": 8, "n_groups": 1, "expand": 2}),
    "nanochat": Kind("nanochat"),
    "kimi linear": Kind(
        "kimi_linear",
        EXPERTS | LATENT | {"layer_types": LINEAR, "linear_num_heads": 4, "linear_head_dim": 8, "q_lora_rank": None},
    ),
    "gpt2": Kind("gpt2", {"n_embd": 48, "n_layer": 2, "n_head": 4}),
    "mimo v2 flash": Kind("mimo_v2_flash", {**EXPERTS, "sliding_window": WINDOW, "layer_types": SLIDING}),
    "llama4": Kind(
        "llama4_text",
        {
            **EXPERTS,
            "intermediate_size_mlp": 64,
            "attention_chunk_size": 4,
            "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
            "no_rope_layers": [1, 0, 1],
        },
    ),
}
# The kinds of the above whose layers have a state: their prompts are read one at a time.
RECURRENT = frozenset(
    [
        "granite hybrid",
        "olmo hybrid",
        "qwen3-next",
        "qwen3.5",
        "qwen3.5 moe",
        "lfm2",
        "falcon-h1",
        "nemotron-h",
        "mamba2",
        "kimi linear",
    ]
)


def generated_config(name: str, **changes: Any) -> Any:
    """Return the configuration of a kind, with the sizes that its class knows."""
    kind = KINDS[name]
    made = CONFIG_MAPPING[kind.model_type]
    known = {key for base in made.__mro__ for key in getattr(base, "__annotations__", {})}
    optional = SIZES | {key: value for key, value in kind.settings.items() if key in EXPERTS}
    settings = {key: value for key, value in optional.items() if key in known}
    return made(
        **settings
        | {key: value for key, value in kind.settings.items() if key not in EXPERTS or key in known}
        | changes
    )


def generated_model(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Make a random model of a kind, its weights large enough that rounding decides nothing, norms and biases too."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        generated_config(name, **changes), attn_implementation="eager", dtype=dtype
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(noise * 0.2)
            elif "A_log" in key or "dt_bias" in key:
                weight.copy_(noise.abs() * 0.3 + 0.1)
            else:
                weight.add_(noise * 0.1)
    return model.eval()


def own_logits(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Return the logits (rows, vocabulary) of each row's next token, alone, by the model's own eager forward pass."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return torch.stack([model(torch.tensor([row]), use_cache=False).logits[0, -1].float() for row in rows])
    finally:
        model.set_attn_implementation(before)
