"""Download a snapshot from ModelScope: resumed, bounded in time, verified by checksum."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from thinktune.files import refuse_unsafe_paths, write_json
from thinktune.hub.download_progress import follow_download
from thinktune.hub.verification import (
    MAX_ATTEMPTS,
    MAX_WORKERS,
    STALL_TIMEOUT_SECONDS,
    UPLOAD_ANSWER_SECONDS,
    RepoType,
    access_token,
    folder_bytes,
    retry_while_progressing,
    unlisted_files,
)

LISTING_FILE = ".thinktune"
"""Our listing of a complete snapshot, next to its files: ModelScope's client keeps none."""

_PART = re.compile(r"(\.incomplete|_\d+_\d+)$")  # of a file under way, as the client names it


# ModelScope's client reads these when it is first imported. By itself it waits 68 s for a listing that does not come,
# six times 60 s for a body that stalls, an hour for the answer to an upload, and logs the error's text, with whatever
# the hub has answered.
MODELSCOPE_DEFAULTS = {
    "MODELSCOPE_DOWNLOAD_TIMEOUT": str(STALL_TIMEOUT_SECONDS),
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": str(MAX_ATTEMPTS),
    "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": str(STALL_TIMEOUT_SECONDS),
    "MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS": str(STALL_TIMEOUT_SECONDS),
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "MODELSCOPE_UPLOAD_BLOB_READ_TIMEOUT_SECONDS": str(UPLOAD_ANSWER_SECONDS),
    "MODELSCOPE_LOG_LEVEL": "CRITICAL",
}


def modelscope_client() -> Any:
    """Import ModelScope's client with our defaults for its environment variables."""
    for variable, value in MODELSCOPE_DEFAULTS.items():
        os.environ.setdefault(variable, value)
    from modelscope_hub import HubApi  # imported late: a recipe with local paths needs no hub client

    return HubApi(token=access_token("modelscope"))  # "" means no token: not even one stored by a login


def download_from_modelscope(
    name: str,
    revision: str | None,
    repo_type: RepoType,
    choose: Callable[[Collection[str]], Collection[str]] | None = None,
) -> Path:
    """Download a snapshot with the client, which resumes and verifies; returns its folder.

    Added here: retries while bytes come, a listing, and the removal of files that the hub no longer lists. With
    `choose`, which is given the names of all files, only those that it returns, and no listing, as the snapshot is not
    complete. Raises OSError where such files are not ours to remove, and the client's errors.
    """
    client = modelscope_client()
    files = [file for file in client.list_repo_files(name, repo_type, revision=revision) if not file.is_dir]
    names = [file.path for file in files]
    refuse_unsafe_paths(names)
    wanted = {*(choose(names) if choose else names)}
    entries = [
        {"Path": file.path, "Size": file.size or None, "Sha256": file.sha256} for file in files if file.path in wanted
    ]
    # An empty list downloads nothing and returns the folder.
    folder = Path(client.download_repo(name, repo_type, revision=revision, file_list=[]))
    total_bytes = sum(file.size or 0 for file in files if file.path in wanted)
    with follow_download(total_bytes or None, lambda: _bytes_there(folder, wanted)):
        # The client tries every file before it gives up: with a few at a time, a hub that hangs is noticed early.
        for start in range(0, len(entries), MAX_WORKERS):
            options = {"revision": revision, "file_list": entries[start : start + MAX_WORKERS]}
            retry_while_progressing(
                lambda options=options: client.download_repo(name, repo_type, max_workers=MAX_WORKERS, **options),
                lambda: folder_bytes(folder),
            )
    _remove_unlisted(folder, names)
    if choose:
        return folder
    listing = {file.path: _size_and_digest(folder / file.path, file.sha256) for file in files}
    with contextlib.suppress(OSError):  # a read-only cache will do as well
        write_json(folder / LISTING_FILE, listing)
    return folder


def _bytes_there(folder: Path, names: Collection[str]) -> int:
    """Return the bytes of files that are there, of one under way those of its parts, as the client names them."""
    there = 0
    by_parent: dict[Path, set[str]] = {}
    for name in names:
        by_parent.setdefault((folder / name).parent, set()).add(Path(name).name)
    for parent, wanted in by_parent.items():
        sizes = {one.name: one.stat().st_size for one in os.scandir(parent)} if parent.is_dir() else {}
        for name, size in sizes.items():
            whole = _PART.sub("", name)
            there += size if name in wanted or (whole in wanted and whole not in sizes) else 0
    return there


def _remove_unlisted(folder: Path, names: Collection[str]) -> None:
    """Remove files that the hub does not list: they would be read as data."""
    unlisted = unlisted_files(folder, names)
    if unlisted and folder.parent.name != "snapshots":
        # The layout of older clients, where people keep their own files: not ours to remove.
        raise OSError(
            f"{folder} also contains {', '.join(unlisted[:3])}, which the hub does not list; move it elsewhere"
        )
    for name in unlisted:
        (folder / name).unlink()


def _size_and_digest(file: Path, sha256: str | None) -> tuple[int, str]:
    """Return a file's size and sha256, computed from the file if the hub does not give it."""
    if sha256 is None:
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return file.stat().st_size, sha256
