"""Tiny models of every kind of decoder, made on the spot: one configuration for each thing that a class may do."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from thinktune.model.twin import fill_weights

WINDOW = 5
LAYERS = 4
WIDE_AND_FULL = ["sliding_attention", "full_attention"] * 2
STATE_AND_FULL = ["linear_attention", "full_attention"] * 2
SIZES = {
    "vocab_size": 160, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOWED = {"sliding_window": WINDOW, "layer_types": WIDE_AND_FULL}
EXPERTS = {
    "num_experts": 6, "num_local_experts": 6, "n_routed_experts": 6, "moe_num_experts": 6, "num_experts_per_tok": 2,
    "moe_k": 2, "moe_intermediate_size": 24, "n_shared_experts": 1, "moe_num_shared_experts": 1,
    "shared_expert_intermediate_size": 24, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "moe_layer_start_index": 1, "moe_layer_end_index": 3, "moe_layer_interval": 1,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 20, "kv_lora_rank": 20, "qk_nope_head_dim": 12, "qk_rope_head_dim": 16, "v_head_dim": 12,
    "num_key_value_heads": 4,
}  # fmt: skip
DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 12, "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4, "linear_num_heads": 4, "linear_head_dim": 12, "layer_types": STATE_AND_FULL,
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16,
    "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}


@dataclass(frozen=True)
class Kind:
    """A kind of decoder: transformers' type, its switches, and what a proof must find."""

    type: str
    switches: dict[str, Any] = field(default_factory=dict)
    rows: str = "packed"
    scale: float = 1.0
    cap: float | None = None
    people: str = ""  # models of it that people fine-tune
    template: str = "think"  # the chat template that carries reasoning: their own, or the recipe's `think`


KINDS: dict[str, Kind] = {
    "qwen3": Kind(
        "qwen3", people="Qwen3, Qwen3-2507, QwQ-like distills", template="own; 2507 Instruct and distills: think"
    ),
    "qwen2": Kind("qwen2", people="Qwen2, Qwen2.5, R1-Distill-Qwen"),
    "qwen2, window": Kind(
        "qwen2", {**WINDOWED, "use_sliding_window": True, "max_window_layers": 2}, people="Qwen2 with its window on"
    ),
    "qwen3_moe": Kind(
        "qwen3_moe",
        EXPERTS | {"output_router_logits": True},
        people="Qwen3-30B-A3B",
        template="own; 2507 Instruct: think",
    ),
    "qwen2_moe": Kind("qwen2_moe", EXPERTS, people="Qwen1.5-MoE, Qwen2-57B-A14B"),
    "qwen3_next": Kind("qwen3_next", EXPERTS | DELTA, "apart", people="Qwen3-Next"),
    "qwen3_5_text": Kind("qwen3_5_text", DELTA, "apart", people="Qwen3.5, Qwen3.6 (text part)", template="own"),
    "qwen3_5_moe_text": Kind(
        "qwen3_5_moe_text", EXPERTS | DELTA, "apart", people="Qwen3.6-35B-A3B (text part)", template="own"
    ),
    "llama": Kind("llama", people="Llama 2, 3; SmolLM2; R1-Distill-Llama"),
    "llama, yarn": Kind("llama", {"rope_parameters": YARN}, people="Llama with longer rope"),
    "smollm3": Kind("smollm3", {"no_rope_layers": [1, 1, 1, 0]}, people="SmolLM3"),
    "mistral": Kind("mistral", {"sliding_window": None}, people="Mistral"),
    "mistral, window": Kind("mistral", {"sliding_window": WINDOW}, people="Mistral 7B v0.1"),
    "ministral": Kind("ministral", WINDOWED, people="Ministral 8B"),
    "ministral3": Kind(
        "ministral3", {"sliding_window": None}, people="Ministral 3, Magistral (text part)", template="own or think"
    ),
    "mixtral": Kind("mixtral", EXPERTS | {"sliding_window": None}, people="Mixtral"),
    "gemma": Kind("gemma", people="Gemma 1"),
    "gemma2": Kind(
        "gemma2",
        WINDOWED | {"query_pre_attn_scalar": 16, "final_logit_softcapping": 4.0, "attn_logit_softcapping": 1.5},
        cap=4.0,
        people="Gemma 2",
    ),
    "gemma3_text": Kind("gemma3_text", WINDOWED | {"query_pre_attn_scalar": 16}, people="Gemma 3 (text part)"),
    "gemma4_text": Kind(
        "gemma4_text",
        WINDOWED
        | {"global_head_dim": 32, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 160}
        | {"num_kv_shared_layers": 0, "num_global_key_value_heads": None},
        people="Gemma 4 (text part)",
        template="own or think",
    ),
    "gemma4_text, shared keys": Kind(
        "gemma4_text",
        WINDOWED
        | {"global_head_dim": 32, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 160}
        | {"num_kv_shared_layers": 2},
        people="Gemma 4 E2B, E4B (text part)",
        template="own or think",
    ),
    "phi3": Kind("phi3", {"sliding_window": None}, people="Phi-3, Phi-4"),
    "glm": Kind("glm", people="GLM-4 9B"),
    "glm4": Kind("glm4", people="GLM-4-0414"),
    "glm4_moe": Kind("glm4_moe", EXPERTS, people="GLM-4.5, 4.6"),
    "glm4_moe_lite": Kind("glm4_moe_lite", EXPERTS | LATENT, people="GLM-4.7-Flash"),
    "gpt_oss": Kind(
        "gpt_oss", EXPERTS | WINDOWED | {"intermediate_size": 24}, people="gpt-oss", template="refused (channels)"
    ),
    "granite": Kind(
        "granite",
        {"logits_scaling": 8.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.3},
        scale=0.125,
        people="Granite 3",
    ),
    "granitemoe": Kind("granitemoe", EXPERTS | {"logits_scaling": 8.0}, scale=0.125, people="Granite 3 MoE"),
    "granitemoehybrid": Kind(
        "granitemoehybrid",
        EXPERTS
        | MAMBA
        | {"layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 24}
        | {"logits_scaling": 8.0},
        "apart",
        0.125,
        people="Granite 4",
    ),
    "olmo2": Kind("olmo2", people="OLMo 2"),
    "olmo3": Kind("olmo3", WINDOWED, people="OLMo 3"),
    "olmo_hybrid": Kind("olmo_hybrid", DELTA, "apart", people="OLMo Hybrid"),
    "deepseek_v3": Kind("deepseek_v3", EXPERTS | LATENT, people="DeepSeek-V3, R1; Kimi-K2"),
    "kimi_linear": Kind("kimi_linear", EXPERTS | LATENT | DELTA, "apart", people="Kimi Linear"),
    "dots1": Kind("dots1", EXPERTS, people="dots.llm1"),
    "lfm2": Kind(
        "lfm2",
        {"layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3, "block_ff_dim": 80},
        "apart",
        people="LFM2",
        template="own (2.5) or think",
    ),
    "hunyuan_v1_dense": Kind("hunyuan_v1_dense", people="Hunyuan dense"),
    "hy_v3": Kind("hy_v3", EXPERTS, people="Hunyuan 3", template="refused (channels)"),
    "seed_oss": Kind("seed_oss", people="Seed-OSS", template="own or think"),
    "ernie4_5": Kind("ernie4_5", people="ERNIE 4.5 dense"),
    "ernie4_5_moe": Kind("ernie4_5_moe", EXPERTS, people="ERNIE 4.5 MoE"),
    "minicpm3": Kind("minicpm3", LATENT | {"dim_model_base": 16}, scale=0.25, people="MiniCPM3"),
    "internlm3": Kind("internlm3", people="InternLM3"),
    "exaone4": Kind("exaone4", WINDOWED | {"sliding_window_pattern": 2}, people="EXAONE 4"),
    "cohere2": Kind("cohere2", WINDOWED | {"logit_scale": 0.25}, scale=0.25, people="Command R7B, Command A"),
    "minimax_m2": Kind("minimax_m2", EXPERTS, people="MiniMax-M2", template="own"),
    "mimo_v2_flash": Kind("mimo_v2_flash", EXPERTS | WINDOWED, people="MiMo-V2-Flash"),
    "starcoder2": Kind("starcoder2", {"sliding_window": None}, people="StarCoder2"),
    "stablelm": Kind("stablelm", people="StableLM 2"),
    "apertus": Kind("apertus", people="Apertus"),
    "nanochat": Kind("nanochat", cap=15.0, people="nanochat"),
    "gpt2": Kind("gpt2", {"n_embd": 64, "n_layer": 3, "n_head": 4}, people="GPT-2"),
    "llama4_text": Kind(
        "llama4_text",
        EXPERTS
        | {"intermediate_size_mlp": 48, "attention_chunk_size": 8, "no_rope_layers": [1, 0, 1, 0]}
        | {"layer_types": ["chunked_attention", "full_attention"] * 2},
        "apart",
        people="Llama 4 (text part)",
    ),
    "falcon_h1": Kind(
        "falcon_h1",
        MAMBA | {"mamba_d_ssm": 128, "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0},
        "apart",
        0.5,
        people="Falcon-H1",
    ),
    "nemotron_h": Kind(
        "nemotron_h",
        EXPERTS | MAMBA | {"layers_block_type": ["mamba", "attention", "moe", "attention"]},
        "apart",
        people="Nemotron Nano 2, 3",
        template="own",
    ),
    "mamba2": Kind(
        "mamba2",
        {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 1, "expand": 2, "chunk_size": 16},
        "apart",
        people="Mamba 2, Codestral Mamba",
    ),
}


def tiny_config(name: str) -> Any:
    """Return the configuration of a kind: the sizes above, as far as its class has them, and its switches."""
    kind = KINDS[name]
    made = CONFIG_MAPPING[kind.type]
    known = {each.name for each in dataclasses.fields(made)} if dataclasses.is_dataclass(made) else set()
    known |= set(getattr(made, "attribute_map", {}))
    shared = EXPERTS | LATENT | DELTA | MAMBA
    values = {name: value for name, value in (SIZES | kind.switches).items() if name in known or name not in shared}
    return made(**values)


def tiny_model(name: str, *, attention: str = "eager", seed: int = 0) -> Any:
    """Return a random model of a kind in fp32 and eval mode, in which every weight has an effect."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(name), attn_implementation=attention, dtype=torch.float32)
    fill_weights(model, seed)
    return model.eval()
