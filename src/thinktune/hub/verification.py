"""Verify downloads from both hubs: file listings, checksums, retries, time limits, access tokens."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Literal

from thinktune.errors import redact

RepoType = Literal["model", "dataset"]


Listing = dict[str, tuple[int, str]]
"""Files of a repository by name: size in bytes, and digest (sha256, or git's sha1 of a small file)."""


TOKEN_VARIABLES = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}


STALL_TIMEOUT_SECONDS = 8
"""Seconds without a byte after which a connection is given up; HF_HUB_DOWNLOAD_TIMEOUT overrides it."""


UPLOAD_ANSWER_SECONDS = 120
"""Seconds without an answer to an upload: a hub puts a large file together before it answers."""


MAX_ATTEMPTS = 3
"""Times that an unanswered request is sent."""


MAX_WORKERS = 8
"""Files that are downloaded at the same time."""


_STATUS_IN_TEXT = re.compile(r"too many (\d{3}) error responses")  # urllib3's, which keeps no response


SHA256_PATTERN = re.compile("[0-9a-f]{64}")


class IncompleteSnapshotError(Exception):
    """A snapshot in the cache that is not known to be complete."""


class ChecksumMismatchError(Exception):
    """Files that differed from the hub's listing after download, and were removed; the message is their names."""


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Iterate over an error and its causes, the outermost first, each once: errors raised again can form cycles."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def http_status(error: BaseException) -> int | None:
    """Find the HTTP status that an error comes from."""
    for link in exception_chain(error):
        for holder in (link, getattr(link, "response", None)):
            if status := getattr(holder, "status_code", None):
                return status
        if found := _STATUS_IN_TEXT.search(str(link)):
            return int(found[1])
    return None


def redact_tokens(text: str) -> str:
    """Hide access tokens in a sentence, should a hub have sent one back."""
    for variable in TOKEN_VARIABLES.values():
        if token := os.environ.get(variable, "").strip():
            text = text.replace(token, "***")
    return redact(text)


def retry_while_progressing(download: Callable[[], object], downloaded_bytes: Callable[[], int]) -> None:
    """Retry a download after a lost connection as long as each try brings more: the clients count losses, not bytes."""
    before = downloaded_bytes()
    while True:
        try:
            download()
            return
        except Exception as error:
            faults = getattr(error, "failed_files", {"": error}).values()
            if not all(map(is_connection_loss, faults)) or downloaded_bytes() <= before:
                raise
            before = downloaded_bytes()


def is_connection_loss(error: BaseException) -> bool:
    """Return True if a connection broke, but not if the client already waited for one several times in vain."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    stalled = any(re.search("(Read|Connect)Timeout", type(link).__name__) for link in exception_chain(error))
    return not stalled and not kinds.isdisjoint({"ConnectionError", "TransportError"})


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def access_token(hub: str) -> str:
    """Read a hub's access token from the environment; empty if there is none."""
    return os.environ.get(TOKEN_VARIABLES[hub], "").strip()


def mismatched_files(folder: Path, listing: Listing) -> list[str]:
    """List the files that are missing, or differ from the listing."""
    return [name for name, (size, digest) in listing.items() if not matches_digest(folder / name, size, digest)]


def matches_digest(file: Path, size: int, digest: str) -> bool:
    """Return True if a file has the listed size and digest."""
    if not file.is_file() or file.stat().st_size != size:
        return False
    with file.open("rb") as opened:
        started = hashlib.sha256() if SHA256_PATTERN.fullmatch(digest) else hashlib.sha1(b"blob %d\0" % size)  # git's
        return hashlib.file_digest(opened, lambda: started).hexdigest() == digest


def unlisted_files(folder: Path, names: Collection[str]) -> list[str]:
    """List a snapshot's files that the hub does not list, except our own listing and the clients' hidden files."""
    found = [path for path in folder.rglob("*") if path.is_file() and (path.suffix or not path.name.startswith("."))]
    return sorted({path.relative_to(folder).as_posix() for path in found} - set(names))
