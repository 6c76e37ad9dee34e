"""Read Parquet and Arrow files in batches, so that few rows are held in memory at once."""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from thinktune.data.reading.places import line_place
from thinktune.data.reading.raw_rows import Findings, form_finding, too_long_row, unreadable_row
from thinktune.data.reading.table_header import refuse_double_names
from thinktune.data.types import RawRow
from thinktune.errors import UserError, shorten_error

BATCH_ROWS, BATCH_BYTES = 1024, 64 * 2**20  # held in memory at once


# Bytes below it, but white space, do not stand in text.
FIRST_PRINTABLE = " "


def read_parquet(
    opened: BinaryIO, file: str, display_name: str, max_row_bytes: int, found: Findings
) -> Iterator[RawRow]:
    """Read the rows of a Parquet file; raises UserError, naming `file`, where it cannot be read."""
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{file}: Parquet needs one more package; install thinktune[parquet]") from None
    with _arrow_errors_named(file, "Parquet"), parquet.ParquetFile(opened, page_checksum_verification=True) as table:
        refuse_double_names(file, table.schema_arrow.names)
        yield from _rows(table.iter_batches(_batch_rows(table.metadata)), display_name, max_row_bytes, found)


def read_arrow(opened: BinaryIO, file: str, display_name: str, max_row_bytes: int, found: Findings) -> Iterator[RawRow]:
    """Read the rows of an Arrow file or stream; raises UserError, naming `file`, where it cannot be read."""
    try:
        from pyarrow import ipc  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{file}: Arrow needs one more package; install thinktune[parquet]") from None
    is_file = opened.read(6) == b"ARROW1"
    opened.seek(0)
    with _arrow_errors_named(file, "Arrow"):
        if is_file:
            reader = ipc.open_file(opened)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            reader = ipc.open_stream(opened)
            batches = iter(reader)
        refuse_double_names(file, reader.schema.names)
        yield from _rows(_validated(batches), display_name, max_row_bytes, found)


def _validated(batches: Iterator[Any]) -> Iterator[Any]:
    """Check each batch whole: an Arrow file has no checksums, and a wrong offset would be followed anywhere."""
    for batch in batches:
        batch.validate(full=True)
        yield batch


class _arrow_errors_named:  # noqa: N801 (a context manager, used as a function)
    """Raise UserError, naming a file, for whatever the library raises: each error of its own means a bad file."""

    def __init__(self, file: str, form: str) -> None:
        self._file, self._form = file, form

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(
                f"{self._file}: cannot be read as {self._form} ({shorten_error(error)}); write or download it again"
            ) from None


def _rows(batches: Iterator[Any], display_name: str, max_row_bytes: int, found: Findings) -> Iterator[RawRow]:
    number = 0
    as_text: set[str] = set()
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            for index in range(start, min(start + BATCH_ROWS, batch.num_rows)):
                number += 1
                row, read = _row(batch.slice(index, 1), line_place(display_name, number), max_row_bytes)
                told = tuple(
                    form_finding(row.source, f"column {name} holds bytes, which were read as text")
                    for name in read
                    if name not in as_text
                )
                as_text.update(read)
                yield RawRow(row.source, row.columns, (*found, *told, *row.findings), row.size)
                found = ()


def _batch_rows(metadata: Any) -> int:
    """Return how many rows, of the largest that a group has on average, are held in memory at once."""
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    largest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, largest)))


def _row(batch: Any, place: str, max_row_bytes: int) -> tuple[RawRow, Sequence[str]]:
    """Return a row, and the columns of bytes that were read as text."""
    # A dictionary is counted whole for each of its rows, which only point into it.
    size = sum(column.nbytes for column in batch.columns if not hasattr(column, "dictionary"))
    if size > max_row_bytes:
        return too_long_row(place, size, max_row_bytes, ()), ()
    try:
        columns: dict[str, Any] = batch.to_pylist()[0]
    except Exception as error:  # text that is not UTF-8, dates beyond Python's: the library has an error for each
        why = f"contains a value that Python cannot represent ({shorten_error(error, 100)})"
        return unreadable_row(place, why, ()), ()
    read: list[str] = []
    for name, value in columns.items():
        text = _bytes_as_text(value)
        if text is not value:
            columns[name] = text
            read.append(name)
    return RawRow(place, columns, size=size), read


def _bytes_as_text(value: Any) -> Any:
    """Return bytes that are surely text as text, also inside of lists and objects; all else as it is."""
    match value:
        case bytes():
            return _decode(value)
        case list():
            inside = [_bytes_as_text(one) for one in value]
            return inside if any(new is not old for new, old in zip(inside, value, strict=True)) else value
        case dict():
            made = {name: _bytes_as_text(one) for name, one in value.items()}
            return made if any(made[name] is not value[name] for name in value) else value
        case _:
            return value


def _decode(value: bytes) -> str | bytes:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value
    return value if any(character < FIRST_PRINTABLE and character not in "\t\r\n\f" for character in text) else text
