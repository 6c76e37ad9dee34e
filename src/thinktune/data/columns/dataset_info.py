"""LLaMA-Factory's dataset_info.json beside a file of rows: what it says of the file's columns."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinktune.data.columns.recipe_change import RecipeChange

FILE_NAME = "dataset_info.json"


MAX_BYTES = 2**22


# LLaMA-Factory's names of columns, by those of `data.columns`.
_PAIR_COLUMNS = {"prompt": "question", "response": "answer", "system": "system", "kto_tag": "label"}


_MESSAGE_COLUMNS = {"messages": "messages", "system": "system", "kto_tag": "label"}


# What its formats mean where an entry names no column.
_DEFAULTS = {"alpaca": {"prompt": "instruction", "response": "output"}, "sharegpt": {"messages": "conversations"}}


def read_dataset_info(file: Path) -> list[RecipeChange]:
    """Read what a dataset_info.json in a file's folder, or in the one above, says of the file; empty if nothing."""
    for folder in (file.parent, file.parent.parent):
        info = folder / FILE_NAME
        try:
            if not info.is_file() or info.stat().st_size > MAX_BYTES:
                continue
            entries = json.loads(info.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError):  # it only helps; the rows are not in it
            continue
        for entry in entries.values() if isinstance(entries, dict) else ():
            if isinstance(entry, dict) and _names_file(entry, folder, file):
                return list(_changes(entry))
    return []


def _names_file(entry: dict[str, Any], folder: Path, file: Path) -> bool:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    place = folder / name
    return place == file or place in file.parents or (place.resolve() == file.resolve())


def _changes(entry: dict[str, Any]) -> Iterator[RecipeChange]:
    """Yield the changes that say what an entry says, with its roles if it names some."""
    named = {str(key): value for key, value in _dict(entry.get("columns")).items() if isinstance(value, str) and value}
    formatting = entry.get("formatting")
    if entry.get("ranking"):  # pairs, which are recognized by what they hold
        return
    sharegpt = formatting in ("sharegpt", "openai") or (formatting is None and "messages" in named)
    known = _MESSAGE_COLUMNS if sharegpt else _PAIR_COLUMNS
    full = {**_DEFAULTS["sharegpt" if sharegpt else "alpaca"], **named}
    columns: dict[str, Any] = {known[key]: name for key, name in full.items() if key in known}
    ignore = tuple(name for key, name in named.items() if key in ("images", "videos", "audios", "tools"))
    tags = _dict(entry.get("tags"))
    roles = {
        tags[f"{role}_tag"]: role
        for role in ("user", "assistant", "system")
        if isinstance(tags.get(f"{role}_tag"), str)
    }
    if not sharegpt and (query := named.get("query")):
        yield RecipeChange({**columns, "question": [columns["question"], query]}, ignore)
    if sharegpt and roles:
        yield RecipeChange({**columns, "roles": {role: tag for tag, role in roles.items()}}, ignore)
    yield RecipeChange(columns, ignore)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
