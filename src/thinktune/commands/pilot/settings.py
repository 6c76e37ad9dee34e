"""What all runs of a pilot share, held to be the same when the pilot goes on."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from thinktune.config import Recipe
from thinktune.config.recipe_keys import any_source_key, recipe_key
from thinktune.errors import UserError
from thinktune.files import read_json, write_json
from thinktune.hub.fingerprint import weights_fingerprint
from thinktune.run.pilot_folder import PilotFolder
from thinktune.run.resume import JUDGED_BY_CONTENT, RESUMABLE_CHANGES, flatten_settings

# What a pilot sets itself, and what decides nothing in its runs.
FREE = (
    *RESUMABLE_CHANGES,
    *JUDGED_BY_CONTENT,
    "train.learning_rate",
    "train.epochs",
    "train.evaluate_every_steps",
    "data.validation",
)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="ignore")

    recipe: dict[str, Any]
    share: float
    rows: str
    weights: str


def recorded_share(folder: PilotFolder) -> float | None:
    """Return the share of rows that a pilot was begun with, None for a new one."""
    found = _read(folder)
    return found.share if found else None


def refuse_other_pilot(recipe: Recipe, folder: PilotFolder, rows: str, model: Path, share: float) -> None:
    """Record what the runs share; raise UserError where the folder holds a pilot of something else.

    Args:
        recipe: the recipe; its rate, its epochs and what decides nothing may change.
        folder: the pilot's.
        rows: the fingerprint of the recipe's rows.
        model: the base's folder.
        share: of the training rows.
    """
    now = _Settings(recipe=_deciding(recipe), share=share, rows=rows, weights=weights_fingerprint(model))
    before = _read(folder)
    if before is None:
        write_json(folder.settings, now.model_dump(mode="json"))
        return
    changes = [
        f"{recipe_key(key)} (was {before.recipe.get(key)!r}, is {now.recipe.get(key)!r})"
        for key in sorted(before.recipe.keys() | now.recipe.keys())
        if before.recipe.get(key) != now.recipe.get(key)
    ]
    changes += [f"--share (was {before.share:g}, is {share:g})"] if before.share != share else []
    changes += ["the rows or the chat template"] if before.rows != rows else []
    changes += ["the weights of the base"] if before.weights != now.weights else []
    if changes:
        raise UserError(
            f"{folder.path}: holds a pilot with other settings; changed: "
            f"{', '.join(changes)}; restore the previous values, or start another pilot with name={_other_name(recipe)}"
        )


def _deciding(recipe: Recipe) -> dict[str, Any]:
    flat = flatten_settings(recipe.model_dump(mode="json"))
    return {key: value for key, value in flat.items() if not any_source_key(key).startswith(FREE)}


def _other_name(recipe: Recipe) -> str:
    return f"{recipe.name or 'run'}-2"


def _read(folder: PilotFolder) -> _Settings | None:
    if not folder.settings.is_file():
        return None
    try:
        return _Settings.model_validate(read_json(folder.settings))
    except (ValueError, ValidationError, RecursionError):
        raise UserError(
            f"{folder.settings}: is damaged; put the original file back, or remove the folder {folder.path} to "
            "start over"
        ) from None
