"""Locate models and data sets: a local path, or a repository, complete and verified, from its hub or the cache."""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from thinktune.config import Recipe
from thinktune.errors import UserError, shorten_error
from thinktune.files import expand_home, is_safe_relative_path, read_json
from thinktune.hub.foreign_caches import (
    RECORD,
    former_modelscope_folders,
    verify_former_modelscope,
    verify_huggingface_blobs,
)
from thinktune.hub.huggingface import download_from_huggingface, to_listing
from thinktune.hub.modelscope import LISTING_FILE, download_from_modelscope, modelscope_client
from thinktune.hub.verification import (
    TOKEN_VARIABLES,
    ChecksumMismatchError,
    IncompleteSnapshotError,
    Listing,
    RepoType,
    exception_chain,
    http_status,
    mismatched_files,
    redact_tokens,
    unlisted_files,
)
from thinktune.terminal import say_to_stderr


def download(name: str, hub: str, revision: str | None, repo_type: RepoType) -> Path:
    """Download a repository completely, every byte verified against the hub's listing; returns its folder.

    Correct files in the cache are not downloaded again; interrupted downloads are resumed. Raises the clients' many
    errors, and ChecksumMismatchError where Hugging Face's would have let a wrong file pass.
    """
    return (
        download_from_modelscope(name, revision, repo_type)
        if hub == "modelscope"
        else download_from_huggingface(name, revision, repo_type)
    )


def find_in_cache(name: str, hub: str, revision: str | None, repo_type: RepoType) -> Path:
    """Find a repository in its client's cache without the hub.

    Also a model that another program left there, verified by what that program keeps. Raises IncompleteSnapshotError
    where it is not known to be complete and correct, and the clients' errors where it is not there.
    """
    find = _find_in_modelscope if hub == "modelscope" else _find_in_huggingface
    return find(name, revision, repo_type)


def _find_in_modelscope(name: str, revision: str | None, repo_type: RepoType) -> Path:
    client = modelscope_client()
    try:
        found = client.download_repo(name, repo_type, revision=revision or "master", local_files_only=True)
    except Exception:
        former = list(former_modelscope_folders(_modelscope_cache(), name)) if repo_type == "model" else []
        if not former:
            raise
        found = former[0]
    folder = Path(found)
    if repo_type == "model" and not (folder / LISTING_FILE).exists() and (folder / RECORD).is_file():
        verify_former_modelscope(folder, revision)
        return folder
    listing_file = folder / LISTING_FILE
    _require_listed(folder, read_json(listing_file) if listing_file.exists() else {})
    return folder


def _modelscope_cache() -> Path:
    """Return the folder of ModelScope's cache, as its clients find it."""
    return Path(os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope").expanduser()


def _find_in_huggingface(name: str, revision: str | None, repo_type: RepoType) -> Path:
    from huggingface_hub import get_cached_repo_tree, snapshot_download

    try:
        folder = Path(snapshot_download(name, repo_type=repo_type, revision=revision, local_files_only=True))
    except Exception:  # also where it knows that a file is missing, be it one that no model reads
        found = _huggingface_snapshot(name, revision) if repo_type == "model" else None
        if found is None:
            raise
        folder = found
    try:
        tree = get_cached_repo_tree(name, repo_type=repo_type, revision=folder.name)
    except Exception:  # an older client kept none
        tree = []
    listing = to_listing(tree)
    try:
        _require_listed(folder, listing)
    except IncompleteSnapshotError:
        if repo_type != "model":
            raise
        verify_huggingface_blobs(folder, listing)
    return folder


def _huggingface_snapshot(name: str, revision: str | None) -> Path | None:
    """Return the folder of a model's snapshot in Hugging Face's cache, whole or not, or None."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    repository = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    wanted = revision or constants.DEFAULT_REVISION
    try:
        commit = (repository / "refs" / wanted).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):  # no name of a branch or tag, so perhaps a commit
        commit = wanted
    folder = repository / "snapshots" / commit
    return folder if is_safe_relative_path(commit) and folder.is_dir() else None


def _require_listed(folder: Path, listing: Listing) -> None:
    """Raise IncompleteSnapshotError unless a folder holds what a listing says, and nothing else."""
    if not listing:
        raise IncompleteSnapshotError(f"{folder} has no listing, so it may be incomplete")
    if wrong := [*mismatched_files(folder, listing), *unlisted_files(folder, listing)]:
        raise IncompleteSnapshotError(f"{folder} differs from the hub's listing in {', '.join(wrong[:3])}")


ENDPOINT_VARIABLES = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}


OFFLINE_VARIABLES = {"huggingface": ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "modelscope": ("MODELSCOPE_OFFLINE",)}
"""Variables that forbid the use of a hub; ModelScope's client has none, so that one is ours."""


TRUE_VALUES = ("1", "ON", "YES", "TRUE")


def locate(name: str, hub: str | None, revision: str | None, repo_type: RepoType, field: str) -> Path:
    """Locate a model or data set on disk, downloading it if need be; `field` is the recipe's key for errors.

    If the hub fails but the cache holds the complete repository, one line on stderr says so. Raises UserError if a
    local path does not exist, or neither hub nor cache gives the repository.
    """
    if hub is not None:
        return _locate_on_hub(name, hub, revision, repo_type, field)
    try:
        path = expand_home(Path(name))
        found = path.exists()
    except (OSError, ValueError) as error:  # no such user's home, a name too long or with a null byte
        raise UserError(f"{field}: {name!r} cannot be looked up ({shorten_error(error)}); correct it") from None
    if not found:
        raise UserError(
            f"{field}: {name!r} is not a file or folder here; correct it, or name its hub too, as in hub: modelscope"
        )
    return path


def fetch_files(
    name: str, hub: str, revision: str | None, choose: Callable[[Collection[str]], Collection[str]], field: str
) -> Path:
    """Download some files of a data set, each verified against the hub's listing; returns the snapshot's folder.

    `choose` is given the names of all files and returns those to download. Raises UserError, beginning with `field`,
    where the hub gives no such files; what `choose` raises is passed on.
    """
    request = f"{field}: {name!r} (revision {revision or 'by default'})"
    if offline := _offline_variable(hub):
        raise UserError(f"{request} is not on this machine, and {offline} is set; unset it to download")
    try:
        if hub == "modelscope":
            return download_from_modelscope(name, revision, "dataset", choose)
        return download_from_huggingface(name, revision, "dataset", choose)
    except UserError:
        raise
    except Exception as error:  # as in `locate`
        reason = _describe_failure(error, hub)
        raise UserError(redact_tokens(f"{request} could not be downloaded from {hub}: {reason}")) from error


def locate_model(recipe: Recipe) -> Path:
    """Locate the folder of the model that a recipe starts from."""
    return locate(recipe.model.name, recipe.model.hub, recipe.model.revision, "model", "model.name")


def _locate_on_hub(name: str, hub: str, revision: str | None, repo_type: RepoType, field: str) -> Path:
    request = f"{field}: {name!r} (revision {revision or 'by default'})"
    offline = _offline_variable(hub)
    cause, reason = None, f"{offline} is set; unset it to download, or give a local folder"
    if offline is None:
        try:
            return download(name, hub, revision, repo_type)
        except Exception as error:
            # The clients raise many kinds (requests', httpx', their own, OSError): each means that the download failed.
            cause, reason = error, _describe_failure(error, hub)
    try:
        folder = find_in_cache(name, hub, revision, repo_type)
    except Exception as error:
        if isinstance(error, IncompleteSnapshotError) and offline:
            reason += f" (in the cache, {error})"
        raise UserError(redact_tokens(f"{request} could not be downloaded from {hub}: {reason}")) from (cause or error)
    say_to_stderr(redact_tokens(f"{request} is read from the cache, not from {hub}: {reason}"))
    return folder


def _offline_variable(hub: str) -> str | None:
    """Return the variable that forbids the use of a hub, if one is set."""
    return next((name for name in OFFLINE_VARIABLES[hub] if os.environ.get(name, "").upper() in TRUE_VALUES), None)


def _describe_failure(error: BaseException, hub: str) -> str:
    """Describe in one sentence what went wrong with a hub, and what to do about it."""
    if failed := getattr(error, "failed_files", None):  # ModelScope's client reports all files at once
        file, fault = next(iter(failed.items()))
        return f"{file}: {_describe_failure(fault, hub)}"
    token = TOKEN_VARIABLES[hub]
    again = f"name a mirror in {ENDPOINT_VARIABLES[hub]}, then run the same command: finished downloads are kept"
    match http_status(error):
        case 401:
            return f"it requires a token (401); set {token} to one with read access, or correct the name"
        case 403:
            return f"it denies access (403); request access on its page, and set {token} to a token of that account"
        case 404:
            return "it has no repository of that name, type and revision (404); correct them"
        case 429:
            return f"it received too many requests (429); wait a few minutes, set {token}, or {again}"
        case int(status) if status >= 500:
            return f"it failed ({status}); wait, or {again}"
        case _:
            pass
    names = " ".join(type(link).__name__ for link in exception_chain(error))
    if isinstance(error, ChecksumMismatchError):
        return f"{error} did not match the listing after download and was removed; {again}"
    if "Integrity" in names or "Mismatch" in names:
        return f"it did not match the listing after download and was removed; {again}"
    if "Timeout" in names:
        return f"it does not answer; check the network, or {again}"
    if "Connect" in names or "Protocol" in names or "ReadError" in names:
        return f"the connection fails; check the network, or {again}"
    text = redact_tokens(shorten_error(error, 10_000))[:300]  # redacted before it is cut: no half of a token either
    return f"{text}; correct that, or give a local folder"
