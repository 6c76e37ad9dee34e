"""Tell UTF-8 from GBK."""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

BLOCK_BYTES = 2**16  # read at once, where lines may be of any length


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
