"""Places that a posted change may not name: rows and runs outside of the studio's folder, and a model's own code.

What a recipe's file has already was written by hand and stays; a model may lie anywhere.
"""

from pathlib import Path

from thinktune.config import Recipe, load_recipe
from thinktune.config.replay import BUNDLED
from thinktune.errors import UserError
from thinktune.files import expand_home
from thinktune.http import ApiError
from thinktune.studio.folder import StudioFolder
from thinktune.studio.verbs import CheckVerb, PilotVerb, ThinkVerb, TrainVerb, Verb


def refuse_overrides(folder: StudioFolder, verb: Verb) -> None:
    """Raise ApiError (400) where a verb's overrides name what a posted change may not."""
    if not isinstance(verb, CheckVerb | TrainVerb | ThinkVerb | PilotVerb) or not verb.overrides:
        return
    path = folder.resolve(verb.recipe)
    try:
        after = load_recipe(path, verb.overrides)
    except (UserError, OSError):
        return  # the verb itself says what is wrong, and does nothing
    try:
        before = load_recipe(path)
    except (UserError, OSError):
        before = None
    if faults := faults_of_places(folder.path, before, after):
        raise ApiError(400, "; ".join(faults))


def faults_of_places(folder: Path, before: Recipe | None, after: Recipe) -> list[str]:
    """List what a change from one recipe to another names and may not; `before` is None where there was none."""
    kept = _places(before) if before else set[tuple[str, str]]()
    faults = [
        f"{key}: {place} is outside of the studio's folder; copy it into the folder, or write this setting into the "
        "recipe's file with an editor"
        for key, place in sorted(_places(after) - kept)
        if not _is_below(folder, place)
    ]
    if after.model.trust_remote_code and not (before and before.model.trust_remote_code):
        faults.append(
            "model.trust_remote_code: lets code of the model run, so no page sets it; write it into the recipe's file "
            "with an editor"
        )
    return faults


def _places(recipe: Recipe) -> set[tuple[str, str]]:
    """Return the paths of rows and of the run, each with its key."""
    found = {("runs_folder", str(recipe.run_folder))}
    for source in (recipe.data, *recipe.other_sources):
        if source.hub is None:
            found.add(("data.name", source.name))
        if isinstance(source.validation, str):
            found.add(("data.validation", source.validation))
    replay = recipe.data.replay
    if replay is not None and replay.rows != BUNDLED:
        found.add(("data.replay.rows", replay.rows))
    return found


def _is_below(folder: Path, place: str) -> bool:
    try:
        return (folder / expand_home(Path(place))).resolve().is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):
        return False
