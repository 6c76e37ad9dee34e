"""On-disk cache: each entry is named by a hash of what it was made from, and is whole or absent."""

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

from thinktune.files import fsync_tree, read_json, write_json

SIZES_FILE = "sizes.json"  # bytes of every other file of an entry, written last


ENTRY_NAME_PATTERN = re.compile(r"(\.)?[0-9a-f]{32}(\.[0-9a-f]{16}\.partial)?")


EVICT_AFTER_DAYS = 30  # an entry not read for so long is removed when another one is created


EVICT_PARTIAL_AFTER_DAYS = 2  # after which the leftovers of a killed process are removed in the same way


PACKAGE_FOLDER = Path(__file__).parent


def cache_folder() -> Path:
    """Return the folder of all entries: below THINKTUNE_CACHE, else below the user's cache folder."""
    named = os.environ.get("THINKTUNE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(named) if named else Path(base) / "thinktune").expanduser() / "rows"


def is_complete(entry: Path) -> bool:
    """Return True if an entry is there and undamaged; marks it as used, and removes a damaged one."""
    try:
        whole = read_json(entry / SIZES_FILE) == _file_sizes_bytes(entry)
    except (OSError, ValueError):
        whole = False
    if whole:
        with suppress(OSError):  # a cache that others filled may be read-only
            os.utime(entry / SIZES_FILE)
    elif entry.exists():
        shutil.rmtree(entry)
    return whole


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

    Its files must be closed and unmapped when the block ends: some systems cannot rename open ones.
    """
    # Not the process id: two machines or containers that share a disk may have the same.
    partial = entry.with_name(f".{entry.name}.{token_hex(8)}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        write_json(partial / SIZES_FILE, _file_sizes_bytes(partial))
        fsync_tree(partial)
        _evict_old(entry.parent)
        try:
            partial.rename(entry)
        except OSError:
            if not is_complete(entry):  # else another process was first, with the same content
                partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _file_sizes_bytes(entry: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(entry.iterdir()) if path.name != SIZES_FILE}


def _evict_old(folder: Path) -> None:
    for entry in folder.iterdir():
        if not (named := ENTRY_NAME_PATTERN.fullmatch(entry.name)):
            continue
        touched = entry if named[1] else entry / SIZES_FILE
        with suppress(OSError):  # another process may remove it as well
            days = (time.time() - touched.stat().st_mtime) / 86_400
            if days > (EVICT_PARTIAL_AFTER_DAYS if named[1] else EVICT_AFTER_DAYS):
                shutil.rmtree(entry, ignore_errors=True)
