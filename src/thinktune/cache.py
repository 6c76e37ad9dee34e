"""A folder of entries on the disk, each named by what it was made from: there as it was put, or made anew."""

import os
import re
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from thinktune.files import fsync_tree, read_json, write_json

SIZES_FILE = "sizes.json"  # bytes of every other file of an entry, written last


ENTRY_NAME_PATTERN = re.compile(r"(\.)?[0-9a-f]{32}(\.[0-9a-f]{16}\.partial)?")


EVICT_AFTER_DAYS = 30  # an entry that no one read for so long is removed when another one is put


EVICT_PARTIAL_AFTER_DAYS = 2  # after which what a killed process left is removed in the same way


def cache_folder() -> Path:
    """Where entries are kept: THINKTUNE_CACHE, else the user's folder for caches."""
    named = os.environ.get("THINKTUNE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(named) if named else Path(base) / "thinktune").expanduser() / "rows"


def is_complete(entry: Path) -> bool:
    """Whether an entry is there as it was put; asking marks it as used, and a damaged one is removed."""
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


@contextmanager
def create_entry(entry: Path) -> Generator[Path]:
    """A new folder to fill, which becomes the entry, whole, where the block ends well, and is removed where it raises.

    Nothing may hold its files open or mapped when the block ends: some systems do not rename them then.
    """
    # Not the process's number: two machines or containers on one disk may have the same.
    aside = entry.with_name(f".{entry.name}.{token_hex(8)}.partial")
    aside.mkdir(parents=True)
    try:
        yield aside
        write_json(aside / SIZES_FILE, _file_sizes_bytes(aside))
        fsync_tree(aside)
        _evict_old(entry.parent)
        try:
            aside.rename(entry)
        except OSError:
            if not is_complete(entry):  # else another process was first, with the same
                aside.rename(entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
