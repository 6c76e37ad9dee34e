"""Files that are whole or absent: written under another name, flushed to the disk, then renamed."""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)  # the disk is full, or the user's quota is


def is_disk_full(error: BaseException) -> bool:
    """Return True if an error means that a disk was full."""
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
        return True
    # safetensors and tokenizers, written in Rust, pass the errno on as text alone.
    return any(f"(os error {number})" in str(error) or f"[Errno {number}]" in str(error) for number in DISK_FULL_ERRNOS)


def is_safe_relative_path(name: str) -> bool:
    """Return True if an untrusted relative name stays inside its folder, on any system."""
    kinds = (PurePosixPath(name), PureWindowsPath(name))
    return bool(name) and not any(path.is_absolute() or path.drive or ".." in path.parts for path in kinds)


def refuse_unsafe_paths(names: Iterable[str]) -> None:
    """Raise OSError where a hub lists a file outside the repository's folder."""
    if unsafe := [name for name in names if not is_safe_relative_path(name)]:
        raise OSError(f"the hub lists {unsafe[0]!r}, which is outside the repository")


def atomic_write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text so that readers and crashes see the old file or the new one, never a part."""
    atomic_write_stream(path, (text,))


def atomic_write_stream(path: Path, texts: Iterable[str]) -> None:
    """Write texts, as they are produced, to one UTF-8 file; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(texts)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    fsync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON, whole or not at all."""
    atomic_write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_json_lines(path: Path, records: Iterable[Any]) -> None:
    """Write values as JSON, one a line, whole or not at all."""
    atomic_write_stream(path, (json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def read_json(path: Path) -> Any:
    """Read the value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut, where the system can flush a folder."""
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
