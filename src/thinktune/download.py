"""Downloads by the hubs' own clients: what they leave open of resuming, waiting and verifying is closed here."""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from thinktune.files import read_json, refuse_outside, write_json, write_whole

Kind = Literal["model", "dataset"]
Listing = dict[str, tuple[int, str]]
"""What a repository holds: by name, each file's size and its digest (sha256, or git's sha1 of a small file)."""

TOKENS = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
SILENCE = 8
"""Seconds without a byte after which a connection is given up; HF_HUB_DOWNLOAD_TIMEOUT says otherwise."""
TRIES = 3
"""How often a request is sent that gets no answer."""
TOGETHER = 8
"""Files that are downloaded at a time."""
RECORD = ".thinktune"
"""Beside the files of a snapshot from ModelScope, whose client keeps no listing: what it holds, once it is whole."""
_SHA256 = re.compile("[0-9a-f]{64}")
# ModelScope's client reads these when it is first imported. By itself it waits for 68 s where a listing does not come,
# six times 60 s where a body stalls, and logs what the error says, with whatever the hub has answered.
MODELSCOPE_DEFAULTS = {
    "MODELSCOPE_DOWNLOAD_TIMEOUT": str(SILENCE),
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": str(TRIES),
    "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": str(SILENCE),
    "MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS": str(SILENCE),
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": str(TRIES),
    "MODELSCOPE_LOG_LEVEL": "CRITICAL",
}


class IncompleteError(Exception):
    """A snapshot in the cache that is not known to be whole."""


class WrongBytesError(Exception):
    """The names of files that did not come as the hub announced them, and were removed."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, the outermost first; once each, as errors that are raised again run in circles."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def download(name: str, hub: str, revision: str | None, kind: Kind) -> Path:
    """The folder of a repository that has come whole, every byte as the hub announced it.

    What is in the cache and right is not downloaded again; what was cut or killed goes on where it stopped.
    Raises the clients' many errors, and WrongBytesError where Hugging Face's would have let a wrong file pass.
    """
    return _from_modelscope(name, revision, kind) if hub == "modelscope" else _from_huggingface(name, revision, kind)


def recall(name: str, hub: str, revision: str | None, kind: Kind) -> Path:
    """The folder of a repository in the cache, without the network.

    Raises IncompleteError where it is not known to be whole and right, and the clients' errors where it is not there.
    """
    if hub == "modelscope":
        folder = Path(_modelscope().download_repo(name, kind, revision=revision or "master", local_files_only=True))
        record = folder / RECORD
        listing: Listing = read_json(record) if record.exists() else {}
    else:
        from huggingface_hub import get_cached_repo_tree, snapshot_download

        folder = Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
        try:
            tree = get_cached_repo_tree(name, repo_type=kind, revision=folder.name)
        except Exception:  # an older client kept none
            tree = []
        listing = _listing(tree)
    if not listing:
        raise IncompleteError(f"nothing says that {folder} is whole")
    if amiss := [*_wrong(folder, listing), *_unlisted(folder, listing)]:
        raise IncompleteError(f"{folder} is not as the hub announced it in {', '.join(amiss[:3])}")
    return folder


def _modelscope() -> Any:
    for variable, value in MODELSCOPE_DEFAULTS.items():
        os.environ.setdefault(variable, value)
    from modelscope_hub import HubApi  # imported late: a recipe with local paths needs no hub client

    return HubApi(token=_token("modelscope"))  # "" is no token: not even one that a login stored


def _from_modelscope(name: str, revision: str | None, kind: Kind) -> Path:
    """Its client resumes and verifies; here are patience while bytes come, the record, and no file of yesterday's."""
    client = _modelscope()
    files = [file for file in client.list_repo_files(name, kind, revision=revision) if not file.is_dir]
    names = [file.path for file in files]
    refuse_outside(names)
    entries = [{"Path": file.path, "Size": file.size or None, "Sha256": file.sha256} for file in files]
    folder = Path(client.download_repo(name, kind, revision=revision, file_list=[]))  # brings nothing, tells the place
    # The client tries every file before it gives up: of a few at a time, a hub that hangs is told of after the first.
    for start in range(0, len(entries), TOGETHER):
        options = {"revision": revision, "file_list": entries[start : start + TOGETHER], "max_workers": TOGETHER}
        _while_bytes_come(lambda options=options: client.download_repo(name, kind, **options), lambda: _bytes(folder))
    _remove_unlisted(folder, names)
    listing = {file.path: _measure(folder / file.path, file.sha256) for file in files}
    with contextlib.suppress(OSError):  # a cache that can only be read serves as well
        write_json(folder / RECORD, listing)
    return folder


def _while_bytes_come(bring: Callable[[], object], measure: Callable[[], int]) -> None:
    """Bring again after a lost connection as long as each time brings more: the clients count losses, not bytes."""
    before = measure()
    while True:
        try:
            bring()
            return
        except Exception as error:
            faults = getattr(error, "failed_files", {"": error}).values()
            if not all(map(_is_loss, faults)) or measure() <= before:
                raise
            before = measure()


def _is_loss(error: BaseException) -> bool:
    """Whether a connection broke: not one that the client has waited for in vain, several times."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    stalled = any(re.search("(Read|Connect)Timeout", type(link).__name__) for link in chain(error))
    return not stalled and not kinds.isdisjoint({"ConnectionError", "TransportError"})


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove_unlisted(folder: Path, names: Collection[str]) -> None:
    """Take away what the hub holds no longer, or never held: it would be read as data."""
    unlisted = _unlisted(folder, names)
    if unlisted and folder.parent.name != "snapshots":
        # The layout of older clients, where people keep files of their own: not ours to remove.
        raise OSError(f"{folder} also holds {', '.join(unlisted[:3])}, which the hub does not list; move it elsewhere")
    for name in unlisted:
        (folder / name).unlink()


def _from_huggingface(name: str, revision: str | None, kind: Kind) -> Path:
    """Its client links what is in its cache; the large files are brought there first, resumed and verified."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    _bound_waits()
    token = _token("huggingface") or False  # False: not even one that a login stored
    client = HfApi(token=token)
    commit = client.repo_info(name, repo_type=kind, revision=revision).sha or ""
    listing = _listing(client.list_repo_tree(name, repo_type=kind, revision=commit, recursive=True))
    repository = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    folder = repository / "snapshots" / commit
    wrong = _wrong(folder, listing)
    _remove_linked(folder, wrong)

    def bring(file: str) -> None:
        _bring_large(name, kind, commit, file, repository, *listing[file])

    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(bring, [file for file in wrong if _is_large(*listing[file])]))
    snapshot_download(name, repo_type=kind, revision=commit, token=token)
    if wrong := _wrong(folder, {file: listing[file] for file in wrong}):
        _remove_linked(folder, wrong)
        raise WrongBytesError(", ".join(wrong))
    with contextlib.suppress(OSError):  # a cache that can only be read serves as well
        if revision != commit:
            write_whole(repository / "refs" / (revision or constants.DEFAULT_REVISION), commit)
    return folder


def _bring_large(name: str, kind: Kind, commit: str, file: str, repository: Path, size: int, sha256: str) -> None:
    """Bring a large file to where the client looks for it, going on where an earlier start was cut or killed.

    The client itself begins each time at zero, in a file of a new name, so that processes whose file system has no
    locks cannot write into one file. Here the digest is held against that, before the file gets its name.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    blob = repository / "blobs" / sha256
    partial = blob.with_name(f"{sha256}.incomplete")
    lock = Path(HF_HUB_CACHE) / ".locks" / repository.name / f"{sha256}.lock"  # the client's own
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    headers = build_hf_headers(token=_token("huggingface") or False) | {"Accept-Encoding": "identity"}
    with WeakFileLock(lock):
        if blob.exists():
            return
        if partial.exists() and partial.stat().st_size > size:
            partial.unlink()
        address = hf_hub_url(name, file, repo_type=kind, revision=commit)
        with partial.open("ab") as opened:
            options: dict[str, Any] = {"headers": headers, "expected_size": size}
            _while_bytes_come(lambda: http_get(address, opened, resume_size=opened.tell(), **options), opened.tell)
        if not _is_right(partial, size, sha256):
            partial.unlink()
            raise WrongBytesError(file)
        partial.replace(blob)


def _bound_waits() -> None:
    """Have Hugging Face's client give up a hub that hangs: by itself it waits for minutes, or without end."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    seconds = int(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or SILENCE)
    unanswered = Counter[str]()

    def ask(request: Any) -> None:
        limits = request.extensions["timeout"]
        request.extensions["timeout"] = {step: min(limit or seconds, seconds) for step, limit in limits.items()}
        unanswered[f"{request.method} {request.url}"] += 1
        if unanswered[f"{request.method} {request.url}"] > TRIES:
            raise TimeoutError(f"no answer within {seconds} s, {TRIES} times")

    def hear(response: Any) -> None:
        del unanswered[f"{response.request.method} {response.request.url}"]
        wait = re.search(r"\d+$", response.headers.get("Retry-After") or response.headers.get("RateLimit") or "")
        if response.status_code == 429 and wait and int(wait[0]) > seconds:
            response.raise_for_status()  # the client would wait as long as the hub says, five times

    def make_client() -> Any:
        client = default_client_factory()
        asked, heard = client.event_hooks["request"], client.event_hooks["response"]
        client.event_hooks = {"request": [*asked, ask], "response": [*heard, hear]}
        return client

    set_client_factory(make_client)
    constants.DOWNLOAD_CHUNK_SIZE = 2**16  # a chunk that is cut is lost: of 10 MiB, on a bad line every one


def _token(hub: str) -> str:
    return os.environ.get(TOKENS[hub], "").strip()


def _listing(entries: Iterable[Any]) -> Listing:
    """Hugging Face's listing as ours; folders have no digest."""
    files = [entry for entry in entries if hasattr(entry, "blob_id")]
    refuse_outside(file.path for file in files)
    return {file.path: (file.size, file.lfs.sha256 if file.lfs else file.blob_id) for file in files}


def _wrong(folder: Path, listing: Listing) -> list[str]:
    """The names of the files that are not there, or not as they are listed."""
    return [name for name, (size, digest) in listing.items() if not _is_right(folder / name, size, digest)]


def _is_large(size: int, digest: str) -> bool:
    """Whether a file is kept in the hub's large storage, and not too large for plain HTTP there."""
    return _SHA256.fullmatch(digest) is not None and size <= 50_000_000_000


def _is_right(file: Path, size: int, digest: str) -> bool:
    if not file.is_file() or file.stat().st_size != size:
        return False
    with file.open("rb") as opened:
        begun = hashlib.sha256() if _SHA256.fullmatch(digest) else hashlib.sha1(b"blob %d\0" % size)  # git's
        return hashlib.file_digest(opened, lambda: begun).hexdigest() == digest


def _measure(file: Path, sha256: str | None) -> tuple[int, str]:
    """A file's size and its sha256, read from it where the hub has not told it."""
    if sha256 is None:
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return file.stat().st_size, sha256


def _unlisted(folder: Path, names: Collection[str]) -> list[str]:
    """The names of a snapshot's files that the hub does not list, but for the record and the clients' own marks."""
    found = [path for path in folder.rglob("*") if path.is_file() and (path.suffix or not path.name.startswith("."))]
    return sorted({path.relative_to(folder).as_posix() for path in found} - set(names))


def _remove_linked(folder: Path, names: Iterable[str]) -> None:
    """Remove files of a snapshot with all that they link to, so that the client downloads them again."""
    for name in names:
        file = folder / name
        if file.is_symlink():
            blob = file.parent / file.readlink()
            file.resolve().unlink(missing_ok=True)  # a blob can itself be a link, into a store that is shared
            blob.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
