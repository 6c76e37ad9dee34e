"""Manifest of a folder: size and sha256 of every file but its card, and what no longer matches it."""

import hashlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from thinktune.files import name_path, read_json, write_json

MANIFEST = "files.json"


CARD_FILE = "README.md"  # people edit it, and evaluations rewrite it: no manifest lists it, and none is broken by it


HASH_THREADS = 4  # hashlib releases the interpreter's lock


def write_manifest(folder: Path, exclude: Collection[str] = ()) -> None:
    """Write the manifest of a folder into it, without the subfolders `exclude`, which may be removed later."""
    names = [name for name in _file_names(folder) if _top_folder(name) not in exclude and name != CARD_FILE]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        measured = pool.map(checksum, [folder / name for name in names])
        write_json(folder / MANIFEST, dict(zip(names, measured, strict=True)))


def checksum(file: Path) -> dict[str, int | str]:
    """Compute a file's size in bytes and its sha256."""
    with name_path(file), file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def manifest_mismatches(folder: Path, exclude: Collection[str] = ()) -> list[str]:
    """Describe the files that do not match the manifest: missing, short, changed, or added."""
    try:
        listed = read_json(folder / MANIFEST)
        sizes = {name: entry["bytes"] for name, entry in listed.items() if name != CARD_FILE}
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return [f"{MANIFEST} cannot be read"]
    found = set(_file_names(folder)) - {CARD_FILE}
    mismatches = [f"{name} is missing" for name in sizes.keys() - found]
    mismatches += [f"{name} was added later" for name in found - sizes.keys() if _top_folder(name) not in exclude]
    return sorted(mismatches + checksum_mismatches(folder, {name: listed[name] for name in sizes.keys() & found}))


def checksum_mismatches(folder: Path, written: dict[str, dict[str, int | str]]) -> list[str]:
    """Describe the files, by name, that do not match the checksums recorded for them."""
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return sorted(filter(None, pool.map(checksum_mismatch, [folder / name for name in written], written.values())))


def checksum_mismatch(file: Path, written: dict[str, int | str]) -> str | None:
    """Describe how a file differs from its recorded checksum, or return None."""
    if not file.is_file():
        return f"{file.name} is missing"
    size = file.stat().st_size
    if size != written["bytes"]:
        return f"{file.name} has {size:,} bytes, but {written['bytes']:,} were written"
    return None if checksum(file) == written else f"{file.name} differs from what was written"


def has_unlisted_files(folder: Path, exclude: Collection[str] = ()) -> bool:
    """Return True if a folder holds files that its manifest does not list: somebody added them."""
    try:
        listed: Collection[str] = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else ()
    except (ValueError, RecursionError):  # damaged, so that nothing in it is known to be ours
        return True
    return any(_top_folder(name) not in exclude for name in set(_file_names(folder)) - set(listed))


def _top_folder(name: str) -> str:
    return name.partition("/")[0]


def _file_names(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != MANIFEST)
