"""A base model's own files beside its weights, which every checkpoint and `final/` carry on as they are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinktune.files import read_json, write_json

CONFIG_FILE = "config.json"


# What transformers, other engines and converters read of a tokenizer, chat templates included; the generation
# configuration; and code of the model's own. Patterns of one level.
CARRIED_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",  # SentencePiece
    "*.tiktoken",
    "tekken.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "*.py",
)


# Keys of a base's configuration that tell of its weights' format, which training changes.
_FORMAT_KEYS = ("dtype", "torch_dtype", "quantization_config")


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """A base model's configuration, and the bytes of its tokenizer's and other small files by relative name.

    They are read once, at the start of a run, so that no later change of the base reaches a checkpoint.
    """

    config: dict[str, Any] = field(default_factory=dict[str, Any])
    carried: dict[str, bytes] = field(default_factory=dict[str, bytes])

    @classmethod
    def read(cls, folder: Path) -> "BaseFiles":
        """Read those of a model folder; raises OSError if it has no configuration."""
        found = {path for pattern in CARRIED_PATTERNS for path in folder.glob(pattern) if path.is_file()}
        carried = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}
        return cls(read_json(folder / CONFIG_FILE), carried)

    def write(self, folder: Path) -> None:
        """Write the files, byte for byte, and the configuration merged with the one that transformers saved there."""
        for name, content in self.carried.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        saved = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
        write_json(folder / CONFIG_FILE, portable_config(saved, self.config))


def portable_config(saved: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return a model's configuration as every release of transformers and other engines read it alike.

    It keeps the base's keys in the base's form, but not those of a model of several modalities whose text part alone
    was trained: they describe what is not there. Transformers 5 reads `rope_parameters` and `dtype`, earlier releases
    `rope_theta`, `rope_scaling` and `torch_dtype`, and take their defaults in silence for what they do not find.

    Args:
        saved: the configuration as the installed release saves it, which decides what the values mean.
        base: the base's own configuration; empty where there is none.
    """
    if saved and base.get("model_type", saved.get("model_type")) != saved.get("model_type"):
        base = {}
    kept = {key: value for key, value in base.items() if key not in _FORMAT_KEYS}
    config = saved | kept
    if "dtype" in saved:
        config["torch_dtype"] = saved["dtype"]
    rope = saved.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:  # none, or one for each kind of layer
        return config
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    config["rope_parameters"] = rope
    config["rope_theta"] = rope["rope_theta"]
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if scaling.get("rope_type", "default") == "default":
        config.setdefault("rope_scaling", None)
    else:
        config["rope_scaling"] = (base.get("rope_scaling") or {}) | scaling
    return config
