"""What both hubs' downloads share: file listings, checksums, retries and time limits."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Literal

RepoType = Literal["model", "dataset"]


Listing = dict[str, tuple[int, str]]
"""What a repository holds: by name, each file's size and its digest (sha256, or git's sha1 of a small file)."""


TOKEN_VARIABLES = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}


STALL_TIMEOUT_SECONDS = 8
"""Seconds without a byte after which a connection is given up; HF_HUB_DOWNLOAD_TIMEOUT says otherwise."""


MAX_ATTEMPTS = 3
"""How often a request is sent that gets no answer."""


MAX_WORKERS = 8
"""Files that are downloaded at a time."""


SHA256_PATTERN = re.compile("[0-9a-f]{64}")


class IncompleteSnapshotError(Exception):
    """A snapshot in the cache that is not known to be whole."""


class ChecksumMismatchError(Exception):
    """The names of files that did not come as the hub announced them, and were removed."""


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, the outermost first; once each, as errors that are raised again run in circles."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def retry_while_progressing(download: Callable[[], object], downloaded_bytes: Callable[[], int]) -> None:
    """Bring again after a lost connection as long as each time brings more: the clients count losses, not bytes."""
    before = downloaded_bytes()
    while True:
        try:
            download()
            return
        except Exception as error:
            faults = getattr(error, "failed_files", {"": error}).values()
            if not all(map(_is_connection_loss, faults)) or downloaded_bytes() <= before:
                raise
            before = downloaded_bytes()


def _is_connection_loss(error: BaseException) -> bool:
    """Whether a connection broke: not one that the client has waited for in vain, several times."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    stalled = any(re.search("(Read|Connect)Timeout", type(link).__name__) for link in exception_chain(error))
    return not stalled and not kinds.isdisjoint({"ConnectionError", "TransportError"})


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def access_token(hub: str) -> str:
    """Read a hub's access token from the environment; empty where there is none."""
    return os.environ.get(TOKEN_VARIABLES[hub], "").strip()


def mismatched_files(folder: Path, listing: Listing) -> list[str]:
    """The names of the files that are not there, or not as they are listed."""
    return [name for name, (size, digest) in listing.items() if not matches_digest(folder / name, size, digest)]


def matches_digest(file: Path, size: int, digest: str) -> bool:
    """Return True if a file has the listed size and SHA-256."""
    if not file.is_file() or file.stat().st_size != size:
        return False
    with file.open("rb") as opened:
        begun = hashlib.sha256() if SHA256_PATTERN.fullmatch(digest) else hashlib.sha1(b"blob %d\0" % size)  # git's
        return hashlib.file_digest(opened, lambda: begun).hexdigest() == digest


def unlisted_files(folder: Path, names: Collection[str]) -> list[str]:
    """The names of a snapshot's files that the hub does not list, but for the record and the clients' own marks."""
    found = [path for path in folder.rglob("*") if path.is_file() and (path.suffix or not path.name.startswith("."))]
    return sorted({path.relative_to(folder).as_posix() for path in found} - set(names))
