"""Files that are whole or absent: written aside, flushed to the disk, then renamed."""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)  # no room on the disk, or none of the user's share


def is_disk_full(error: BaseException) -> bool:
    """Whether a disk had no room. Some libraries hand the system's number over as text alone."""
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
        return True
    return any(f"(os error {number})" in str(error) or f"[Errno {number}]" in str(error) for number in DISK_FULL_ERRNOS)


def is_safe_relative_path(name: str) -> bool:
    """Whether a relative name that a stranger gave stays in its folder, on any system."""
    kinds = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name) and not any(path.is_absolute() or path.drive or ".." in path.parts for path in kinds)


def refuse_unsafe_paths(names: Iterable[str]) -> None:
    """Raise OSError where a hub's list names a place outside a repository's folder."""
    if unsafe := [name for name in names if not is_safe_relative_path(name)]:
        raise OSError(f"the hub lists {unsafe[0]!r}, which is no place inside a repository")


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text so that a reader, or a crash, sees the old file or the new one and never a part."""
    atomic_write_stream(path, (text,))


def atomic_write_stream(path: Path, texts: Iterable[str]) -> None:
    """Write texts one after another, as they come, to one UTF-8 file; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with aside.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(texts)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    fsync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON, whole or not at all."""
    atomic_write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_json_lines(path: Path, records: Iterable[Any]) -> None:
    """Write values as JSON, one a line, whole or not at all."""
    atomic_write_stream(path, (json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_json(path: Path) -> Any:
    """The value that a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder last through a power cut, where the system lets a folder be flushed."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            fsync_folder(path)
    fsync_folder(folder)
