"""Download a snapshot from Hugging Face: resumed, bounded in time, verified by checksum."""

import contextlib
import glob
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinktune.files import atomic_write_text, refuse_unsafe_paths
from thinktune.hub.download_progress import follow_download
from thinktune.hub.verification import (
    MAX_ATTEMPTS,
    MAX_WORKERS,
    SHA256_PATTERN,
    STALL_TIMEOUT_SECONDS,
    ChecksumMismatchError,
    Listing,
    RepoType,
    access_token,
    matches_digest,
    mismatched_files,
    retry_while_progressing,
)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A commit of a repository, and the repository's folder in the client's cache."""

    name: str
    repo_type: RepoType
    commit: str
    repository: Path


def download_from_huggingface(
    name: str,
    revision: str | None,
    repo_type: RepoType,
    choose: Callable[[Collection[str]], Collection[str]] | None = None,
) -> Path:
    """Download a snapshot and verify it against the hub's listing; returns its folder, named after the commit.

    The client links what is already in its cache, so the large files are put there first, resumed and verified. With
    `choose`, which is given the names of all files, only those that it returns. Raises ChecksumMismatchError where
    files still differ, and the client's errors.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    limit_timeouts(STALL_TIMEOUT_SECONDS)
    token = access_token("huggingface") or False  # False: not even one stored by a login
    client = HfApi(token=token)
    commit = client.repo_info(name, repo_type=repo_type, revision=revision).sha or ""
    listing = to_listing(client.list_repo_tree(name, repo_type=repo_type, revision=commit, recursive=True))
    if choose:
        listing = {file: listing[file] for file in choose(listing)}
    repository = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=repo_type)
    snapshot = _Snapshot(name, repo_type, commit, repository)
    folder = repository / "snapshots" / commit
    wrong = mismatched_files(folder, listing)
    _remove_with_blobs(folder, wrong)

    def download_large(file: str) -> None:
        _download_large_file(snapshot, file, *listing[file])

    def measure() -> int:
        return sum(_bytes_there(repository / "blobs" / listing[file][1], folder / file) for file in wrong)

    patterns = [glob.escape(file) for file in listing] if choose else None
    with follow_download(sum(listing[file][0] for file in wrong), measure):
        with ThreadPoolExecutor(MAX_WORKERS) as pool:
            list(pool.map(download_large, [file for file in wrong if _is_large(*listing[file])]))
        snapshot_download(name, repo_type=repo_type, revision=commit, token=token, allow_patterns=patterns)
    if wrong := mismatched_files(folder, {file: listing[file] for file in wrong}):
        _remove_with_blobs(folder, wrong)
        raise ChecksumMismatchError(", ".join(wrong))
    with contextlib.suppress(OSError):  # a read-only cache will do as well
        if revision != commit:
            atomic_write_text(repository / "refs" / (revision or constants.DEFAULT_REVISION), commit)
    return folder


def _download_large_file(snapshot: _Snapshot, file: str, size: int, sha256: str) -> None:
    """Download a large file to where the client looks for it, resuming what an earlier start left.

    The client itself starts from zero each time, in a file with a new name, so that processes whose file system has no
    locks cannot write into one file. Here the digest is checked instead, before the file gets its name.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    blob = snapshot.repository / "blobs" / sha256
    partial = blob.with_name(f"{sha256}.incomplete")
    lock = Path(HF_HUB_CACHE) / ".locks" / snapshot.repository.name / f"{sha256}.lock"  # the client's own
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    headers = build_hf_headers(token=access_token("huggingface") or False) | {"Accept-Encoding": "identity"}
    with WeakFileLock(lock):
        if blob.exists():
            return
        if partial.exists() and partial.stat().st_size > size:
            partial.unlink()
        address = hf_hub_url(snapshot.name, file, repo_type=snapshot.repo_type, revision=snapshot.commit)
        with partial.open("ab") as opened:
            options: dict[str, Any] = {"headers": headers, "expected_size": size}
            retry_while_progressing(
                lambda: http_get(address, opened, resume_size=opened.tell(), **options), opened.tell
            )
        if not matches_digest(partial, size, sha256):
            partial.unlink()
            raise ChecksumMismatchError(file)
        partial.replace(blob)


def _bytes_there(blob: Path, file: Path) -> int:
    """Return the bytes of a file, or of the part of it that is there; where nothing can be linked it has no blob."""
    partial = blob.with_name(f"{blob.name}.incomplete")
    return next((path.stat().st_size for path in (blob, partial, file) if path.exists()), 0)


def limit_timeouts(answer_seconds: int) -> None:
    """Make the client give up a hub that hangs: by itself it waits for minutes, or forever.

    Args:
        answer_seconds: how long to wait for an answer, or for the next byte of it, where the user sets no
            HF_HUB_DOWNLOAD_TIMEOUT. No connection takes longer than STALL_TIMEOUT_SECONDS.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    seconds = int(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or answer_seconds)
    most = {"connect": min(seconds, STALL_TIMEOUT_SECONDS)}
    longest_wait = int(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or STALL_TIMEOUT_SECONDS)
    unanswered = Counter[str]()

    def name_request(request: Any) -> str:
        return f"{threading.get_ident()} {request.method} {request.url}"  # other threads may ask the same meanwhile

    def limit_request(request: Any) -> None:
        limits = request.extensions["timeout"]
        request.extensions["timeout"] = {
            step: min(limit or seconds, most.get(step, seconds)) for step, limit in limits.items()
        }
        unanswered[sent := name_request(request)] += 1
        if unanswered[sent] > MAX_ATTEMPTS:
            raise TimeoutError(f"no answer within {seconds} s, {MAX_ATTEMPTS} times")

    def limit_wait(response: Any) -> None:
        del unanswered[name_request(response.request)]
        wait = re.search(r"\d+$", response.headers.get("Retry-After") or response.headers.get("RateLimit") or "")
        if response.status_code == 429 and wait and int(wait[0]) > longest_wait:
            response.raise_for_status()  # the client would wait as long as the hub asks, five times

    def make_client() -> Any:
        client = default_client_factory()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], limit_request],
            "response": [*hooks["response"], limit_wait],
        }
        return client

    set_client_factory(make_client)
    constants.DOWNLOAD_CHUNK_SIZE = 2**16  # an interrupted chunk is lost: on a bad line, every one of 10 MiB


def to_listing(entries: Iterable[Any]) -> Listing:
    """Convert Hugging Face's listing to ours; folders are left out. Raises OSError for unsafe paths."""
    files = [entry for entry in entries if hasattr(entry, "blob_id")]
    refuse_unsafe_paths(file.path for file in files)
    return {file.path: (file.size, file.lfs.sha256 if file.lfs else file.blob_id) for file in files}


def _is_large(size: int, digest: str) -> bool:
    """Return True if a file is in the hub's large storage, and not too large for plain HTTP from there."""
    return SHA256_PATTERN.fullmatch(digest) is not None and size <= 50_000_000_000


def _remove_with_blobs(folder: Path, names: Iterable[str]) -> None:
    """Remove files of a snapshot and all that they link to, so that the client downloads them again."""
    for name in names:
        file = folder / name
        if file.is_symlink():
            blob = file.parent / file.readlink()
            file.resolve().unlink(missing_ok=True)  # a blob can itself be a link into a shared store
            blob.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
