"""Read a model's own generation settings, and refuse those that no sampler takes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from thinktune.errors import UserError, shorten_error
from thinktune.files import read_json
from thinktune.model.folder import FIELD

GENERATION_CONFIG = "generation_config.json"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "do_sample": (lambda value: isinstance(value, bool), "true or false"),
    "temperature": (lambda value: _is_number(value) and value >= 0, "a number of 0 or more"),
    "top_p": (lambda value: _is_number(value) and 0 < value <= 1, "a number above 0 and at most 1"),
    "top_k": (_is_token, "a whole number of 0 (all tokens) or more"),
    "eos_token_id": (
        lambda value: _is_token(value) or (isinstance(value, list) and bool(value) and all(map(_is_token, value))),  # pyright: ignore
        "a token id or a list of them",
    ),
    "pad_token_id": (_is_token, "a token id"),
}


def read_generation_config(folder: Path) -> GenerationConfig:
    """Read a model folder's generation settings; transformers' defaults where it has none.

    Raises one UserError with every setting that cannot be used: a sampler, or the next save, would fail on it later.
    """
    path = folder / GENERATION_CONFIG
    try:
        raw = read_json(path)
    except FileNotFoundError:
        return GenerationConfig()
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{FIELD}: {path} cannot be read ({shorten_error(error)}); correct or remove it") from error
    if not isinstance(raw, dict):
        raise UserError(f"{FIELD}: {path} is not a JSON object; correct or remove it")
    values: dict[str, Any] = raw  # pyright: ignore[reportUnknownVariableType]
    faults = [
        f"{FIELD}: {path}: {name} is {values[name]!r}; it must be {rule}; correct it, or remove it from the file"
        for name, (holds, rule) in _RULES.items()
        if values.get(name) is not None and not holds(values[name])
    ]
    if faults:
        raise UserError(faults)
    try:
        config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        config.validate()
        config.to_json_string()  # as every checkpoint will write it
    except Exception as error:
        raise UserError(
            f"{FIELD}: {path} is rejected by transformers ({shorten_error(error)}); correct or remove it"
        ) from error
    return config
