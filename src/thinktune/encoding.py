"""Bytes of a file to text: gzip, byte order marks, and which encoding it is: UTF-8, surely GBK, or neither."""

import codecs
import gzip
import re
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from thinktune.errors import UserError, brief

# The first bytes of what is no text in UTF-8 or GBK. UTF-32 begins as UTF-16 does, so it stands first.
FOREIGN = {
    codecs.BOM_UTF32_LE: "UTF-32, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF32_BE: "UTF-32, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF16_LE: "UTF-16, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16, not UTF-8; save it as UTF-8",
    b"\x1f\x8b": "packed by gzip; add .gz to its name",
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8",
}
NEARLY_ALL = 0.9
RARE = bytes(range(0xD8, 0xF8))  # first bytes of GB2312's second level: its rarer characters


@dataclass(frozen=True, slots=True)
class BadByte:
    """The first byte that is no UTF-8: its line and its place in the line, both from 1."""

    line: int
    place: int
    value: int

    def __str__(self) -> str:
        return f"byte {self.place} is {self.value:#x}"


@contextmanager
def open_text(file: Path) -> Generator[tuple[BinaryIO, bool]]:
    """The bytes of a text file, unpacked, from behind its byte order mark, and whether it has one.

    Raises UserError, naming the file, where it cannot be read to its end or is no text.
    """
    packed = file.name.lower().endswith(".gz")
    try:
        with cast(BinaryIO, gzip.open(file)) if packed else file.open("rb") as opened:
            head = opened.read(4)
            if packed and not file.stat().st_size:
                raise EOFError("it is empty")  # which gzip takes for whole
            for mark, meaning in FOREIGN.items():
                if head.startswith(mark):
                    raise UserError(f"{file}: is {meaning}")
            marked = head.startswith(codecs.BOM_UTF8)
            opened.seek(len(codecs.BOM_UTF8) if marked else 0)
            yield opened, marked
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file}: is no whole gzip file ({brief(error)}); copy or download it anew") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or brief(error)}); mend that first") from None


def find_bad_byte(lines: Iterable[bytes]) -> BadByte | None:
    """Where lines cease to be UTF-8, if they do. A line feed is no part of another character in UTF-8 or GBK."""
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            return BadByte(number, error.start + 1, line[error.start])
    return None


def is_gbk(lines: Iterable[bytes]) -> bool:
    """Whether lines that are no UTF-8 are surely GBK.

    They decode as GB18030, and nearly all characters beyond ASCII are GB2312's, half of them or more of its first
    level: broken UTF-8 makes characters that GB2312 lacks, and two accented letters of Latin-1 make a rare one.
    """
    beyond = known = rare = 0
    try:
        for line in lines:
            characters = re.sub("[\0-\x7f]+", "", line.decode("gb18030"))
            pairs = characters.encode("gb2312", "ignore")
            beyond += len(characters)
            known += len(pairs) // 2
            rare += len(pairs) // 2 - len(pairs[::2].translate(None, RARE))
    except UnicodeDecodeError:
        return False
    return known >= NEARLY_ALL * beyond and rare <= known / 2
