"""Open compressed files by what they are: gzip, bzip2, xz and Zstandard, each read strictly to its end."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, BinaryIO, cast

from thinktune.data.reading.encoding import BLOCK_BYTES
from thinktune.errors import UserError, shorten_error

COMPRESSED_SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}


_SIGNATURES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "Zstandard"}


# A file with such an ending that begins with one of these is not compressed: no text begins otherwise.
_TEXT_BYTES = frozenset({*b"\t\r\n", *range(0x20, 0x7F), *range(0x81, 0xF5)})


MAX_PIECE_BYTES = 2**20


def compression_of(stream: BinaryIO) -> str | None:
    """Return the name of the compression that a stream's first bytes show, or None; the stream stays at its start."""
    head = stream.read(6)
    stream.seek(0)
    return next((name for mark, name in _SIGNATURES.items() if head.startswith(mark)), None)


@contextmanager
def decompressed(stream: BinaryIO, name: str, file: str) -> Generator[tuple[BinaryIO, str | None]]:
    """Yield the bytes of a stream, decompressed, and what its ending says wrongly about that, if it does.

    Raises UserError, naming `file`, where the compressed stream is not complete or damaged.
    """
    suffix = next((ending for ending in COMPRESSED_SUFFIXES if name.lower().endswith(ending)), None)
    claimed, actual = COMPRESSED_SUFFIXES.get(suffix or ""), compression_of(stream)
    head = stream.read(1)
    stream.seek(0)
    begun = any(name == claimed and mark[:1] == head for mark, name in _SIGNATURES.items())
    if claimed and actual is None and (begun or not head or head[0] not in _TEXT_BYTES):
        raise UserError(
            f"{file}: is not a complete {claimed} file (it does not begin as one); copy or download it again"
        )
    wrong = None
    if claimed != actual:
        wrong = f"is compressed by {actual}" if actual else f"is not compressed by {claimed}"
        wrong += ", not what its ending says, and was read as that"
    if actual is None:
        yield stream, wrong
        return
    try:
        yield _open(stream, actual, file), wrong
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, _DamagedError) as error:
        raise UserError(
            f"{file}: is not a complete {actual} file ({shorten_error(error)}); copy or download it again"
        ) from None


class _DamagedError(Exception):
    """A compressed stream that its library cannot read; several raise only OSError or ValueError."""


def _open(stream: BinaryIO, kind: str, file: str) -> BinaryIO:
    match kind:
        case "gzip":
            return cast(BinaryIO, gzip.open(stream))
        case "bzip2":
            return _rewindable(stream, lambda: _pieces(stream, bz2.BZ2Decompressor))
        case "xz":
            return _rewindable(stream, lambda: _pieces(stream, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)))
        case _:
            return _rewindable(stream, _zstandard(stream, file))


def _zstandard(stream: BinaryIO, file: str) -> Callable[[], Iterator[bytes]]:
    """Decompress Zstandard with Python itself (3.14) or with pyarrow, which brings it along."""
    try:
        zstd: Any = import_module("compression.zstd")
    except ImportError:
        try:
            arrow: Any = import_module("pyarrow")
        except ImportError:
            raise UserError(
                f"{file}: Zstandard needs Python 3.14 or one more package; install thinktune[parquet], or unpack it"
            ) from None
        return lambda: _arrow_pieces(stream, arrow)
    return lambda: _pieces(stream, zstd.ZstdDecompressor)


def _arrow_pieces(stream: BinaryIO, arrow: Any) -> Iterator[bytes]:
    opened = arrow.CompressedInputStream(arrow.PythonFile(_LeftOpen(stream), mode="r"), "zstd")
    try:
        while piece := opened.read(MAX_PIECE_BYTES):
            yield piece
    except (OSError, ValueError) as error:
        raise _DamagedError(shorten_error(error)) from None


def _pieces(stream: BinaryIO, make: Callable[[], Any]) -> Iterator[bytes]:
    """Decompress one stream after the other; raises EOFError where the last one is cut off, and _DamagedError."""
    decompressor = make()
    block = b""
    while True:
        if decompressor.eof:
            block = decompressor.unused_data or block
            block = block.lstrip(b"\0") or stream.read(BLOCK_BYTES).lstrip(b"\0")  # xz pads its streams with zeros
            if not block:
                return
            decompressor = make()
        elif decompressor.needs_input and not (block := stream.read(BLOCK_BYTES)):
            raise EOFError("the file is cut off")
        try:
            piece = decompressor.decompress(block, MAX_PIECE_BYTES)
        except (OSError, ValueError, lzma.LZMAError) as error:
            raise _DamagedError(shorten_error(error)) from None
        block = b""
        if piece:
            yield piece


def _rewindable(stream: BinaryIO, start: Callable[[], Iterator[bytes]]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Pieces(stream, start), BLOCK_BYTES))


class _LeftOpen:
    """A stream that stays open when Arrow closes it, so that it can be read again."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self.read = stream.read

    def close(self) -> None:
        """Do nothing."""


class _Pieces(io.RawIOBase):
    """A stream of pieces that can be read again from its start."""

    def __init__(self, stream: BinaryIO, start: Callable[[], Iterator[bytes]]) -> None:
        super().__init__()
        self._stream, self._start = stream, start
        self._rewind()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position from the start; raises UnsupportedOperation for other ways."""
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only a position from the start can be sought")
        if offset < self._position:
            self._rewind()
        while self._position < offset and self.read(min(BLOCK_BYTES, offset - self._position)):
            pass
        return self._position

    def readinto(self, buffer: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Read into a buffer; returns 0 at the end."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._held = memoryview(piece)
        size = min(len(buffer), len(self._held))
        buffer[:size], self._held = self._held[:size], self._held[size:]
        self._position += size
        return size

    def _rewind(self) -> None:
        self._stream.seek(0)
        self._pieces, self._held, self._position = self._start(), memoryview(b""), 0
