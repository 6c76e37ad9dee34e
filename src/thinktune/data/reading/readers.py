"""Read files of rows as raw rows in order, each with what is wrong with it; what a file is decides, not its name."""

import codecs
import io
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from thinktune.data.reading.arrow_files import read_arrow, read_parquet
from thinktune.data.reading.compression import COMPRESSED_SUFFIXES, decompressed
from thinktune.data.reading.containers import list_parts, locate_part, open_bytes
from thinktune.data.reading.json_files import is_json_start, read_json
from thinktune.data.reading.places import line_place
from thinktune.data.reading.raw_rows import OpenFile, form_finding, window_text
from thinktune.data.reading.row_names import READABLE
from thinktune.data.reading.signatures import SIGNATURE_BYTES, foreign_form, is_workbook, kind_of
from thinktune.data.reading.table_dialect import WINDOW_CHARACTERS, looks_like_table
from thinktune.data.reading.table_header import KNOWN_NAMES
from thinktune.data.reading.tables import read_table
from thinktune.data.reading.workbooks import read_workbook
from thinktune.data.types import Finding, RawRow
from thinktune.errors import UserError, shorten_error

# A longer row is not read, only named, unless `data.max_tokens` allows for longer ones. Reading one takes several times
# its size, and no row of text for training is that long.
MAX_ROW_BYTES = 16 * 2**20


ENDINGS = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines"), "jsonl"),
    **{".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet"},
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "arrow"),
    **dict.fromkeys((".xlsx", ".xlsm"), "workbook"),
    ".zip": "zip",
}


FORM_NAMES = {
    **{
        "jsonl": "JSON lines",
        "json": "JSON",
        "csv": "a table of text",
        "tsv": "a table of text",
        "zip": "a zip archive",
    },
    **{"parquet": "a Parquet file", "arrow": "an Arrow file", "workbook": "an Excel workbook"},
}


BINARY_FORMS = ("parquet", "arrow", "workbook", "zip")


def read_rows(
    file: Path,
    display_name: str,
    *,
    repair_encoding: bool,
    max_row_bytes: int = MAX_ROW_BYTES,
    rows_key: str | None = None,
) -> Iterator[RawRow]:
    """Read the rows of one file in order, faulty ones included; their sources are `display_name:line` (see `places`).

    `file` may be a part of an archive or workbook (see `containers`); `rows_key` is the recipe's `data.rows`. JSON
    lines and tables are streamed, Parquet and Arrow are read in batches, and a JSON list is held in memory. A row of
    more than `max_row_bytes` (characters, where the file is read as text) is not read: it has the fault `too_long`.
    Raises UserError, naming the file, where the file cannot be read as a whole: the rows yielded until then are not all
    of it.
    """
    with _opened(file) as (stream, wrong):
        head = stream.read(SIGNATURE_BYTES)
        stream.seek(0)
        if meaning := foreign_form(head):
            raise UserError(f"{file}: is {meaning}")
        named, kind = _named_form(file), kind_of(head)
        if kind == "zip" and is_workbook(stream, str(file)):
            kind = "workbook"
        place = line_place(display_name, 1)
        if kind != "text" and kind != named:
            wrong = (*wrong, f"is {FORM_NAMES[kind]}, not what its name says, and was read as that")
        elif kind == "text" and named in BINARY_FORMS:
            if not head:
                raise UserError(f"{file}: is empty, which is not a complete file; write or download it again")
            wrong = (*wrong, f"is text, not {FORM_NAMES[named]}, and was read as that")
        found = tuple(form_finding(place, what) for what in wrong)
        match kind:
            case "parquet" | "arrow":
                read = read_parquet if kind == "parquet" else read_arrow
                yield from read(_seekable(stream), str(file), display_name, max_row_bytes, found)
            case "workbook":
                sheet = locate_part(file).part if _is_sheet(file) else ""
                yield from read_workbook(_seekable(stream), str(file), display_name, sheet, max_row_bytes, found)
            case "zip":
                if locate_part(file).part:
                    raise UserError(f"{file}: is an archive inside of another; unpack it")
                for part in list_parts(file):
                    shown = f"{display_name}/{part.relative_to(file).as_posix()}"
                    yield from read_rows(
                        part, shown, repair_encoding=repair_encoding, max_row_bytes=max_row_bytes, rows_key=rows_key
                    )
            case _:
                marked = head.startswith(codecs.BOM_UTF8)
                stream.seek(len(codecs.BOM_UTF8) if marked else 0)
                sentence = f"{place}: begins with a byte order mark"
                mark = (Finding("byte_order_mark", sentence, "repaired"),) if marked else ()
                source = OpenFile(file, display_name, stream, repair_encoding, max_row_bytes, (*mark, *found), rows_key)
                yield from _read_text(source, named)


def _read_text(source: OpenFile, named: str) -> Iterator[RawRow]:
    """Read a text file as JSON or as a table, by its beginning."""
    start = source.stream.tell()
    window = source.stream.read(WINDOW_CHARACTERS)
    source.stream.seek(start)
    begins = window.lstrip()[:1]
    if named in ("csv", "tsv"):
        if is_json_start(window):
            yield from read_json(_told(source, "is JSON, not a table"), "json")
        else:
            yield from read_table(source, "," if named == "csv" else "\t")
        return
    is_json = begins in (b"{", b"[")
    if not is_json and (separator := _table_separator(window, len(window) < WINDOW_CHARACTERS)):
        is_named = named in ("json", "jsonl")
        what = f"is a table, not {FORM_NAMES[named]}" if is_named else "is a table of text"
        yield from read_table(_told(source, what), separator)
    elif named in ("json", "jsonl"):
        yield from read_json(source, named)
    elif is_json:
        yield from read_json(_told(source, "holds JSON"), "json")
    elif begins:
        raise UserError(f"{source.file}: is a text without rows; rows may be {READABLE}")


def _told(source: OpenFile, what: str) -> OpenFile:
    finding = form_finding(line_place(source.display_name, 1), f"{what}, not what its name says, and was read as that")
    return OpenFile(
        source.file,
        source.display_name,
        source.stream,
        source.repair_encoding,
        source.max_row_bytes,
        (*source.findings, finding),
        source.rows_key,
    )


def _table_separator(window: bytes, is_whole: bool) -> str | None:
    """Return the separator of a text that is a table with a usual name, though its ending does not say so."""
    text = window_text(window)
    dialect = looks_like_table(text, KNOWN_NAMES, is_whole=is_whole)
    return dialect.separator if dialect else None


def has_rows(file: Path) -> bool:
    """Return True if a file whose ending says nothing may hold rows, by its beginning."""
    try:
        with _opened(file) as (stream, _):
            window = stream.read(WINDOW_CHARACTERS)
    except (UserError, EOFError):
        return False
    if kind_of(window) != "text":
        return True
    window = window.removeprefix(codecs.BOM_UTF8)
    begins = window.lstrip()[:1]
    return (
        is_json_start(window)
        if begins in (b"{", b"[")
        else bool(_table_separator(window, len(window) < WINDOW_CHARACTERS))
    )


@contextmanager
def _opened(file: Path) -> Generator[tuple[BinaryIO, tuple[str, ...]]]:
    """Open a file's bytes, decompressed, with what its ending says wrongly of that; raises UserError, naming it."""
    try:
        with open_bytes(file) as stream, decompressed(stream, file.name, str(file)) as (opened, wrong):
            yield opened, (wrong,) if wrong else ()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or shorten_error(error)}); fix that first") from None


def _named_form(file: Path) -> str:
    """Return the form that a file's ending says, without that of its compression; empty if it says none."""
    location = locate_part(file)
    name = (location.file if _is_sheet(file) else file).name.lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return ENDINGS.get(Path(name).suffix, "")


def _is_sheet(file: Path) -> bool:
    """Return True for the path of a sheet: a part of a file that is no archive of files."""
    location = locate_part(file)
    if not location.part:
        return False
    with location.file.open("rb") as opened:
        return is_workbook(opened, str(location.file))


def _seekable(stream: BinaryIO) -> BinaryIO:
    """Return a stream to be read at any place: what is unpacked on the way is held in memory."""
    return (
        stream
        if isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO)
        else io.BytesIO(stream.read())
    )
