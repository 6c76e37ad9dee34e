"""Lists a folder's files with their sizes and sha256, and tells what is no longer as it was listed."""

import hashlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from thinktune.files import read_json, write_json

SEAL = "files.json"


TOGETHER = 4  # files that are read at a time; hashing lets other threads run


def seal(folder: Path, apart: Collection[str] = ()) -> None:
    """Write the list of all files below a folder into it, but for those in folders `apart`, which may be taken away."""
    names = [name for name in _names(folder) if _top(name) not in apart]
    with ThreadPoolExecutor(TOGETHER) as pool:
        measured = pool.map(measure, [folder / name for name in names])
        write_json(folder / SEAL, dict(zip(names, measured, strict=True)))


def measure(file: Path) -> dict[str, int | str]:
    """A file's size in bytes and its sha256."""
    with file.open("rb") as opened:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def broken(folder: Path, apart: Collection[str] = ()) -> list[str]:
    """What is not as it was sealed, in words: missing, short, changed, or added; nothing where all is well."""
    try:
        listed = read_json(folder / SEAL)
        sizes = {name: entry["bytes"] for name, entry in listed.items()}
    except FileNotFoundError:
        return [f"{SEAL} is missing"]
    except (ValueError, TypeError, KeyError, AttributeError):
        return [f"{SEAL} cannot be read"]
    found = set(_names(folder))
    faults = [f"{name} is missing" for name in sizes.keys() - found]
    faults += [f"{name} was not written with it" for name in found - sizes.keys() if _top(name) not in apart]
    return sorted(faults + differing(folder, {name: listed[name] for name in sizes.keys() & found}))


def differing(folder: Path, written: dict[str, dict[str, int | str]]) -> list[str]:
    """How files below a folder, by name, differ from what `measure` once gave of them, in words."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        return sorted(filter(None, pool.map(changed, [folder / name for name in written], written.values())))


def changed(file: Path, written: dict[str, int | str]) -> str | None:
    """How a file differs from what `measure` once gave, in words, or none."""
    if not file.is_file():
        return f"{file.name} is missing"
    size = file.stat().st_size
    if size != written["bytes"]:
        return f"{file.name} has {size:,} bytes, and {written['bytes']:,} were written"
    return None if measure(file) == written else f"{file.name} holds other bytes than were written"


def added(folder: Path, apart: Collection[str] = ()) -> bool:
    """Whether a sealed folder holds files that are not of its list, so that somebody put them there."""
    listed = read_json(folder / SEAL) if (folder / SEAL).is_file() else {}
    return any(_top(name) not in apart for name in set(_names(folder)) - set(listed))


def _top(name: str) -> str:
    return name.partition("/")[0]


def _names(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != SEAL)
