"""A model's configuration as every release of transformers and other engines read it alike.

Transformers 5 reads `rope_parameters` and `dtype`, earlier releases `rope_theta`, `rope_scaling` and `torch_dtype`, and
each takes its defaults in silence for what it does not find.
"""

from collections.abc import Mapping
from typing import Any

# Keys of a base's configuration that tell of its weights' format, which training changes.
_FORMAT_KEYS = ("dtype", "torch_dtype", "quantization_config")

# What transformers 4, whose last release is 4.57, reads under other keys than most. By model type: the keys of the base
# of rope, and of the layers with a sliding window where those have a rope of their own.
_TWO_ROPES: dict[str, tuple[str, str | None]] = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
    "olmo3": ("rope_theta", None),  # of both kinds of layer
}
_NEOX_KEYS = ("rotary_emb_base", "rotary_pct")
_ROPE_KEYS: dict[str, tuple[str, str]] = {"gpt_neox": _NEOX_KEYS, "gpt_neox_japanese": _NEOX_KEYS}
_OTHER_KEYS = {"qwen3_moe": {"num_local_experts": "num_experts"}}
_OTHER_WORDS = {"granitemoehybrid": ("layer_types", {"linear_attention": "mamba", "full_attention": "attention"})}
_LONGROPE = ("longrope", "su")  # the second is the first one's name of old


def portable_config(saved: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return a model's configuration with what every release reads.

    It keeps the base's keys in the base's form, but not those of a model of several modalities whose text part alone
    was trained: they describe what is not there. Where the base says a rope otherwise than `saved`, `saved` decides.

    Args:
        saved: the configuration as the installed release saves it, which decides what the values mean.
        base: the base's own configuration; empty where there is none.
    """
    if saved and base.get("model_type", saved.get("model_type")) != saved.get("model_type"):
        base = {}
    kept = {key: value for key, value in base.items() if key not in _FORMAT_KEYS}
    config = saved | kept | _trained_class(saved, base)
    if "dtype" in saved:
        config["torch_dtype"] = saved["dtype"]
    if isinstance(saved.get("rope_parameters"), dict):
        config["rope_parameters"] = saved["rope_parameters"]
    return with_older_keys(config, saved)


def with_older_keys(config: dict[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the keys that releases before transformers 5 read, each in the form that it has.

    Args:
        config: the configuration, which may have some of the keys; one that says something else is replaced.
        saved: the same configuration as transformers 5 saves it.
    """
    kind = str(saved.get("model_type"))
    found = dict(config)
    for key, older in _OTHER_KEYS.get(kind, {}).items():
        if key in saved:
            found.setdefault(older, saved[key])
    key, words = _OTHER_WORDS.get(kind, ("", {}))
    if isinstance(named := found.get(key), list):
        found[key] = [words.get(word, word) for word in named]  # pyright: ignore[reportUnknownVariableType]
    for key, value in _older_rope(saved, kind).items():
        if key not in found or not _say_the_same(found[key], value):
            found[key] = value
    return found


def _trained_class(saved: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class that was trained, where the base names others: it may have been saved without a head."""
    classes: list[str] = saved.get("architectures") or []
    named: list[str] = base.get("architectures") or []
    if not classes or not named or "auto_map" in base or set(classes) & set(named):
        return {}
    return {"architectures": classes}


def _older_rope(saved: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the older keys for a model's rope; none where it has no rope, or one that they cannot say."""
    rope = saved.get("rope_parameters")
    if not isinstance(rope, dict):
        return {}
    if "rope_theta" in rope:
        theta, partial = _ROPE_KEYS.get(kind, ("rope_theta", "partial_rotary_factor"))
        found = {theta: rope["rope_theta"], "rope_scaling": _older_scaling(rope)}
        if "partial_rotary_factor" in rope:
            found[partial] = rope["partial_rotary_factor"]
        if rope.get("rope_type") in _LONGROPE and "original_max_position_embeddings" in rope:
            found["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
        return found
    full, sliding = rope.get("full_attention"), rope.get("sliding_attention")
    if kind not in _TWO_ROPES or not full or not sliding:
        return {}
    theta, local = _TWO_ROPES[kind]
    found = {theta: full["rope_theta"], "rope_scaling": _older_scaling(full)}
    return found | ({local: sliding["rope_theta"]} if local else {})


def _older_scaling(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return `rope_scaling` for one rope: None where its frequencies are not scaled."""
    if rope.get("rope_type", "default") == "default":
        return None
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    if rope["rope_type"] not in _LONGROPE:
        return scaling
    # Phi-3's own check takes these three keys alone; the original context stands outside.
    others = {"rope_type", "type", "original_max_position_embeddings"}
    return {"type": "longrope"} | {key: value for key, value in scaling.items() if key not in others}


def _say_the_same(theirs: Any, ours: Any) -> bool:
    """Return True if a base's value of an older key says what ours does, however it is spelled."""
    if not isinstance(theirs, dict):
        return theirs == ours
    spelled: dict[str, Any] = dict(theirs)  # pyright: ignore[reportUnknownArgumentType]
    kind = _spelled_type(spelled)
    if ours is None or kind == "default":
        return ours is None and kind == "default"
    values = {key: value for key, value in spelled.items() if key not in ("type", "rope_type")}
    outside = "original_max_position_embeddings"  # of longrope; inside as well, where the base has it there
    return kind == _spelled_type(ours) and values.items() <= ({outside: values.get(outside)} | ours).items()


def _spelled_type(scaling: Mapping[str, Any]) -> str:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return "longrope" if kind in _LONGROPE else str(kind)
