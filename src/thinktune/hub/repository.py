"""Names to local folders: a path as it is, or a repository, whole and verified, from its hub or from the cache."""

import os
import sys
from pathlib import Path

from thinktune.config.schema import Recipe
from thinktune.errors import UserError, brief
from thinktune.files import read_json
from thinktune.hub.huggingface import from_huggingface, listing_of
from thinktune.hub.modelscope import RECORD, from_modelscope, modelscope
from thinktune.hub.snapshots import (
    TOKENS,
    IncompleteError,
    Kind,
    Listing,
    WrongBytesError,
    chain,
    unlisted_files,
    wrong_files,
)


def download(name: str, hub: str, revision: str | None, kind: Kind) -> Path:
    """The folder of a repository that has come whole, every byte as the hub announced it.

    What is in the cache and right is not downloaded again; what was cut or killed goes on where it stopped.
    Raises the clients' many errors, and WrongBytesError where Hugging Face's would have let a wrong file pass.
    """
    return from_modelscope(name, revision, kind) if hub == "modelscope" else from_huggingface(name, revision, kind)


def recall(name: str, hub: str, revision: str | None, kind: Kind) -> Path:
    """The folder of a repository in the cache, without the network.

    Raises IncompleteError where it is not known to be whole and right, and the clients' errors where it is not there.
    """
    if hub == "modelscope":
        folder = Path(modelscope().download_repo(name, kind, revision=revision or "master", local_files_only=True))
        record = folder / RECORD
        listing: Listing = read_json(record) if record.exists() else {}
    else:
        from huggingface_hub import get_cached_repo_tree, snapshot_download

        folder = Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
        try:
            tree = get_cached_repo_tree(name, repo_type=kind, revision=folder.name)
        except Exception:  # an older client kept none
            tree = []
        listing = listing_of(tree)
    if not listing:
        raise IncompleteError(f"nothing says that {folder} is whole")
    if amiss := [*wrong_files(folder, listing), *unlisted_files(folder, listing)]:
        raise IncompleteError(f"{folder} is not as the hub announced it in {', '.join(amiss[:3])}")
    return folder


MIRRORS = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}


OFFLINE = {"huggingface": ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "modelscope": ("MODELSCOPE_OFFLINE",)}
"""The variables that keep us off a hub; ModelScope's client has none, so that one is ours."""


TRUE = ("1", "ON", "YES", "TRUE")


def locate(name: str, hub: str | None, revision: str | None, kind: Kind, field: str) -> Path:
    """The local path of a model or data set; `field` names the recipe's key for the error.

    A hub that cannot give the repository is no fault while the cache holds it whole: one line on stderr says so.
    Raises UserError where a local path does not exist, or neither the hub nor the cache gives the repository.
    """
    if hub is not None:
        return _from_hub(name, hub, revision, kind, field)
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(
            f"{field}: {name!r} is no file or folder here; correct it, or name its hub beside it, as in hub: modelscope"
        )
    return path


def locate_model(recipe: Recipe) -> Path:
    """The local folder of the model that a recipe starts from."""
    return locate(recipe.model.name, recipe.model.hub, recipe.model.revision, "model", "model.name")


def _from_hub(name: str, hub: str, revision: str | None, kind: Kind, field: str) -> Path:
    asked = f"{field}: {name!r} (revision {revision or 'by default'})"
    switch = next((variable for variable in OFFLINE[hub] if os.environ.get(variable, "").upper() in TRUE), None)
    cause, reason = None, f"{switch} is set; unset it to download, or give a local folder"
    if switch is None:
        try:
            return download(name, hub, revision, kind)
        except Exception as error:
            # The clients raise many kinds (requests', httpx', their own, OSError): each means that it cannot be had.
            cause, reason = error, _explain(error, hub)
    try:
        folder = recall(name, hub, revision, kind)
    except Exception as error:
        if isinstance(error, IncompleteError) and switch:
            reason += f" (in the cache, {error})"
        raise UserError(_without_tokens(f"{asked} could not be had from {hub}: {reason}")) from (cause or error)
    print(_without_tokens(f"{asked} is taken from the cache, not from {hub}: {reason}"), file=sys.stderr)
    return folder


def _explain(error: BaseException, hub: str) -> str:
    """What went wrong between us and a hub, and what to do about it, in one sentence."""
    if failed := getattr(error, "failed_files", None):  # ModelScope's client tells of all files at once
        file, fault = next(iter(failed.items()))
        return f"{file}: {_explain(fault, hub)}"
    token, again = TOKENS[hub], f"name a mirror in {MIRRORS[hub]}, and start again: what has come is kept"
    match _status(error):
        case 401:
            return f"it asks for a token (401); set {token} to one that may read it, or correct the name"
        case 403:
            return f"it refuses access (403); ask for it on the page there, and set {token} to a token of that account"
        case 404:
            return "it has nothing of that name, kind and revision (404); correct them"
        case 429:
            return f"it has had too many requests (429); wait some minutes, set {token}, or {again}"
        case int(status) if status >= 500:
            return f"it has failed ({status}); wait, or {again}"
        case _:
            pass
    names = " ".join(type(link).__name__ for link in chain(error))
    if isinstance(error, WrongBytesError):
        return f"{error} came with other bytes than announced and was removed; {again}"
    if "Integrity" in names or "Mismatch" in names:
        return f"it came with other bytes than announced and was removed; {again}"
    if "Timeout" in names:
        return f"it does not answer; check the network, {again}"
    if "Connect" in names or "Protocol" in names or "ReadError" in names:
        return f"the connection fails; check the network, {again}"
    said = _without_tokens(brief(error, 10_000))[:300]  # before it is cut: no half of a token either
    return f"{said}; correct that, or give a local folder"


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error comes from."""
    for link in chain(error):
        for holder in (link, getattr(link, "response", None)):
            if status := getattr(holder, "status_code", None):
                return status
    return None


def _without_tokens(text: str) -> str:
    """A sentence in which no token stands, should a hub have sent one back."""
    for variable in TOKENS.values():
        if token := os.environ.get(variable, "").strip():
            text = text.replace(token, "***")
    return text
