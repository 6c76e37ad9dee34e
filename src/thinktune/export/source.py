"""The tuned model that is exported: its folder, its run, its name, and how it is talked to."""

import re
from dataclasses import dataclass
from pathlib import Path

from thinktune.checkpoint import resolve_model_folder
from thinktune.inference import ChatDefaults, read_chat_defaults
from thinktune.run import RunFolder

FACTS_FILE = "export.json"  # beside an export: what was made, and how it answered

_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model as an export takes it: a whole transformers folder, and the run that made it, where one did.

    `name` is what files, servers and engines may call it: lower-case letters, digits, `.`, `_` and `-`.
    """

    folder: Path
    run: RunFolder | None
    name: str
    defaults: ChatDefaults


def find_source(path: Path) -> ModelSource:
    """Return the model of a run's folder or of a plain model folder; raises UserError where there is none."""
    run, folder = RunFolder(path), resolve_model_folder(path)
    named = path if path.name not in ("", "..") else path.resolve()  # as in `export .`
    name = _NOT_IN_NAMES.sub("-", named.name.lower()).strip("-.") or "model"
    return ModelSource(folder, run if run.is_run else None, name, read_chat_defaults(path, folder))
