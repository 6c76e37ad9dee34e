"""Look into zip archives and workbooks: a part of one has a path like `rows.zip/train.jsonl` or `book.xlsx/Sheet1`."""

import zlib
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from zipfile import BadZipFile, ZipFile, ZipInfo

from thinktune.data.reading.row_names import READABLE, UNSAID_SUFFIXES, choose_row_files
from thinktune.data.reading.signatures import is_workbook
from thinktune.errors import UserError, shorten_error

# A part that unpacks to so much, and to so many times its own size, is made to fill memory.
MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO = 2**30, 200


@dataclass(frozen=True, slots=True)
class Location:
    """Where bytes are: a file on disk, and the part of it, or an empty one for the whole file."""

    file: Path
    part: str = ""


def locate_part(path: Path) -> Location:
    """Split a path into the file on disk and its part; a path that is not there is a file without parts."""
    if path.exists():
        return Location(path)
    found = next((parent for parent in path.parents if parent.is_file()), None)
    return Location(path) if found is None else Location(found, path.relative_to(found).as_posix())


@contextmanager
def open_bytes(path: Path) -> Generator[BinaryIO]:
    """Open a file, or a member of a zip archive; raises UserError, naming it, where it cannot be read."""
    location = locate_part(path)
    try:
        with location.file.open("rb") as opened:
            if not location.part or is_workbook(opened, str(location.file)):
                yield opened
                return
        with open_zip(location.file) as archive:
            info = next((info for name, info in members(archive, location.file) if name == location.part), None)
            if info is None:
                raise UserError(f"{path}: is not in that archive; correct the name")
            _refuse_locked(info, path)
            with archive.open(info) as opened:
                yield cast(BinaryIO, opened)
    except (BadZipFile, NotImplementedError, zlib.error) as error:
        raise UserError(f"{path}: cannot be unpacked ({shorten_error(error)}); unpack or download it again") from None


@contextmanager
def open_zip(file: Path) -> Generator[ZipFile]:
    """Open a zip archive; raises UserError, naming it, where it is none."""
    try:
        archive = ZipFile(file)
    except (BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(
            f"{file}: is not a complete zip archive ({shorten_error(error)}); copy or download it again"
        ) from None
    with archive:
        yield archive


def members(archive: ZipFile, file: Path) -> list[tuple[str, ZipInfo]]:
    """List an archive's files with their names; raises UserError for a missing name, one twice or leading out."""
    if not all(info.filename for info in archive.infolist()):  # of which zipfile cannot say whether it is a folder
        raise UserError(f"{file}: holds a file without a name; pack it again")
    found = [(_member_name(info), info) for info in archive.infolist() if not info.is_dir()]
    leading_out = [name for name, _ in found if name.startswith("/") or ".." in PurePosixPath(name).parts]
    if leading_out:
        raise UserError(f"{file}: holds {leading_out[0]!r}, a name that points outside the archive; pack it again")
    double = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
    if double:
        raise UserError(f"{file}: holds {double[0]!r} more than once; pack it again")
    return found


def _member_name(info: ZipInfo) -> str:
    """Return a member's name; a Chinese Windows writes it in GBK without saying so."""
    name = info.filename
    if not info.flag_bits & 0x800 and not name.isascii():
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("gbk")
    return name.replace("\\", "/")


def _refuse_locked(info: ZipInfo, path: Path) -> None:
    if info.flag_bits & 1:
        raise UserError(f"{path}: is encrypted; unpack the archive with its password")
    if info.file_size > max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * info.compress_size):
        raise UserError(
            f"{path}: would unpack from {info.compress_size / 1e6:,.1f} MB to {info.file_size / 1e9:,.1f} GB, "
            "unlike any text; unpack it yourself if that is intended"
        )


def list_parts(file: Path) -> list[Path]:
    """List the files of rows in a zip archive, as paths; raises UserError, naming it, where it holds none."""
    with open_zip(file) as archive:
        found = dict(members(archive, file))

        def read(name: str) -> bytes:
            _refuse_locked(found[name], file / name)
            return archive.read(found[name])

        try:
            chosen = choose_row_files(sorted(found), read, str(file))
        except (BadZipFile, NotImplementedError, zlib.error) as error:
            raise UserError(
                f"{file}: cannot be unpacked ({shorten_error(error)}); unpack or download it again"
            ) from None
    chosen = chosen or [name for name in sorted(found) if PurePosixPath(name).suffix.lower() in UNSAID_SUFFIXES]
    if not chosen:
        raise UserError(
            f"{file}: holds no file of rows, but {', '.join(list(found)[:8]) or 'nothing'}; it may be {READABLE}"
        )
    return [file / name for name in chosen]
