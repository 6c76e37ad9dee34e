"""A twin of a model: the same class and switches with small sizes, on which anything can be tried in a second."""

import copy
import re
from typing import Any

import torch
from torch import nn

# Sizes of the twin by what a configuration calls them; the first pattern that fits the whole name counts.
SIZES: tuple[tuple[str, int], ...] = (
    (r".*vocab_size.*", 128),
    (r"(num_)?(n_)?(shared_experts|shared_expert)(_num)?|.*num_shared_experts|n_shared_experts", 1),
    (r".*experts_per_tok(en)?|moe_k|moe_topk|num_selected_experts", 2),
    (r"(moe_)?(num|n)_(routed_|local_)?experts|zero_expert_num", 4),
    (r"n_group|topk_group|num_expert_group", 1),
    (r"hidden_size_per_layer_input|ple_embed_dim", 16),
    (r"router_hidden_size", 16),
    (r"attention_hidden_size|embedding_size|hidden_size|embedding_dim|d_model|n_embd|emb_dim|lru_width", 64),
    (r"word_embed_proj_dim|(input|output)_embedding_size", 64),
    (r"(moe_|shared_).*intermediate_size|expert_ffn_hidden_size|shared_experts?_intermediate_size", 32),
    (r".*intermediate_size.*|ffn_hidden_size|(block_)?(decoder_)?(ff|ffn|dff)(_dim|_hidden_size)?|dim_ff|n_inner", 96),
    (r"(linear_)(num_)(value_heads|heads)", 4),
    (r"linear_num_key_heads", 2),
    (r"index_n_heads", 2),
    (r"(swa_|decoder_)?(num_)?(attention_)?(n_)?heads?|(swa_|decoder_)num_attention_heads", 4),
    (r"mamba_(n_heads|num_heads)|n_mamba_heads", 8),
    (r"mamba_(n_groups|ngroups)|n_groups", 1),
    (r"global_head_dim", 32),
    (r"qk_head_dim", 32),
    (r"rotary_dim", 8),
    (r".*head_?(dim|size)|dim_head|kv_channels|d_head|mamba_d_head|query_pre_attn_scalar", 16),
    (r".*(lora_rank|_rank|_lowrank)", 32),
    (r".*(d_state|state_size)", 16),
    (r"mamba_d_ssm", 128),
    (r"sliding_window(_size)?|attention_window_size|window_size|local_attention", 4),
    (r"attention_chunk_size", 8),
    (r"index_topk", 8),
    (r"(mamba_)?chunk_size|block_size", 16),
    (r".*(_divisible_by|multiple_of)", 16),
    (r"ngram_vocab_size_base", 64),
    (r"conv_dim.*", 64),
)
MAX_POSITIONS = 2048  # of tables that a class makes for all positions
KEPT_LAYERS = 8  # at most
# Rules by which a class tells one layer from another without a list: the first so many layers, or the last.
FIRST_LAYERS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "n_dense_layers")
LAST_LAYERS = ("num_kv_shared_layers",)
PERIOD_PATTERN = re.compile(
    r".*(_period|_interval|sparse_step|moe_layer_step|_every_n_layers|window_pattern|group_size)"
)
DROPPED = ("quantization_config", "_name_or_path", "dtype", "torch_dtype", "transformers_version", "architectures")
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")


def shrink(config: Any, *, sizes: bool = True) -> Any:
    """Return a configuration with few layers, one of each kind, and with `sizes` small ones; all else is the same."""
    text: Any = config.get_text_config()
    values: dict[str, Any] = {k: v for k, v in copy.deepcopy(text.to_dict()).items() if k not in DROPPED}
    depth = int(text.num_hidden_layers)
    kept = _kept_layers(values, depth)
    values.update(_of_layers(values, depth, kept))
    values.update(_depth(text, values, len(kept)))
    values.update({name: 0 for name in TOKENS if values.get(name) is not None})
    if sizes:
        values = {name: _small(name, value, values) for name, value in values.items()}
        values.update(_rope(values))
        if "expand" in values and "num_heads" in values and "head_dim" in values:
            values["num_heads"] = values["hidden_size"] * values["expand"] // values["head_dim"]
        if values.get("mamba_d_ssm"):
            values["mamba_d_ssm"] = values["mamba_n_heads"] * values["mamba_d_head"]
    shrunk = type(text).from_dict(values)
    shrunk.vocab_size = values["vocab_size"]
    return shrunk


def _kept_layers(values: dict[str, Any], depth: int) -> list[int]:
    """Return the layers that the twin has: the first of each kind, the first two and the last."""
    periods = [v for k, v in values.items() if type(v) is int and PERIOD_PATTERN.fullmatch(k) and 1 < v < KEPT_LAYERS]
    lists = [value for value in values.values() if isinstance(value, list) and len(value) == depth]
    tables = [value for value in values.values() if isinstance(value, dict) and str(next(iter(value), "")).isdecimal()]
    lists += [[str({int(k): v for k, v in each.items()}.get(layer)) for layer in range(depth)] for each in tables]
    if periods and not lists:
        return list(range(min(depth, max(periods) + 1)))
    kinds: dict[str, int] = {}
    for layer in range(depth):
        rules = [layer < int(values[name] or 0) for name in FIRST_LAYERS if name in values]
        rules += [layer >= depth - int(values[name] or 0) for name in LAST_LAYERS if name in values]
        kinds.setdefault(repr([[each[layer] for each in lists], rules]), layer)
    wanted = [*kinds.values(), 0, depth - 1, min(1, depth - 1), max(0, depth - 2)]
    return sorted(dict.fromkeys(wanted[:KEPT_LAYERS]))


def _of_layers(values: dict[str, Any], depth: int, kept: list[int]) -> dict[str, Any]:
    """Return what is said layer by layer, for the kept ones."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in FIRST_LAYERS and value:
            found[name] = sum(layer < value for layer in kept)
        elif name in LAST_LAYERS and value:
            found[name] = sum(layer >= depth - value for layer in kept)
        elif name == "moe_layer_end_index":
            found[name] = len(kept) - 1
        elif name == "mlp_only_layers" and value:
            found[name] = [index for index, layer in enumerate(kept) if layer in value]
        elif isinstance(value, list) and len(value) == depth and depth > 1:
            found[name] = [value[layer] for layer in kept]
        elif isinstance(value, dict) and value and all(str(key).isdecimal() for key in value):
            by_layer: dict[int, Any] = {int(key): each for key, each in value.items()}
            found[name] = {index: by_layer[layer] for index, layer in enumerate(kept) if layer in by_layer}
    return found


def _depth(text: Any, values: dict[str, Any], layers: int) -> dict[str, Any]:
    """Return the number of layers under the name that the class gives it."""
    name = getattr(text, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers")
    return {name: layers} if name in values else {"num_hidden_layers": layers}


def _small(name: str, value: Any, values: dict[str, Any]) -> Any:
    """Return a size of the twin; what is no size stays."""
    if isinstance(value, dict):
        return {key: _small(key, each, values) for key, each in value.items()}
    if isinstance(value, list) and value and all(type(each) is int for each in value):
        small = [_small(name, each, values) for each in value]
        return small if small != value else value
    if type(value) is not int or value <= 0:
        return value
    if re.fullmatch(r"(swa_)?num_(key_value_heads|kv_heads|global_key_value_heads)|num_query_groups", name):
        heads = values.get("swa_num_attention_heads" if name.startswith("swa") else "num_attention_heads") or value
        return value if value == 1 else min(heads, 4) if value == heads else max(1, min(heads, 4) // 2)
    if re.fullmatch(r".*max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length", name):
        return value if name.startswith("original") else min(value, MAX_POSITIONS)
    return next((min(value, small) for pattern, small in SIZES if re.fullmatch(pattern, name)), value)


def _rope(values: dict[str, Any]) -> dict[str, Any]:
    """Return rope settings whose lists, a number for each frequency, have the twin's length."""
    rope: Any = values.get("rope_parameters")
    if not isinstance(rope, dict):
        return {}
    head = values.get("qk_rope_head_dim") or values.get("head_dim") or 16
    share = rope.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1.0
    frequencies = int(head * share) // 2
    cut: dict[str, Any] = {
        key: each[:frequencies] if key in ("short_factor", "long_factor") and isinstance(each, list) else each
        for key, each in rope.items()
    }
    return {"rope_parameters": cut}


def fill_weights(model: nn.Module, seed: int) -> None:
    """Draw a twin's weights so that each has an effect: no norm is one, no bias zero, no gate closed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if re.search(r"A_log|dt_bias|\bdt\b|decay", name):
                weight.copy_(drawn.abs().clamp(0.1, 1.0))
            elif weight.ndim >= 2:
                weight.copy_(drawn * 0.15)
            else:
                weight.add_(drawn * 0.1)
