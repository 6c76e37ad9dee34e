"""A file that is dropped on the page: written aside as it comes, then given its name, which no other file may have."""

import asyncio
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from thinktune.files import ROW_FILE_ENDINGS, describe_system_error, fsync_folder
from thinktune.http import ApiError

if os.name == "posix":
    import fcntl

MAX_FILE_BYTES = 16 * 2**30
PIECE_SECONDS = 60  # between two pieces of a file
LEAST_FREE_BYTES = 2**28  # of the disk, which a dropped file leaves
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial")


def check_file_name(name: str) -> None:
    """Raise ApiError (400) where a name is none for a file of rows in the studio's folder."""
    plain = not any(letter in '/\\:*?"<>|' or not letter.isprintable() for letter in name)
    if not plain or name.startswith((".", "-", "~")) or len(name.encode(errors="replace")) > 200:
        raise ApiError(400, f"{name[:100]!r} cannot be the name of a file here; rename it, and drop it again")
    if not name.lower().endswith(ROW_FILE_ENDINGS):
        known = "JSON, JSON lines, CSV, TSV, Parquet, Arrow, Excel, or zip"
        raise ApiError(
            400, f"{name}: its ending does not name a format of rows; use that of {known}, and drop it again"
        )


async def receive_file(target: Path, pieces: AsyncIterator[bytes], size: int | None) -> int:
    """Write the pieces of a file to a new one, whole or not at all; return its bytes.

    Raises ApiError: 409 where the name is taken, 413 where it is too large, 507 where the disk is full, 400 where the
    rest never comes. `size` is what the sender said, for a refusal before anything comes.
    """
    _require_new(target)
    free = shutil.disk_usage(target.parent).free - LEAST_FREE_BYTES
    if size is not None and size > MAX_FILE_BYTES:
        raise ApiError(413, f"{target.name} is larger than {MAX_FILE_BYTES // 2**30} GiB; copy it into the folder")
    if size is not None and size > free:
        raise ApiError(507, f"{target.name} needs more than the disk has free; free some space, and drop it again")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        written = await _write(partial, pieces, target.name)
        if size is not None and written != size:
            raise ApiError(400, f"{target.name}: only {written:,} of {size:,} bytes arrived; drop it again")
        await run_in_threadpool(_give_name, partial, target)
    except ClientDisconnect:
        raise ApiError(400, f"{target.name}: the rest of it did not arrive; drop it again") from None
    except OSError as error:
        raise ApiError(507, describe_system_error(error)) from None
    finally:
        partial.unlink(missing_ok=True)
    return written


def remove_abandoned(folder: Path) -> None:
    """Remove files that a studio was killed amid receiving; one that is still being received is locked."""
    with suppress(OSError):
        found = [path for path in folder.iterdir() if _PARTIAL.fullmatch(path.name) and path.is_file()]
        for path in found:
            with suppress(OSError), path.open("r+b") as file:  # NFS locks only what may be written
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


async def _write(partial: Path, pieces: AsyncIterator[bytes], name: str) -> int:
    written = 0
    with partial.open("xb") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        while (piece := await _next(pieces, name)) is not None:
            written += len(piece)
            if written > MAX_FILE_BYTES:
                raise ApiError(413, f"{name} is larger than {MAX_FILE_BYTES // 2**30} GiB; copy it into the folder")
            await run_in_threadpool(file.write, piece)
        file.flush()
        await run_in_threadpool(os.fsync, file.fileno())
    return written


async def _next(pieces: AsyncIterator[bytes], name: str) -> bytes | None:
    """Return the next piece, None after the last; raises ApiError (408) where it does not come."""
    try:
        async with asyncio.timeout(PIECE_SECONDS):
            return await anext(pieces, None)
    except TimeoutError:
        raise ApiError(408, f"{name}: nothing arrived for {PIECE_SECONDS} s; drop it again") from None


def _give_name(partial: Path, target: Path) -> None:
    """Give a file its name unless another has it by now; raises ApiError (409) then."""
    try:
        os.link(partial, target)
    except FileExistsError:
        _require_new(target)
    except OSError:  # a file system without links: the name is taken first, then the file put in its place
        try:
            target.open("xb").close()
        except FileExistsError:
            _require_new(target)
        try:
            partial.replace(target)
        except OSError:
            with suppress(OSError):
                target.unlink()
            raise
    fsync_folder(target.parent)


def _require_new(target: Path) -> None:
    if os.path.lexists(target):
        raise ApiError(409, f"{target.name} is in the folder already; rename one of them, and drop it again")
