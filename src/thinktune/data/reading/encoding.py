"""Open text files, compressed or not, and tell UTF-8 from GBK."""

import codecs
import gzip
import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from thinktune.errors import UserError, shorten_error

BLOCK_BYTES = 2**16  # read at once, where lines may be of any length


# First bytes of files that are not text in UTF-8 or GBK. UTF-32 begins as UTF-16 does, so it comes first.
UNSUPPORTED_SIGNATURES = {
    codecs.BOM_UTF32_LE: "UTF-32, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF32_BE: "UTF-32, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF16_LE: "UTF-16, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16, not UTF-8; save it as UTF-8",
    b"\x1f\x8b": "compressed by gzip; add .gz to its name",
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8",
}


MIN_GB2312_SHARE = 0.9


RARE_LEAD_BYTES = bytes(range(0xD8, 0xF8))  # first bytes of GB2312's second level: its rarer characters


@dataclass(frozen=True, slots=True)
class BadByte:
    """The first byte that is not UTF-8: its line and its column in bytes, both from 1."""

    line: int
    column: int
    value: int

    def __str__(self) -> str:
        return f"byte {self.column} is {self.value:#x}"


@contextmanager
def open_text(file: Path) -> Generator[tuple[BinaryIO, bool]]:
    """Open a text file, decompressed, after its byte order mark; yields the bytes and whether it has such a mark.

    Raises UserError, naming the file, where it cannot be read to its end or is not text.
    """
    compressed = file.name.lower().endswith(".gz")
    try:
        with cast(BinaryIO, gzip.open(file)) if compressed else file.open("rb") as opened:
            head = opened.read(4)
            if compressed and not file.stat().st_size:
                raise EOFError("it is empty")  # which gzip accepts as complete
            for mark, meaning in UNSUPPORTED_SIGNATURES.items():
                if head.startswith(mark):
                    raise UserError(f"{file}: is {meaning}")
            marked = head.startswith(codecs.BOM_UTF8)
            opened.seek(len(codecs.BOM_UTF8) if marked else 0)
            yield opened, marked
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{file}: is not a complete gzip file ({shorten_error(error)}); copy or download it again"
        ) from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or shorten_error(error)}); fix that first") from None


def find_bad_byte(blocks: Iterable[bytes]) -> BadByte | None:
    """Find the first byte that is not UTF-8 in a text, given in blocks of any size; None if all is."""
    line, column, rest = 1, 1, b""  # where `rest` begins, the first bytes of a character that a block cut
    for block in chain(blocks, (None,)):
        data = rest + (block or b"")
        bad = None
        try:
            data.decode()
            good = len(data)
        except UnicodeDecodeError as error:
            good = error.start
            if block is None or error.end < len(data) or error.reason != "unexpected end of data":
                bad = data[good]
        line += data.count(b"\n", 0, good)
        start = data.rfind(b"\n", 0, good)
        column = good - start if start >= 0 else column + good
        if bad is not None:
            return BadByte(line, column, bad)
        rest = data[good:]
    return None


def is_gbk(blocks: Iterable[bytes]) -> bool:
    """Return True if a text that is not UTF-8, given in blocks of any size, is surely GBK.

    It decodes as GB18030, nearly all characters beyond ASCII are in GB2312, and at least half of these in its first
    level: broken UTF-8 gives characters that GB2312 lacks, and two accented letters of Latin-1 give a rare one.
    """
    beyond = known = rare = 0
    decoder = codecs.getincrementaldecoder("gb18030")()
    try:
        for block in chain(blocks, (None,)):
            characters = re.sub("[\0-\x7f]+", "", decoder.decode(block or b"", final=block is None))
            pairs = characters.encode("gb2312", "ignore")
            beyond += len(characters)
            known += len(pairs) // 2
            rare += len(pairs) // 2 - len(pairs[::2].translate(None, RARE_LEAD_BYTES))
    except UnicodeDecodeError:
        return False
    return known >= MIN_GB2312_SHARE * beyond and rare <= known / 2


def read_stream(stream: BinaryIO) -> Iterator[bytes]:
    """Read a stream to its end in blocks."""
    return iter(lambda: stream.read(BLOCK_BYTES), b"")
