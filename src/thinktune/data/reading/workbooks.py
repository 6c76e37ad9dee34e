"""Read Excel workbooks: the values of a sheet, row by row."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

from thinktune.data.reading.containers import MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO, locate_part
from thinktune.data.reading.places import line_place
from thinktune.data.reading.raw_rows import Findings, form_finding, too_long_row
from thinktune.data.reading.table_header import TableHeader, find_header
from thinktune.data.types import RawRow
from thinktune.errors import UserError, shorten_error

HEADER_RECORDS, COUNTED_RECORDS = 100, 900  # read before the names are known, and more to compare sheets


_Record = tuple[int, list[Any]]  # its row in the sheet, from 1, and its cells


def read_workbook(
    opened: BinaryIO, file: str, display_name: str, sheet: str, max_row_bytes: int, found: Findings
) -> Iterator[RawRow]:
    """Read the rows of a sheet, or of the first one with rows; raises UserError, naming `file`, where it cannot.

    Values are read, not formulas. Refused is a sheet with formulas whose values were never saved.
    """
    with closing(_open(opened, file)) as book:
        sheets = sheet_names(opened, file)
        if not sheets:
            return
        if sheet and sheet not in book.sheetnames:
            raise UserError(f"{file}: has no sheet {sheet!r}; its sheets are {', '.join(book.sheetnames)}")
        chosen = sheet or sheets[0]
        place = line_place(display_name, 1)
        # A sheet that is not among those alike was named in the recipe.
        left_out = [name for name in book.sheetnames if name not in sheets] if chosen in sheets else []
        left_out += [name for name in sheets if name != chosen] if not sheet else []
        if left_out:
            what = f"sheet {', '.join(map(repr, left_out))} of the workbook was not read, unlike {chosen!r}"
            in_archive = not sheet and bool(locate_part(Path(file)).part)
            remedy = "unpack the archive to read it" if in_archive else f"data.files: {left_out[0]} reads it instead"
            found = (*found, form_finding(place, f"{what}; {remedy}"))
        _refuse_unsaved_values(book[chosen], opened, file, chosen)
        yield from _rows(_records(book[chosen]), file, display_name, max_row_bytes, found)


def sheet_names(opened: BinaryIO, file: str, *, alike: bool = True) -> list[str]:
    """List the visible sheets with rows; if `alike`, only those with the same columns, the most rows of all."""
    groups: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    with closing(_open(opened, file)) as book:
        for sheet in book.worksheets:
            if sheet.sheet_state != "visible":
                continue
            records = _records(sheet)
            first = [cells for _, cells in _take(records, HEADER_RECORDS)]
            if len(first) > 1:
                header = find_header(first, f"{file}: sheet {sheet.title!r}")
                rows = len(first) + len(_take(records, COUNTED_RECORDS))
                groups.setdefault(tuple(sorted(header.names)) if alike else (), []).append((sheet.title, rows))
    largest = max(groups.values(), key=lambda group: sum(rows for _, rows in group), default=[])
    return [name for name, _ in largest]


def _refuse_unsaved_values(sheet: Any, opened: BinaryIO, file: str, name: str) -> None:
    """Raise UserError if one of the first rows has a formula without a value, as programs other than Excel save it."""
    first = _take(_records(sheet), HEADER_RECORDS)
    if not any(None in cells for _, cells in first):
        return
    with closing(_open(opened, file, formulas=True)) as book:
        formulas = dict(_take(_records(book[name]), HEADER_RECORDS + 1))
    values = dict(first)
    for number, cells in formulas.items():
        for place, cell in enumerate(cells):
            known = values.get(number, [])
            is_formula = (isinstance(cell, str) and cell.startswith("=")) or hasattr(cell, "ref")
            if is_formula and number <= max(values, default=0) and (place >= len(known) or known[place] is None):
                raise UserError(
                    f"{file}:{number}: column {place + 1} is a formula whose value was never saved; open the workbook "
                    "in Excel or LibreOffice and save it"
                )


def _open(opened: BinaryIO, file: str, *, formulas: bool = False) -> Any:
    try:
        openpyxl: Any = import_module("openpyxl")
    except ImportError:
        raise UserError(
            f"{file}: is an Excel workbook, which needs one more package; install thinktune[excel], or save it as CSV "
            "in UTF-8"
        ) from None
    try:
        opened.seek(0)
        with ZipFile(opened) as archive:
            for info in archive.infolist():
                if info.file_size > max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * info.compress_size):
                    raise UserError(
                        f"{file}: holds {info.filename}, which would unpack to {info.file_size / 1e9:,.1f} GB"
                    )
        opened.seek(0)
        return openpyxl.load_workbook(opened, read_only=True, data_only=not formulas)
    except UserError:
        raise
    except Exception as error:  # the library raises KeyError, ValueError, errors of XML and of zip: each is a bad file
        raise UserError(
            f"{file}: cannot be read as a workbook ({shorten_error(error)}); save it again, or as CSV in UTF-8"
        ) from None


def _records(sheet: Any) -> Iterator[_Record]:
    """Yield the rows that are not empty, as values."""
    sheet.reset_dimensions()  # which some programs write wrongly
    for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
        values = [_value(cell) for cell in cells]
        if any(value is not None and value != "" for value in values):
            yield number, values


def _value(cell: Any) -> Any:
    """Return dates and times as text, as ISO 8601 writes them; a date without a time of day as the date."""
    match cell:
        case datetime():
            return cell.isoformat(" ").removesuffix(" 00:00:00")
        case date():
            return cell.isoformat()
        case time() | timedelta():
            return str(cell)
        case float() if cell.is_integer() and abs(cell) < 2**53:
            return int(cell)
        case _:
            return cell


def _rows(records: Iterator[_Record], file: str, display_name: str, limit: int, found: Findings) -> Iterator[RawRow]:
    first = _take(records, HEADER_RECORDS)
    if not first:
        return
    width = max(len(cells) for _, cells in first)
    padded = [_pad(cells, width) for _, cells in first]
    header = find_header(padded, f"{file}:{first[0][0]}")
    place = line_place(display_name, first[0][0])
    found = (*found, *(form_finding(place, what) for what in header.told))
    for number, cells in chain(first[header.first_row :], records):
        row = _row(line_place(display_name, number), cells, header, limit)
        yield replace(row, findings=(*found, *row.findings)) if found else row
        found = ()


def _row(place: str, cells: list[Any], header: TableHeader, limit: int) -> RawRow:
    width = len(header.names)
    size = sum(len(cell) if isinstance(cell, str) else 8 for cell in cells)
    if size > limit:
        return too_long_row(place, size, limit, ())
    columns = header.to_columns(_pad(cells, width)[:width])
    more = {
        f"column_{number}": cell for number, cell in enumerate(cells, start=1) if number > width and cell is not None
    }
    return RawRow(place, columns | more, (), size)


def _pad(cells: Sequence[Any], width: int) -> list[Any]:
    return [*cells, *[None] * (width - len(cells))]


def _take(records: Iterator[_Record], count: int) -> list[_Record]:
    taken: list[_Record] = []
    for record in records:
        taken.append(record)
        if len(taken) == count:
            break
    return taken
