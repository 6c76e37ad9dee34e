"""Tell what a file is by its first bytes, whatever its name says."""

import codecs
import re
from typing import BinaryIO, Literal
from zipfile import BadZipFile, ZipFile

from thinktune.errors import UserError

Kind = Literal["parquet", "arrow", "workbook", "zip", "text"]


SIGNATURE_BYTES = 512  # enough for all below, and for the mark of a tar archive


_READ_SIGNATURES: dict[bytes, Kind] = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",  # a stream of messages, each after this mark
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # an empty one
}


# First bytes of files that hold no rows that can be read. UTF-32 begins as UTF-16 does, so it comes first.
_FOREIGN_SIGNATURES = {
    codecs.BOM_UTF32_LE: "UTF-32, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF32_BE: "UTF-32, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF16_LE: "UTF-16, not UTF-8; save it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16, not UTF-8; save it as UTF-8",
    b"PARE": "an encrypted Parquet file; write it without encryption",
    b"\xd0\xcf\x11\xe0": "a workbook or document of an old version of Office; save it as .xlsx, or as CSV in UTF-8",
    b"SQLite format 3\0": "an SQLite database; export the table as CSV or JSON lines",
    b"ORC": "an ORC file; write it as Parquet",
    b"Obj\x01": "an Avro file; write it as Parquet or JSON lines",
    b"\x89HDF": "an HDF5 file; write the rows as Parquet or JSON lines",
    b"\x93NUMPY": "an array of NumPy; write the rows as JSON lines",
    b"%PDF": "a PDF document; rows must be JSON, CSV, Parquet, Arrow or a workbook",
    b"Rar!": "a RAR archive; unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"\x1f\x9d": "compressed by compress; unpack it",
    b"\x04\x22\x4d\x18": "compressed by lz4; unpack it",
    b"\x89PNG": "an image; name the file of rows",
    b"\xff\xd8\xff": "an image; name the file of rows",
    b"version https://git-lfs.github.com": "a pointer of Git LFS, not the rows themselves; fetch them (git lfs pull)",
}


_PICKLE = re.compile(rb"\x80[\x02-\x05](\x95|\}|\]|c)")


_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html[\s>])", re.IGNORECASE)


_XML = re.compile(rb"\s*<\?xml\s")


def kind_of(head: bytes) -> Kind:
    """Return what the first bytes of a file show; `text` where they show nothing else."""
    for mark, kind in _READ_SIGNATURES.items():
        if head.startswith(mark):
            return kind
    return "text"


def foreign_form(head: bytes) -> str | None:
    """Name the form of a file that cannot be read, and the way out, by its first bytes; None for others."""
    for mark, meaning in _FOREIGN_SIGNATURES.items():
        if head.startswith(mark):
            return meaning
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if _PICKLE.match(head):
        return "a Python pickle, which could run code and is not read; write the rows as JSON lines"
    if _WEB_PAGE.match(head):
        return "a web page, perhaps from a download that failed; download the file itself"
    return "an XML document; write the rows as JSON lines" if _XML.match(head) else None


def is_workbook(opened: BinaryIO, file: str) -> bool:
    """Return True for an Excel workbook, False for another zip archive; the stream stays at its start.

    Raises UserError, naming `file`, for other documents of an office.
    """
    try:
        with ZipFile(opened) as archive:
            names = archive.namelist()
    except (BadZipFile, NotImplementedError, ValueError, OSError):
        return False
    finally:
        opened.seek(0)
    if "[Content_Types].xml" in names:
        if any(name.startswith("xl/") for name in names):
            return True
        raise UserError(f"{file}: is an Office document; put its table into a workbook, or save it as CSV in UTF-8")
    if "mimetype" in names and "content.xml" in names:
        raise UserError(f"{file}: is an OpenDocument file; save it as .xlsx, or as CSV in UTF-8")
    return False
