"""Architectures of llama.cpp: which model classes they compute, with which options, and what a GGUF says of them.

llama.cpp takes its defaults in silence for options that it does not know, so each option that a class of transformers
has and llama.cpp lacks is refused here. Read in llama.cpp's own sources (src/models, src/llama-model.cpp).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

FULL, SLIDING = "full_attention", "sliding_attention"
GEMMA_PATTERN = 6  # llama.cpp's own: every sixth layer of Gemma 3 sees all
GEMMA_27B_LAYERS = 62  # by which llama.cpp knows it, and scales attention otherwise
YARN_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}  # llama.cpp reads no others for these architectures
FREQUENCY_TOLERANCE = 1e-5  # relative


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture as llama.cpp names it, and how it stores what a class of transformers stores otherwise.

    `permutes`: rows of query and key are in the order of interleaved rope. `shifts_norms`: 1 is added to the weights of
    norms. `attention_bias`, `mlp_bias`: whether it adds those.
    """

    name: str
    activation: str = "silu"
    permutes: bool = False
    shifts_norms: bool = False
    windows: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "Qwen3ForCausalLM": Architecture("qwen3", attention_bias=True),
    "Qwen2ForCausalLM": Architecture("qwen2", attention_bias=True),
    "LlamaForCausalLM": Architecture("llama", permutes=True, attention_bias=True, mlp_bias=True),
    "Gemma3ForCausalLM": Architecture("gemma3", "gelu_pytorch_tanh", shifts_norms=True, windows=True),
}


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions as llama.cpp computes them.

    `divisors` (head_dim / 2,) divide the frequencies of `theta` one by one. `attention_factor` is what llama.cpp
    multiplies its own factor of yarn by.
    """

    theta: float
    scaling: str | None = None
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float = 1.0
    divisors: NDArray[np.float32] | None = None


class UnknownRopeError(Exception):
    """Rotary positions that llama.cpp does not compute; its text says which."""


def class_name(config: Any) -> str:
    """Return the name of the class that a configuration is of."""
    return str((config.architectures or ["a class without a name"])[0])


def head_size(config: Any) -> int:
    """Return the width of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def list_unknown_options(config: Any) -> list[str]:
    """List what a configuration of a known class asks for that llama.cpp does not compute, each as `name: value`."""
    architecture = ARCHITECTURES[class_name(config)]
    faults = [
        f"{name}: {getattr(config, name)}"
        for name, known in (("attention_bias", architecture.attention_bias), ("mlp_bias", architecture.mlp_bias))
        if getattr(config, name, False) and not known
    ]
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if activation != architecture.activation:
        faults.append(f"hidden_act: {activation}")
    windowed = SLIDING in (getattr(config, "layer_types", None) or ())
    if windowed and not architecture.windows:
        faults.append(f"sliding_window: {config.sliding_window}")
    if architecture.name == "gemma3":
        faults += _gemma_options(config)
    for kind in (FULL, SLIDING) if windowed and architecture.windows else (FULL,):
        try:
            rope = measure_rope(config, kind)
            if rope.scaling and (kind == SLIDING or (rope.scaling == "yarn" and architecture.windows)):
                faults.append(f"rope_type: {rope.scaling} (of {kind})")
            if rope.divisors is not None and architecture.name != "llama":
                faults.append("rope_type: llama3")
        except UnknownRopeError as error:
            faults.append(str(error))
    return faults


def _gemma_options(config: Any) -> list[str]:
    faults: list[str] = []
    scale = config.hidden_size / config.num_attention_heads
    scale = scale if config.num_hidden_layers == GEMMA_27B_LAYERS else head_size(config)
    if config.query_pre_attn_scalar != scale:
        faults.append(f"query_pre_attn_scalar: {config.query_pre_attn_scalar} (it computes with {scale:g})")
    if getattr(config, "attn_logit_softcapping", None):
        faults.append(f"attn_logit_softcapping: {config.attn_logit_softcapping}")
    if getattr(config, "use_bidirectional_attention", False):
        faults.append("use_bidirectional_attention: true")
    return faults


def measure_rope(config: Any, kind: str) -> Rope:
    """Measure the rotary positions of a kind of layer by transformers' own functions, in llama.cpp's terms.

    Raises UnknownRopeError where llama.cpp cannot compute the same frequencies.
    """
    settings = config.rope_parameters
    if any(isinstance(value, dict) for value in settings.values()):
        settings = settings[kind]
    theta, width = float(settings["rope_theta"]), head_size(config)
    part = settings.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
    if part not in (None, 1, 1.0):
        raise UnknownRopeError(f"partial_rotary_factor: {part}")
    rope_type = settings.get("rope_type", "default")
    if rope_type == "default":
        return Rope(theta)
    if rope_type not in ("linear", "yarn", "llama3"):  # dynamic, longrope: their frequencies change with the length
        raise UnknownRopeError(f"rope_type: {rope_type}")
    inverse, attention = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"), layer_type=_nested(config, kind))
    measured = inverse.double().numpy()
    plain = theta ** -(np.arange(0, width, 2) / width)
    if rope_type == "llama3":
        return Rope(theta, divisors=(plain / measured).astype(np.float32))
    factor = float(settings["factor"])
    if rope_type == "linear":
        known, rope = plain / factor, Rope(theta, "linear", factor)
    else:
        changed = [name for name, value in YARN_BETAS.items() if settings.get(name) not in (None, value)]
        if changed:
            raise UnknownRopeError(f"rope_type: yarn with {changed[0]}: {settings[changed[0]]}")
        context = int(settings.get("original_max_position_embeddings") or config.max_position_embeddings)
        known = _yarn_frequencies(plain, factor, context)
        rope = Rope(theta, "yarn", factor, context, float(attention) / (1 + 0.1 * math.log(factor)))
    if not np.allclose(known, measured, rtol=FREQUENCY_TOLERANCE, atol=0):
        raise UnknownRopeError(f"rope_type: {rope_type} with other frequencies than llama.cpp's")
    return rope


def _nested(config: Any, kind: str) -> str | None:
    return kind if any(isinstance(value, dict) for value in config.rope_parameters.values()) else None


def _yarn_frequencies(plain: NDArray[np.float64], factor: float, context: int) -> NDArray[np.float64]:
    """Return the frequencies (head_dim / 2,) of yarn as ggml computes them (rope_yarn in ggml-cpu's ops)."""
    width = 2 * len(plain)

    def dimension(turns: float) -> float:
        return math.log(context / (turns * 2 * math.pi)) / -math.log(plain[1])

    low = max(0, math.floor(dimension(YARN_BETAS["beta_fast"])))
    high = min(width - 1, math.ceil(dimension(YARN_BETAS["beta_slow"])))
    ramp = 1 - np.clip((np.arange(len(plain)) - low) / max(0.001, high - low), 0, 1)
    return plain / factor * (1 - ramp) + plain * ramp


def add_hyperparameters(writer: Any, config: Any, vocabulary_size: int) -> None:
    """Add what llama.cpp reads of a model's sizes and options to a `gguf.GGUFWriter`."""
    import gguf  # imported late: an extra

    architecture, width = ARCHITECTURES[class_name(config)], head_size(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(vocabulary_size)
    rope = measure_rope(config, FULL)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope.theta)
    if rope.scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope.scaling))
        writer.add_rope_scaling_factor(rope.factor)
    if rope.scaling == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope.original_context)
        if abs(rope.attention_factor - 1) > FREQUENCY_TOLERANCE:
            writer.add_rope_scaling_attn_factors(rope.attention_factor)
    if cap := getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(cap)
    windows = [kind == SLIDING for kind in getattr(config, "layer_types", None) or ()]
    if architecture.windows and any(windows):
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base_swa(measure_rope(config, SLIDING).theta)
        if windows != [bool((place + 1) % GEMMA_PATTERN) for place in range(len(windows))]:
            writer.add_sliding_window_pattern(windows)
