"""A base model's own files beside its weights, which every checkpoint and `final/` carry on as they are."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thinktune.checkpoint.portable_config import portable_config
from thinktune.files import read_json, write_json
from thinktune.hub.card_metadata import LICENSE_PATTERNS
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.tags import template_text

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
TOKENIZER_FILE, SPECIAL_TOKENS_FILE = "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE_FILE, PROCESSOR_TEMPLATE_FILE = "chat_template.jinja", "chat_template.json"


# What transformers, other engines and converters read of a tokenizer, chat templates included; the generation
# configuration; code of the model's own; and the terms that a copy must come with. Patterns of one level.
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
    *LICENSE_PATTERNS,
)


@dataclass(frozen=True, slots=True)
class StoredAs:
    """How a base stores a weight: in which file, and in which dtype if that is not the one of most of its weights.

    `sources` are the names that the weight may have in a checkpoint, of which the first one that is there counts: the
    base's, the one in the trained class, and of a tied weight its twin's.
    """

    file: str
    sources: tuple[str, ...]
    own_dtype: Any = None  # a torch.dtype


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """A base model's configuration, the bytes of its tokenizer's and other small files, and its weights' places.

    Files have their relative names. `weights` says by stored name how each weight is stored; it is empty where the
    trained model is only a part of the base. All is read once, at the start of a run, so that no later change of the
    base reaches a checkpoint.
    """

    config: dict[str, Any] = field(default_factory=dict[str, Any])
    carried: dict[str, bytes] = field(default_factory=dict[str, bytes])
    end_token_id: int | None = None  # of a turn; generation ends at it
    weights: Mapping[str, StoredAs] = field(default_factory=dict[str, StoredAs])

    @classmethod
    def read(
        cls, folder: Path, tokenizer: ChatTokenizer | None = None, weights: Mapping[str, StoredAs] | None = None
    ) -> "BaseFiles":
        """Read those of a model folder; raises OSError if it has no configuration.

        Where the run's `tokenizer` has another chat template or end of turn than the folder, the files that name them
        are changed accordingly, and no others.
        """
        found = {path for pattern in CARRIED_PATTERNS for path in folder.glob(pattern) if path.is_file()}
        carried = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}
        if tokenizer is None:
            return cls(read_json(folder / CONFIG_FILE), carried, weights=weights or {})
        carried |= _changed_tokenizer_files(carried, tokenizer)
        return cls(read_json(folder / CONFIG_FILE), carried, tokenizer.eos_token_id, weights or {})

    def write(self, folder: Path) -> None:
        """Write the files, byte for byte, and the configuration merged with the one that transformers saved there."""
        for name, content in self.carried.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        saved = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
        write_json(folder / CONFIG_FILE, portable_config(saved, self.config))
        self._end_generation_at_turn(folder / GENERATION_FILE)

    def _end_generation_at_turn(self, path: Path) -> None:
        """Add the end of a turn to the tokens that end generation: engines read them there, not from the tokenizer."""
        config: dict[str, Any] = read_json(path) if path.is_file() else {}
        named = config.get("eos_token_id")
        ends = named if isinstance(named, list) else [] if named is None else [named]
        if self.end_token_id is not None and self.end_token_id not in ends:
            config.pop("_from_model_config", None)  # transformers 4 takes such a file's ends from config.json instead
            write_json(path, config | {"eos_token_id": [self.end_token_id, *ends]})


def _changed_tokenizer_files(carried: Mapping[str, bytes], tokenizer: ChatTokenizer) -> dict[str, bytes]:
    """Return those of a folder's files that name another chat template or end of turn, with the tokenizer's own."""
    described: dict[str, Any] = json.loads(carried.get(TOKENIZER_FILE, b"{}"))
    special: dict[str, Any] = json.loads(carried.get(SPECIAL_TOKENS_FILE, b"{}"))
    changed: dict[str, bytes] = {}
    named = _token_text(described.get("eos_token") or special.get("eos_token"))
    if named != tokenizer.eos_token:
        described["eos_token"] = tokenizer.eos_token
        changed[TOKENIZER_FILE] = _to_json(described)
        if "eos_token" in special:
            changed[SPECIAL_TOKENS_FILE] = _to_json(special | {"eos_token": tokenizer.eos_token})
    template, inside = template_text(tokenizer), described.get("chat_template")
    if not template or template == _written_template(carried, inside):
        return changed
    if isinstance(inside, list) and TEMPLATE_FILE not in carried:  # a file would hide those of other names
        named = {each["name"]: each["template"] for each in inside} | {"default": template}
        described["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
        return changed | {TOKENIZER_FILE: _to_json(described)}
    changed[TEMPLATE_FILE] = template.encode()
    if inside is not None:
        del described["chat_template"]
        changed[TOKENIZER_FILE] = _to_json(described)
    if PROCESSOR_TEMPLATE_FILE in carried:
        changed[PROCESSOR_TEMPLATE_FILE] = _to_json({"chat_template": template})
    return changed


def _written_template(carried: Mapping[str, bytes], inside: Any) -> str | None:
    """Return the chat template for a plain conversation that a folder's files name; the file counts first."""
    if TEMPLATE_FILE in carried:
        return io.TextIOWrapper(io.BytesIO(carried[TEMPLATE_FILE]), encoding="utf-8").read()
    if isinstance(inside, list):
        return next((each["template"] for each in inside if each["name"] == "default"), None)
    return inside


def _token_text(named: Any) -> str | None:
    """Return the text of a token, which older releases write with its properties."""
    return named.get("content") if isinstance(named, dict) else named


def _to_json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
