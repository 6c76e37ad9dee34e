"""On-disk cache: each entry is named by a hash of what it was made from, and is whole or absent."""

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import Any

from thinktune.errors import UserError, shorten_error
from thinktune.files import fsync_tree, read_json, write_json
from thinktune.progress import Say

DIGESTS_FILE = "digests.json"  # bytes and digest of every file of an entry, written last


VERIFIED_FILE = "verified.json"  # of each file its digest, and its `_identity` when it was read through and had it


# A file changed so shortly before it was verified may change again within the same tick of the file system's clock, and
# look the same (git calls that racy). It is read again the next time.
RACY_SECONDS = 2


ENTRY_NAME_PATTERN = re.compile(r"(\.)?[0-9a-f]{32}(\.[0-9a-f]{16}\.partial)?")


EVICT_AFTER_DAYS = 30  # an entry not read for so long is removed when another one is created


EVICT_PARTIAL_AFTER_DAYS = 2  # after which the leftovers of a killed process are removed in the same way


PACKAGE_FOLDER = Path(__file__).parent


def cache_folder() -> Path:
    """Return the folder of all entries: below THINKTUNE_CACHE, else below the user's cache folder."""
    named = os.environ.get("THINKTUNE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(named) if named else Path(base) / "thinktune").expanduser() / "rows"


def is_complete(entry: Path, say: Say = lambda _: None) -> bool:
    """Return True if an entry is there and undamaged; marks it as used. A damaged one is reported and removed.

    Every file must have the digest that it was written with. A file is read for that once; after that, as long as its
    inode, size and times stay the same. Raises UserError where a damaged entry cannot be removed.
    """
    if not os.path.lexists(entry):
        return False
    damage = _find_damage(entry)
    if damage is None:
        with suppress(OSError):  # a cache that others filled may be read-only
            os.utime(entry / DIGESTS_FILE)
        return True
    say(f"{entry}: the cache is damaged ({damage}); it is rebuilt")
    try:
        _remove(entry)
    except OSError as error:
        raise UserError(
            f"{entry}: is damaged ({damage}) and cannot be removed ({shorten_error(error)}); remove it, or set "
            "THINKTUNE_CACHE to another folder"
        ) from None
    return False


def distrust(entry: Path) -> None:
    """Have every file of an entry read through at its next use, as something in it was found to be wrong."""
    with suppress(OSError):
        (entry / VERIFIED_FILE).unlink()


def discard(entry: Path) -> None:
    """Remove an entry, if that is possible; who has its files mapped keeps them."""
    with suppress(OSError):
        _remove(entry)


def source_fingerprint(*names: str, python: str = sys.version) -> str:
    """Hash of the Python version and of our own source: packages (`data`) and modules (`model.loss`) by name.

    A cache is keyed by the sources that decide its content, so that a change elsewhere leaves it valid.
    """
    digest = blake2b(python.encode(), digest_size=16)
    for name in names:
        place = PACKAGE_FOLDER.joinpath(*name.split("."))
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for file in files:
            digest.update(file.relative_to(PACKAGE_FOLDER).as_posix().encode())
            digest.update(blake2b(file.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def create_entry(entry: Path) -> Generator[Path]:
    """Yield a new folder to fill; it becomes the entry when the block ends, and is removed if the block raises.

    Its files must be closed and unmapped when the block ends: some systems cannot rename open ones. Raises UserError
    where the cache cannot be written, or was removed in the meantime.
    """
    partial = _partial_name(entry)
    try:
        partial.mkdir(parents=True)
        made = partial.stat()
    except OSError as error:
        raise UserError(
            f"{entry.parent}: the cache cannot be written ({shorten_error(error)}); set THINKTUNE_CACHE to a "
            "folder that can be written"
        ) from None
    try:
        yield partial
        write_json(partial / DIGESTS_FILE, _file_digests(partial))
        fsync_tree(partial)
        # By the clock of the file system, which other machines may share: ours may be wrong.
        _evict_old(entry.parent, (partial / DIGESTS_FILE).stat().st_mtime)
        try:
            partial.rename(entry)
        except OSError:
            if not is_complete(entry):  # else another process was first, with the same content
                partial.rename(entry)
    except FileNotFoundError:
        if partial.is_dir() and os.path.samestat(partial.stat(), made):
            raise
        raise UserError(
            f"{entry.parent}: the cache was removed while it was being written; run the same command again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def unfinished_folder(entry: Path) -> Path:
    """Return a folder, made where it is not there, for what is collected over several starts before an entry is made.

    It is evicted like the leftovers of a killed process where it is not touched for days.
    """
    folder = entry.with_name(f".{entry.name}.{'0' * 16}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    return folder


def _find_damage(entry: Path) -> str | None:
    """Say what is wrong with an entry, or return None; remember which files were read and found undamaged."""
    try:
        digests: dict[str, Any] = {
            name: (size, digest) for name, (size, digest) in read_json(entry / DIGESTS_FILE).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{DIGESTS_FILE} is missing or cannot be read"
    verified = _read_verified(entry)
    found: dict[str, list[Any]] = {}
    for name, (size, digest) in digests.items():
        try:
            identity = _identity(entry / name)
            known = verified.get(name) == [digest, *identity]
            if identity[1] != size or (not known and _digest(entry / name) != digest):
                return f"{name} has changed"
        except (OSError, ValueError) as error:
            return f"{name}: {shorten_error(error, 100)}"
        if known or time.time_ns() - max(identity[2:]) > RACY_SECONDS * 10**9:
            found[name] = [digest, *identity]
    if found != verified:
        with suppress(OSError):
            write_json(entry / VERIFIED_FILE, found)
    return None


def _read_verified(entry: Path) -> dict[str, Any]:
    try:
        verified = read_json(entry / VERIFIED_FILE)
    except (OSError, ValueError):
        return {}
    return verified if isinstance(verified, dict) else {}


def _identity(file: Path) -> list[int]:
    """Return what changes when a file is written or replaced: inode, size in bytes, times of change in nanoseconds."""
    status = file.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: blake2b(digest_size=16)).hexdigest()


def _file_digests(entry: Path) -> dict[str, tuple[int, str]]:
    return {path.name: (path.stat().st_size, _digest(path)) for path in sorted(entry.iterdir())}


def _partial_name(entry: Path) -> Path:
    # Not the process id: two machines or containers that share a disk may have the same.
    return entry.with_name(f".{entry.name}.{token_hex(8)}.partial")


def _remove(entry: Path) -> None:
    """Remove an entry, at once for all who look for it."""
    partial = _partial_name(entry)
    with suppress(FileNotFoundError):  # another process was first
        entry.rename(partial)
        shutil.rmtree(partial, ignore_errors=True)


def _evict_old(folder: Path, now: float) -> None:
    for entry in folder.iterdir():
        if not (named := ENTRY_NAME_PATTERN.fullmatch(entry.name)):
            continue
        with suppress(OSError):  # another process may remove it as well
            used = entry / DIGESTS_FILE
            touched = used if used.exists() and not named[1] else entry
            days = (now - touched.stat().st_mtime) / 86_400
            if days > (EVICT_PARTIAL_AFTER_DAYS if named[1] else EVICT_AFTER_DAYS):
                discard(entry)
