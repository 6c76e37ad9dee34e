"""Find how a table of text is written: its separator, its quotes, and a line that names the separator."""

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

WINDOW_CHARACTERS = 2**18  # of the file's beginning


MAX_RECORDS = 100  # of them, which are compared


SEPARATORS = {
    ",": "commas",
    ";": ";",
    "\t": "tabs",
    "|": "|",
    "\x01": "the character U+0001",
    "\x1f": "the character U+001F",
}


# Excel writes it for itself; it is no row.
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[,;\t|]*\r?\n', re.IGNORECASE)


_BACKSLASH = re.compile(r"\\[\\\"]")


MIN_EVEN_SHARE = 0.9  # of the records that have as many columns as the names


@dataclass(frozen=True, slots=True)
class TableDialect:
    """How a table is written. `escaped_quotes`: a quote inside of a field is written \\" and not doubled."""

    separator: str
    quote: str = '"'
    escaped_quotes: bool = False
    space_after: bool = False
    names_separator: bool = False  # in a first line of its own

    def reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Return a reader of the csv module, which raises csv.Error where the text is written otherwise."""
        quoting = csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE
        return csv.reader(
            lines,
            delimiter=self.separator,
            quotechar=self.quote or None,
            quoting=quoting,
            skipinitialspace=self.space_after,
            strict=True,
        )

    def plain_quotes(self, piece: str) -> str:
        """Write the quotes inside of fields as the csv module reads them."""
        return (
            _BACKSLASH.sub(lambda found: '""' if found[0] == '\\"' else found[0], piece)
            if self.escaped_quotes
            else piece
        )

    def describe(self, usual: str) -> Iterator[str]:
        """Yield what is unlike a table with the separator that the file's ending says."""
        if self.separator != usual:
            named = SEPARATORS.get(self.separator, repr(self.separator))
            yield f"its columns are separated by {named}, and were read that way"
        if self.names_separator:
            yield "its first line names the separator (sep=), and was skipped"
        if self.quote == "'":
            yield "its texts are in single quotes, and were read that way"
        if not self.quote:
            yield "its quotes belong to the texts, and were read that way"
        if self.escaped_quotes:
            yield 'its quotes inside texts are written \\", and were read that way'


@dataclass(frozen=True, slots=True)
class _Measured:
    """Records that a dialect reads: the columns of the names, and the share of records with as many."""

    dialect: TableDialect
    columns: int
    even_share: float
    is_valid: bool
    records: int
    first: tuple[str, ...] = ()
    has_title: bool = False

    @property
    def fits(self) -> bool:
        return self.is_valid and self.columns > 1 and self.even_share >= MIN_EVEN_SHARE

    @property
    def rank(self) -> tuple[bool, float]:
        """Order dialects that fit: the first record should be the names, and all others as long."""
        return not self.has_title, self.even_share


def find_dialect(window: str, usual: str, *, is_whole: bool) -> TableDialect:
    """Find how a table is written by its first characters; `usual` is the separator that its ending says.

    `is_whole`: the window is the whole file. Else its last record may be cut off.
    """
    if named := _SEPARATOR_LINE.match(window):
        separator = named[1]
        window = window[named.end() :]
        fitting = _first_fitting(window, [separator], is_whole) or TableDialect(separator)
        return TableDialect(separator, fitting.quote, fitting.escaped_quotes, fitting.space_after, names_separator=True)
    standard = _measure(window, TableDialect(usual), is_whole)
    if standard.fits and not standard.has_title:
        return standard.dialect
    others = [separator for separator in SEPARATORS if separator != usual]
    # What is a title to one separator may be the names to another.
    order = [*others, usual] if standard.columns < 2 or standard.has_title else [usual, *others]
    return _first_fitting(window, order, is_whole) or standard.dialect


def looks_like_table(window: str, known_names: Collection[str], *, is_whole: bool) -> TableDialect | None:
    """Find the dialect of a text that its ending calls no table; None if it has no usual name of a column."""
    dialect = find_dialect(window, ",", is_whole=is_whole)
    start = _SEPARATOR_LINE.match(window)
    measured = _measure(window[start.end() if start else 0 :], dialect, is_whole)
    named = any(name.strip().casefold() in known_names for name in measured.first)
    return dialect if measured.fits and measured.records > 1 and named else None


def _first_fitting(window: str, separators: Sequence[str], is_whole: bool) -> TableDialect | None:
    best: _Measured | None = None
    for separator in separators:
        if separator not in window:
            continue
        for dialect in _dialects(window, separator):
            measured = _measure(window, dialect, is_whole)
            if measured.fits and (best is None or measured.rank > best.rank):
                best = measured
            if measured.fits:
                break
    return best.dialect if best else None


def _dialects(window: str, separator: str) -> Iterator[TableDialect]:
    """Yield the ways of quoting to try with a separator."""
    yield TableDialect(separator)
    if '\\"' in window:
        yield TableDialect(separator, escaped_quotes=True)
    if f'{separator} "' in window:
        yield TableDialect(separator, space_after=True)
    if window.lstrip().startswith("'"):
        yield TableDialect(separator, quote="'")
    if separator != "," and '"' in window:
        yield TableDialect(separator, quote="")


def _measure(window: str, dialect: TableDialect, is_whole: bool) -> _Measured:
    """Read the first records with a dialect."""
    records: list[list[str]] = []
    is_valid = True
    lines = (dialect.plain_quotes(line) for line in window.splitlines(keepends=True))
    try:
        for cells in dialect.reader(lines):
            if any(cell.strip() for cell in cells):
                records.append(cells)
            if len(records) == MAX_RECORDS:
                break
    except csv.Error:
        is_valid = is_whole is False and len(records) > 1 and _is_cut_only(window, dialect)
    if not is_whole and len(records) < MAX_RECORDS:
        records = records[:-1]
    if not records:
        return _Measured(dialect, 0, 0.0, is_valid, 0)
    usual = Counter(map(len, records)).most_common(1)[0][0]
    start = (
        next((place for place, cells in enumerate(records[:6]) if len(cells) == usual), 0)
        if len(records[0]) == 1
        else 0
    )
    columns, body = len(records[start]), records[start:]
    even = sum(len(cells) == columns or (len(cells) > columns and not any(cells[columns:])) for cells in body)
    quoted = dialect.quote == '"' and not dialect.space_after
    if quoted and any(cell.startswith("'") and cell.endswith("'") for cell in records[start][:1]):
        is_valid = False  # the names are in single quotes
    return _Measured(dialect, columns, even / len(body), is_valid, len(body), tuple(body[0]), start > 0)


def _is_cut_only(window: str, dialect: TableDialect) -> bool:
    """Return True if a table is only invalid since its window ends inside of a quoted field."""
    if not dialect.quote:
        return False
    try:
        for _ in dialect.reader(
            dialect.plain_quotes(line) for line in f"{window}{dialect.quote}".splitlines(keepends=True)
        ):
            pass
    except csv.Error:
        return False
    return True
