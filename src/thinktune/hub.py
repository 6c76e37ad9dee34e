"""Names to local folders: a path as it is, or a repository, whole and verified, from its hub or from the cache."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from thinktune.download import TOKENS, IncompleteError, Kind, WrongBytesError, chain, download, recall
from thinktune.errors import UserError, brief
from thinktune.find import find_files
from thinktune.knobs import Recipe

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


def refuse_missing(recipe: Recipe) -> None:
    """Raise one UserError for all local paths of a recipe that are not there; it needs no network and no torch."""
    looks: list[Callable[[], object]] = []
    if recipe.model.hub is None:
        looks.append(lambda: locate_model(recipe))
    if recipe.data.hub is None:
        looks.append(lambda: find_files(recipe.data.name, recipe.data.files, "data.name"))
    if isinstance(validation := recipe.data.validation, str):
        looks.append(lambda: find_files(validation, None, "data.validation"))
    faults: list[str] = []
    for look in looks:
        try:
            look()
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)


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
