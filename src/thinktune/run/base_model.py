"""The base model that a run started from, held to be the same by its content."""

from pathlib import Path

from thinktune.config import load_recipe
from thinktune.errors import UserError
from thinktune.files import expand_home
from thinktune.hub.fingerprint import weights_fingerprint
from thinktune.run.folder import RunFolder
from thinktune.run.reading import read_environment


def refuse_other_weights(fingerprint: str, folder: Path) -> None:
    """Raise UserError where a run was started from other weights; `fingerprint` is that of the base as it is now."""
    recorded = read_environment(folder)
    if recorded.get("weights_fingerprint") not in (None, fingerprint):
        raise UserError(
            f"{folder}: {_changed(recorded['model'])}; put the original weights back (model.name, or model.revision "
            f"of a hub), or start a new run with name={folder.name}-2"
        )


def describe_other_weights(folder: Path) -> str | None:
    """Return a sentence if a run's base is a local folder whose weights are no longer those of its start."""
    recorded = read_environment(folder)
    wanted = recorded.get("weights_fingerprint")
    model = load_recipe(RunFolder(folder).recipe).model
    if wanted is None or model.hub is not None:
        return None
    source = expand_home(Path(model.name))
    if not (source / "config.json").is_file() or weights_fingerprint(source) == wanted:
        return None  # a base that is elsewhere says nothing
    return f"{folder}: {_changed(model.name)}; a new evaluation would compare with another model"


def _changed(model: str) -> str:
    return f"the weights of its base {model} have changed since the run started"
