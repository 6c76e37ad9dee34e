"""A tuned model, or one of its exports, to a hub."""

import re
from pathlib import Path
from typing import Any

from thinktune.checkpoint import Checkpoint, model_warning, resolve_model_folder, verify
from thinktune.checkpoint.manifest import MANIFEST, checksum
from thinktune.checkpoint.store import STATE_FOLDER
from thinktune.config.schema import Hub
from thinktune.errors import UserError
from thinktune.export.source import FACTS_FILE
from thinktune.files import read_json
from thinktune.hub import ModelUpload, push
from thinktune.hub.card_metadata import read_front_matter
from thinktune.hub.verification import Listing
from thinktune.progress import Say

CARD = "README.md"

# What both hubs allow: letters, digits, `-`, `_` and `.`, not two of the last in a row, nor one at an end.
_PART = r"[A-Za-z0-9](?:(?:[A-Za-z0-9_-]|\.(?!\.))*[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_PART}/{_PART}")


def push_model(path: Path, hub: Hub, name: str, *, public: bool, say: Say) -> str:
    """Push the model of a run, of a model folder or of an export to a hub; returns its address there.

    The repository is private unless `public`. Raises UserError, with all mistakes at once, where the folder is no
    model or not as it was written, where the name is none, and where the hub refuses or fails.

    Args:
        path: a run's folder (its final model is pushed), an export's, or any folder with a model.
        hub: `modelscope` or `huggingface`.
        name: the repository, as `owner/name`.
        public: whether everybody may see it.
        say: prints the lines of progress.
    """
    faults: list[str] = []
    if not _NAME.fullmatch(name):
        faults.append(f"NAME: is {name!r}; write OWNER/NAME in letters, digits, - _ and ., as in clinic/heart-qwen3")
    folder, files = path, {}
    try:
        folder = resolve_model_folder(path)
        files = _files_to_push(folder)
    except UserError as error:
        faults += error.faults
    if faults:
        raise UserError(faults)
    if warning := model_warning(path):
        say(f"warning: {warning}")
    if CARD not in files:
        say(f"{folder} has no {CARD}, so the hub will show no model card")
    return push(ModelUpload(name, folder, files, public, _card_license(folder)), hub, say)


def _files_to_push(folder: Path) -> Listing:
    """Return the size and sha256 of each file of a model, by its name in the folder.

    Where the folder has a manifest, all is verified against it. Hidden files and a checkpoint's optimizer state are no
    part of a model.
    """
    written: dict[str, dict[str, Any]] = {}
    if (folder / MANIFEST).is_file():
        verify(Checkpoint(folder, 0))
        written = read_json(folder / MANIFEST)
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in found if not _is_private(name)]
    if not any(name == "config.json" or name.endswith(".gguf") for name in names):
        raise UserError(
            f"{folder}: holds no model (neither config.json nor a .gguf file); name a run's folder, or a model's"
        )
    measured = {name: written.get(name) or checksum(folder / name) for name in names}
    return {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in measured.items()}


def _is_private(name: str) -> bool:
    """Return True if a file is no part of a model: hidden, of the optimizer, or with questions of held-out rows."""
    parts = name.split("/")
    return parts[0] in (STATE_FOLDER, FACTS_FILE) or any(part.startswith(".") for part in parts)


def _card_license(folder: Path) -> str | None:
    """Return the licence that the model card's front matter gives, if it gives one."""
    given = read_front_matter(folder / CARD).get("license")
    return given if isinstance(given, str) else None
