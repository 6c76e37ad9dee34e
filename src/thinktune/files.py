"""Files that are whole or absent: written under another name, flushed to the disk, then renamed."""

import errno
import json
import os
import re
import shlex
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)  # the disk is full, or the user's quota is


# How libraries pass an error of the system on as a text: Rust's (safetensors, tokenizers), Python's inside another
# error's, Rust's thread pool, and torch's mmap.
_ERRNO_IN_TEXT = re.compile(
    r"\(os error (\d+)\)|\[Errno (\d+)\]|Os \{ code: (\d+)|unable to (?:open|mmap|map|stat|read)\b.*: [^:()]+ \((\d+)\)"
)


MAX_RECIPE_BYTES = 2**20  # of a recipe in JSON; what is larger is not read to see whether it is one
_TEXT_ROW_ENDINGS = (".jsonl", ".ndjson", ".jsonlines", ".json", ".csv", ".tsv")
# Of files of rows, as people name them; what is in a file decides how it is read.
ROW_FILE_ENDINGS = (
    *_TEXT_ROW_ENDINGS,
    *(".parquet", ".arrow", ".feather", ".xlsx", ".xlsm", ".zip"),
    *(ending + packed for packed in (".gz", ".bz2", ".xz", ".zst") for ending in _TEXT_ROW_ENDINGS),
)


def system_error(error: BaseException) -> OSError | None:
    """Return an error of the system: itself, or what a library passes on as a text; None for any other."""
    if isinstance(error, OSError):
        return error
    if type(error).__module__.partition(".")[0] == __name__.partition(".")[0]:
        return None  # our own sentences may quote one, and already name the place
    if found := _ERRNO_IN_TEXT.search(str(error)):
        number = int(next(filter(None, found.groups())))
        return OSError(number, os.strerror(number))
    if "can't start new thread" in str(error):
        return OSError(errno.EAGAIN, "no new thread can be started")
    return None


# What to do about an error of the system, by its name in errno.
REMEDIES = {
    "ENOSPC": "free some space, then run the same command",
    "EDQUOT": "free some of your quota, then run the same command",
    "EROFS": "mount it for writing, or name a folder elsewhere",
    "EFBIG": "raise the limit on the size of files (ulimit -f), or use another file system",
    "EIO": "the disk or its connection fails: look at the system log, and copy what can still be read",
    "ESTALE": "mount the network disk again, then run the same command",
    "ENOTCONN": "mount the network disk again, then run the same command",
    "EMFILE": "raise the limit on open files (ulimit -n)",
    "ENFILE": "close programs that have many files open",
    "ENOMEM": "free some memory, or raise its limit (ulimit -v)",
    "EAGAIN": "raise the limits on threads and memory (ulimit -u, ulimit -v), or set OMP_NUM_THREADS=1",
    "ENOENT": "correct the path, or put the file back",
}
OTHER_REMEDY = "check the path, its permissions and the free disk space"


def describe_system_error(error: OSError) -> str:
    """Describe an error of the system in one sentence: the path, what happened, and what to do."""
    remedy = REMEDIES.get(errno.errorcode.get(error.errno or 0, ""), OTHER_REMEDY)
    return f"{error.filename or 'the system'}: {error.strerror or error}; {remedy}"


def is_disk_full(error: BaseException) -> bool:
    """Return True if an error means that a disk was full."""
    found = system_error(error)
    return found is not None and found.errno in DISK_FULL_ERRNOS


@contextmanager
def name_path(path: Path) -> Generator[None]:
    """Raise an error of the system, in whatever form the block raises it, as OSError that names a path.

    A path that the error names itself stays, and errors of connections have none.
    """
    try:
        yield
    except Exception as error:
        found = system_error(error)
        if found is None or found.filename is not None or isinstance(found, ConnectionError | TimeoutError):
            raise
        raise OSError(found.errno, found.strerror or str(found), str(path)) from error


def expand_home(path: Path) -> Path:
    """Return a path with a leading `~` replaced by the user's home, which no folder of that name should stand for.

    Raises FileNotFoundError where there is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no home folder of that user", str(path)) from error


def describe_given_rows(path: Path, wanted: str) -> str | None:
    """Return what to do where a path is a file of rows and something else is `wanted`, as in "a recipe"; else None."""
    name = path.name.lower()
    if not name.endswith(ROW_FILE_ENDINGS) or not path.is_file() or (name.endswith(".json") and _is_recipe(path)):
        return None
    return (
        f"{path}: is a file of rows, but {wanted} is expected; write a recipe for them first: "
        f"thinktune init {shlex.quote(str(path))}"
    )


def _is_recipe(path: Path) -> bool:
    """Return True for a recipe that is written as JSON, which is YAML."""
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            return False
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(held, dict) and "model" in held and "data" in held


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
    atomic_write_bytes(path, (text.encode() for text in texts))


def atomic_write_bytes(path: Path, parts: Iterable[bytes]) -> None:
    """Write bytes, as they are produced, to one file; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with name_path(path), partial.open("wb") as file:
            file.writelines(parts)
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
    with name_path(path):
        text = path.read_text(encoding="utf-8")
    return json.loads(text)


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut, where the system can flush a folder."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            with name_path(folder):
                os.fsync(handle)
        finally:
            os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with name_path(path), path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            fsync_folder(path)
    fsync_folder(folder)
