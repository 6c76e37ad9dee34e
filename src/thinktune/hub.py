"""Names to local folders: a path as it is, or a hub's repository, downloaded once by the hub's own client."""

import hashlib
import re
from pathlib import Path
from typing import Literal

from thinktune.errors import UserError, brief
from thinktune.recipe import Recipe

Kind = Literal["model", "dataset"]


def locate(name: str, hub: str | None, revision: str | None, kind: Kind, field: str) -> Path:
    """The local path of a model or data set; `field` names the recipe's key for the error.

    Raises UserError where a local path does not exist, or the hub does not give the repository.
    """
    if hub is None:
        path = Path(name).expanduser()
        if not path.exists():
            raise UserError(
                f"{field}: {name!r} is no file or folder here; "
                "correct it, or name its hub beside it, as in hub: modelscope"
            )
        return path
    try:
        return (
            _from_modelscope(name, revision, kind) if hub == "modelscope" else _from_huggingface(name, revision, kind)
        )
    except Exception as error:
        # The clients raise many kinds (requests', their own, OSError); each means that the repository cannot be had.
        raise UserError(
            f"{field}: {name!r} (revision {revision or 'by default'}) could not be had from {hub}: {brief(error)}; "
            "check the name, the revision and the network, or give a local folder"
        ) from error


def locate_model(recipe: Recipe) -> Path:
    """The local folder of the model that a recipe starts from."""
    return locate(recipe.model.name, recipe.model.hub, recipe.model.revision, "model", "model.name")


def refuse_missing(recipe: Recipe) -> None:
    """Raise one UserError for all local paths of a recipe that are not there; it needs no network and no torch."""
    places: list[tuple[str, Kind, str]] = []
    if recipe.model.hub is None:
        places.append((recipe.model.name, "model", "model.name"))
    if recipe.data.hub is None:
        places.append((recipe.data.name, "dataset", "data.name"))
    if isinstance(recipe.data.validation, str):
        places.append((recipe.data.validation, "dataset", "data.validation"))
    faults: list[str] = []
    for name, kind, field in places:
        try:
            locate(name, None, None, kind, field)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)


def _from_modelscope(name: str, revision: str | None, kind: Kind) -> Path:
    from modelscope_hub import HubApi  # imported late: a recipe with local paths needs no hub client

    return Path(HubApi().download_repo(name, kind, revision=revision))


def _from_huggingface(name: str, revision: str | None, kind: Kind) -> Path:
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, repo_type=kind, revision=revision))
    _refuse_corrupt(folder)
    return folder


def _refuse_corrupt(folder: Path) -> None:
    """Hold a snapshot's large files to their sha256, which the client does not do for what plain HTTP brought.

    The cache names their blobs by the sha256 that the hub announced, so this asks for nothing and works offline.
    What differs is removed, so that it is downloaded again. Without links (Windows) there is no name to hold it to.
    """
    bad: list[str] = []
    for file in sorted(path for path in folder.rglob("*") if path.is_symlink()):
        blob = file.parent / file.readlink()
        if re.fullmatch("[0-9a-f]{64}", blob.name):
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != blob.name:
                bad.append(file.relative_to(folder).as_posix())
                for path in (file.resolve(), blob, file):  # a blob can itself be a link, into a store that is shared
                    path.unlink(missing_ok=True)
    if bad:
        raise OSError(f"{', '.join(bad)} came with a wrong sha256 and was removed, so start again to download anew")
