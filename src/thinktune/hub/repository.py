"""Names to local folders: a path as it is, or a repository, whole and verified, from its hub or from the cache."""

import os
import sys
from pathlib import Path

from thinktune.config import Recipe
from thinktune.errors import UserError, shorten_error
from thinktune.files import read_json
from thinktune.hub.huggingface import download_from_huggingface, to_listing
from thinktune.hub.modelscope import LISTING_FILE, download_from_modelscope, modelscope_client
from thinktune.hub.snapshots import (
    TOKEN_VARIABLES,
    ChecksumMismatchError,
    IncompleteSnapshotError,
    Listing,
    RepoType,
    exception_chain,
    mismatched_files,
    unlisted_files,
)


def download(name: str, hub: str, revision: str | None, repo_type: RepoType) -> Path:
    """The folder of a repository that has come whole, every byte as the hub announced it.

    What is in the cache and right is not downloaded again; what was cut or killed goes on where it stopped.
    Raises the clients' many errors, and WrongBytesError where Hugging Face's would have let a wrong file pass.
    """
    return (
        download_from_modelscope(name, revision, repo_type)
        if hub == "modelscope"
        else download_from_huggingface(name, revision, repo_type)
    )


def find_in_cache(name: str, hub: str, revision: str | None, repo_type: RepoType) -> Path:
    """The folder of a repository in the cache, without the network.

    Raises IncompleteError where it is not known to be whole and right, and the clients' errors where it is not there.
    """
    if hub == "modelscope":
        folder = Path(
            modelscope_client().download_repo(name, repo_type, revision=revision or "master", local_files_only=True)
        )
        record = folder / LISTING_FILE
        listing: Listing = read_json(record) if record.exists() else {}
    else:
        from huggingface_hub import get_cached_repo_tree, snapshot_download

        folder = Path(snapshot_download(name, repo_type=repo_type, revision=revision, local_files_only=True))
        try:
            tree = get_cached_repo_tree(name, repo_type=repo_type, revision=folder.name)
        except Exception:  # an older client kept none
            tree = []
        listing = to_listing(tree)
    if not listing:
        raise IncompleteSnapshotError(f"nothing says that {folder} is whole")
    if amiss := [*mismatched_files(folder, listing), *unlisted_files(folder, listing)]:
        raise IncompleteSnapshotError(f"{folder} is not as the hub announced it in {', '.join(amiss[:3])}")
    return folder


ENDPOINT_VARIABLES = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}


OFFLINE_VARIABLES = {"huggingface": ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "modelscope": ("MODELSCOPE_OFFLINE",)}
"""The variables that keep us off a hub; ModelScope's client has none, so that one is ours."""


TRUE_VALUES = ("1", "ON", "YES", "TRUE")


def locate(name: str, hub: str | None, revision: str | None, repo_type: RepoType, field: str) -> Path:
    """The local path of a model or data set; `field` names the recipe's key for the error.

    A hub that cannot give the repository is no fault while the cache holds it whole: one line on stderr says so.
    Raises UserError where a local path does not exist, or neither the hub nor the cache gives the repository.
    """
    if hub is not None:
        return _locate_on_hub(name, hub, revision, repo_type, field)
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(
            f"{field}: {name!r} is no file or folder here; correct it, or name its hub beside it, as in hub: modelscope"
        )
    return path


def locate_model(recipe: Recipe) -> Path:
    """The local folder of the model that a recipe starts from."""
    return locate(recipe.model.name, recipe.model.hub, recipe.model.revision, "model", "model.name")


def _locate_on_hub(name: str, hub: str, revision: str | None, repo_type: RepoType, field: str) -> Path:
    asked = f"{field}: {name!r} (revision {revision or 'by default'})"
    switch = next(
        (variable for variable in OFFLINE_VARIABLES[hub] if os.environ.get(variable, "").upper() in TRUE_VALUES), None
    )
    cause, reason = None, f"{switch} is set; unset it to download, or give a local folder"
    if switch is None:
        try:
            return download(name, hub, revision, repo_type)
        except Exception as error:
            # The clients raise many kinds (requests', httpx', their own, OSError): each means that it cannot be had.
            cause, reason = error, _describe_failure(error, hub)
    try:
        folder = find_in_cache(name, hub, revision, repo_type)
    except Exception as error:
        if isinstance(error, IncompleteSnapshotError) and switch:
            reason += f" (in the cache, {error})"
        raise UserError(_redact_tokens(f"{asked} could not be had from {hub}: {reason}")) from (cause or error)
    print(_redact_tokens(f"{asked} is taken from the cache, not from {hub}: {reason}"), file=sys.stderr)
    return folder


def _describe_failure(error: BaseException, hub: str) -> str:
    """What went wrong between us and a hub, and what to do about it, in one sentence."""
    if failed := getattr(error, "failed_files", None):  # ModelScope's client tells of all files at once
        file, fault = next(iter(failed.items()))
        return f"{file}: {_describe_failure(fault, hub)}"
    token, again = (
        TOKEN_VARIABLES[hub],
        f"name a mirror in {ENDPOINT_VARIABLES[hub]}, and start again: what has come is kept",
    )
    match _http_status(error):
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
    names = " ".join(type(link).__name__ for link in exception_chain(error))
    if isinstance(error, ChecksumMismatchError):
        return f"{error} came with other bytes than announced and was removed; {again}"
    if "Integrity" in names or "Mismatch" in names:
        return f"it came with other bytes than announced and was removed; {again}"
    if "Timeout" in names:
        return f"it does not answer; check the network, {again}"
    if "Connect" in names or "Protocol" in names or "ReadError" in names:
        return f"the connection fails; check the network, {again}"
    said = _redact_tokens(shorten_error(error, 10_000))[:300]  # before it is cut: no half of a token either
    return f"{said}; correct that, or give a local folder"


def _http_status(error: BaseException) -> int | None:
    """The HTTP status that an error comes from."""
    for link in exception_chain(error):
        for holder in (link, getattr(link, "response", None)):
            if status := getattr(holder, "status_code", None):
                return status
    return None


def _redact_tokens(text: str) -> str:
    """A sentence in which no token stands, should a hub have sent one back."""
    for variable in TOKEN_VARIABLES.values():
        if token := os.environ.get(variable, "").strip():
            text = text.replace(token, "***")
    return text
