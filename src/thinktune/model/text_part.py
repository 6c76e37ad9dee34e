"""The text part of a model of several modalities, as a causal language model of its own.

A vision or audio model is a wrapper around a decoder, and only the decoder is trained. Where transformers has a causal
language model for the decoder's class, that is used. Where it has none, because the decoder differs from a known one in
what it does with images alone, the class is found by measurement: of the same family, with the same weights, and the
same states for a text.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

from thinktune.library_output import captured_output
from thinktune.model.folder import FIELD

LISTED_MODALITIES = ("vision_config", "audio_config", "vision_tower", "mm_vision_tower", "visual")
WRAPPERS_SETTINGS = ("dtype", "eos_token_id", "bos_token_id", "pad_token_id")  # which may stand outside the text part
IMAGE_POSITIONS = ("mrope_section", "mrope_interleaved", "mrope_interleave")  # for a text all of a token's are the same
TOLERANCE = 1e-4  # of states of about 1, in fp32
PROVED_TOKENS = 24
MAX_GROUPS = 4  # that one line names
WEIGHT_SPREAD = 0.2
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 4,
    "max_window_layers": 1,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def text_values(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a raw configuration with the settings of its text part in front of the wrapper's."""
    inner = raw.get("text_config")
    return raw | inner if isinstance(inner, dict) else raw  # pyright: ignore[reportUnknownVariableType]


def has_other_modalities(raw: dict[str, Any]) -> bool:
    """Return True for the raw configuration of a model that also takes images, video or sound."""
    return any(key in raw for key in LISTED_MODALITIES)


def is_part(config: Any, raw: dict[str, Any]) -> bool:
    """Return True if a configuration, made by `text_config`, describes a part of the model of a raw one."""
    return config.model_type != raw.get("model_type")


def text_config(config: Any) -> Any | None:
    """Return the configuration of a wrapper's text part as that of a causal language model.

    Returns a configuration without such a part as it is, and None for a part that no causal language model of the
    installed release computes.
    """
    if config.is_encoder_decoder or (inner := config.get_text_config(decoder=True)) is config:
        return config
    found = inner if type(inner) in MODEL_FOR_CAUSAL_LM_MAPPING else _find_causal_config(inner)
    if found is None:
        return None
    found = copy.deepcopy(found)
    for name in WRAPPERS_SETTINGS:
        if getattr(found, name, None) is None and (value := getattr(config, name, None)) is not None:
            setattr(found, name, value)
    found.tie_word_embeddings = bool(
        getattr(config, "tie_word_embeddings", False) or getattr(inner, "tie_word_embeddings", False)
    )
    causal_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(found)]
    found.architectures = [causal_class.__name__]
    return found


def left_out_note(kind: str, class_name: str, unread: Sequence[str], folder: Path) -> str:
    """Return the line that says that only the text part of a folder is trained and written, and what is left out."""
    groups = Counter(_group(name) for name in unread)
    listed = ", ".join(f"{count} of {name}" for name, count in groups.most_common(MAX_GROUPS))
    more = f" and {len(groups) - MAX_GROUPS} other groups" if len(groups) > MAX_GROUPS else ""
    left_out = f"{len(unread):,} tensors are left out ({listed}{more})" if unread else "no tensor is left out"
    return (
        f"{FIELD}: {folder} is a model of several modalities ({kind}); only its text part is trained and saved, as "
        f"{class_name}: {left_out}"
    )


def _group(name: str) -> str:
    """Return what a stored tensor belongs to: its first name, or the first two under a body of all modalities."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first == "model" else first


def _find_causal_config(inner: Any) -> Any | None:
    """Return an equal configuration of a class that has a causal language model, or None."""
    if type(inner) not in MODEL_MAPPING:
        return None
    found = _find_causal_kind(inner.model_type, json.dumps(inner.to_dict(), default=str))
    if found is None:
        return None
    kind, switches = found
    settings: dict[str, Any] = _plain_values(inner.to_dict()) | dict(switches)
    return CONFIG_MAPPING[kind](**settings)


@lru_cache
def _find_causal_kind(kind: str, settings: str) -> tuple[str, tuple[tuple[str, bool], ...]] | None:
    """Find a model type whose decoder computes what that of `kind` does, and the switches that it needs; None if none.

    Both are made small, with these settings (JSON) otherwise, and with equal weights. A switch that the part's own
    class does not have, because it is built in there, is tried both ways.
    """
    try:
        values = _shrink(json.loads(settings))
        with captured_output():
            part = _build(AutoModel, CONFIG_MAPPING[kind](**values))
            states = _states(part)
    except Exception:  # a class that cannot be made small is not known to equal another
        return None
    for other in CONFIG_MAPPING:
        if _family(other) == _family(kind) and CONFIG_MAPPING[other] in MODEL_FOR_CAUSAL_LM_MAPPING:
            switches = [name for name, value in _defaults(other).items() if type(value) is bool and name not in values]
            for changed in ({}, *({name: not _defaults(other)[name]} for name in switches)):
                if _computes(other, _plain_values(values) | changed, part, states):
                    return other, tuple(changed.items())
    return None


def _shrink(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with small sizes; a head keeps its width, to which rotary sections are fitted."""
    width = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    kept = {name: value for name, value in values.items() if name != "model_type" and value is not None}
    small = {name: SMALL.get(name, value) for name, value in kept.items()} | {"hidden_size": 4 * width}
    if "layer_types" in small:
        small["layer_types"] = small["layer_types"][-SMALL["num_hidden_layers"] :]
    return small


@lru_cache
def _defaults(kind: str) -> dict[str, Any]:
    try:
        return CONFIG_MAPPING[kind]().to_dict()
    except Exception:  # a class without defaults for all of its settings
        return {}


def _computes(kind: str, values: dict[str, Any], part: Any, states: Tensor) -> bool:
    """Return True if a class's decoder has the weights of a part, and the same states with them."""
    try:
        config = CONFIG_MAPPING[kind](**values)
        with torch.device("meta"), captured_output():
            shapes = _shapes(AutoModelForCausalLM.from_config(config).get_decoder())
        if shapes != _shapes(part):
            return False
        with captured_output():
            decoder = _build(AutoModelForCausalLM, config).get_decoder()
            decoder.load_state_dict(part.state_dict())
            return bool((_states(decoder) - states).abs().max() < TOLERANCE)
    except Exception:  # a class that takes other settings is another one
        return False


def _build(builder: Any, config: Any) -> Any:
    return builder.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _states(model: Any) -> Tensor:
    """Return the last states of a small decoder for a text, with weights large enough for each to matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * WEIGHT_SPREAD)
        ids = torch.randint(SMALL["vocab_size"], (1, PROVED_TOKENS), generator=generator)
        return model(input_ids=ids, use_cache=False).last_hidden_state


def _plain_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return a text part's settings without those that tell it apart: its type, and positions in images."""
    kept = {name: value for name, value in values.items() if name not in ("model_type", "architectures")}
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(kept.get(name), dict):
            rope = {key: value for key, value in kept[name].items() if key not in IMAGE_POSITIONS}
            if rope.get("type") == "mrope":
                rope.pop("type")
            kept[name] = rope
    return kept


def _family(kind: str) -> str:
    return re.match("[a-z]*", kind)[0]  # pyright: ignore[reportOptionalSubscript]
