"""Find the row files of a path, folder or glob: never half of them, never two splits as one."""

import glob
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from os.path import commonprefix
from pathlib import Path, PurePath

from thinktune.config import Recipe
from thinktune.config.replay import BUNDLED_ROWS
from thinktune.data.reading.compression import COMPRESSED_SUFFIXES
from thinktune.data.reading.containers import list_parts, locate_part
from thinktune.data.reading.readers import has_rows
from thinktune.data.reading.row_names import METADATA_FILES, READABLE, SUFFIXES, choose_row_files
from thinktune.data.reading.signatures import SIGNATURE_BYTES, is_workbook, kind_of
from thinktune.data.reading.workbooks import sheet_names
from thinktune.errors import UserError, shorten_error
from thinktune.files import expand_home
from thinktune.hub import locate, locate_model

DECISIONS_SUFFIX = ".doubts.json"  # of a file beside the rows, with decisions about some of them


# Names of splits in file names. Chinese has no spaces between words, so there a part of the name is enough.
SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training", "训练"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "验证"), "validation"),
    **dict.fromkeys(("test", "测试"), "test"),
}


MAX_LISTED_FILES = 8
BUNDLED_FILE = "general.jsonl"  # of this package


def match_files(name: str | Path, pattern: str | None, field: str) -> list[Path]:
    """Find the row files of a path or glob and `data.files`, sorted.

    All files of a folder are read, unless their names show several splits. Raises UserError, naming `field`, where
    nothing is found or the choice is unclear.
    """
    try:
        return _match_files(name, pattern, field)
    except (OSError, ValueError) as error:  # no such user's home, a name too long or with a null byte
        raise UserError(f"{field}: {str(name)!r} cannot be looked up ({shorten_error(error)}); correct it") from None


def _match_files(name: str | Path, pattern: str | None, field: str) -> list[Path]:
    if name == BUNDLED_ROWS:
        return [Path(__file__).parents[1] / BUNDLED_FILE]
    path = expand_home(Path(name))
    if path.is_dir():
        return _match_in_folder(path, pattern, field)
    is_file = locate_part(path).file.is_file()
    if not is_file and not glob.has_magic(str(path)):
        raise UserError(
            f"{field}: {str(name)!r} is not a file or folder here; "
            "correct it, or name its hub too, as in hub: modelscope"
        )
    if is_file and (parts := _expand(path, alike=pattern is None)) != [path]:
        return _match_in_container(path, parts, pattern, field)
    if pattern is not None:
        what = "file" if is_file else "glob"
        remedy = "name its folder, or leave data.files out"
        raise UserError(f"data.files: is {pattern!r}, but {str(name)!r} is already a {what}; {remedy}")
    if is_file:
        return [path]
    matched = _glob_files(None, str(path))
    found = [file for file in matched if _is_row_file(file)] or [file for file in matched if has_rows(file)]
    if not found:
        raise UserError(f"{field}: no file of rows matches {str(name)!r}{_list_others(matched)}; correct it")
    return [part for file in found for part in _expand(file)]


def _match_in_folder(folder: Path, pattern: str | None, field: str) -> list[Path]:
    if pattern is not None and (PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts):
        raise UserError(
            f"data.files: {pattern!r} points outside {folder}; write a pattern inside it, such as train*.jsonl"
        )
    everything = {file.relative_to(folder).as_posix(): file for file in _glob_files(folder, "**/*")}
    chosen = choose_row_files(list(everything), lambda name: everything[name].read_bytes(), str(folder))
    found = [everything[name] for name in chosen]
    if pattern is not None:
        matched = _glob_files(folder, f"**/{pattern}")
        # What describes a data set, or is left beside one, is only read where nothing else is meant.
        found = [file for file in matched if file in found] or [file for file in matched if _is_row_file(file)]
    if not found:
        others = list(everything.values()) if pattern is None else _glob_files(folder, f"**/{pattern}")
        found = [file for file in others if file.name not in METADATA_FILES and has_rows(file)]
    parts = {part.relative_to(folder).as_posix(): part for file in found for part in _expand(file)}
    if not parts and pattern is not None:  # the pattern may name what is inside of an archive or workbook
        inside = [part for file in everything.values() for part in _expand(file, alike=False)]
        parts = {part.relative_to(folder).as_posix(): part for part in inside if _fits(part, folder, pattern)}
    if not parts:
        wanted = "is there" if pattern is None else f"matches {pattern!r}"
        raise UserError(f"{field}: no file of rows {wanted} in {folder}{_list_others(everything.values())}; correct it")
    if pattern is None:
        _refuse_several_splits(folder, parts, field)
    return list(parts.values())


def _match_in_container(file: Path, parts: list[Path], pattern: str | None, field: str) -> list[Path]:
    """Choose among the files of a zip archive, or the sheets of a workbook, as among those of a folder."""
    names = {part.relative_to(file).as_posix(): part for part in parts}
    if pattern is None:
        _refuse_several_splits(file, names, field)
        return parts
    found = [part for part in parts if _fits(part, file, pattern)]
    if not found:
        raise UserError(
            f"data.files: {pattern!r} matches nothing in {file}, which holds {', '.join(names)}; correct it"
        )
    return found


def _fits(part: Path, folder: Path, pattern: str) -> bool:
    """Return True if a pattern names a part, from its end or as a whole, as it does in a folder."""
    name = part.relative_to(folder).as_posix()
    ends = [name[start:] for start in (0, *(place + 1 for place, letter in enumerate(name) if letter == "/"))]
    return any(fnmatchcase(end, pattern) for end in ends)


def _refuse_several_splits(folder: Path, names: dict[str, Path], field: str) -> None:
    splits = {_split_of(name) for name in names}
    if len(splits) < 2:
        return
    listing = ", ".join(list(names)[:MAX_LISTED_FILES]) + (", …" if len(names) > MAX_LISTED_FILES else "")
    if field == "data.name":
        remedy = f"data.files: {_quote_for_yaml(_split_pattern(folder, names, ('train', None)))}"
    else:
        remedy = (
            f"{field}: {_quote_for_yaml(str(folder / _split_pattern(folder, names, ('validation', 'test', None))))}"
        )
    raise UserError(f"{field}: {folder} contains files of several splits ({listing}); choose one, as in {remedy}")


def _glob_files(folder: Path | None, pattern: str) -> list[Path]:
    """Find files by a glob, sorted, without hidden ones; a folder that links show twice is read once."""
    once: dict[tuple[Path, str], Path] = {}
    matches = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 (Path.glob finds hidden files too)
    for match in sorted(matches):
        file = Path(match) if folder is None else folder / match
        if file.is_file() and not file.name.endswith(DECISIONS_SUFFIX):
            once.setdefault((file.parent.resolve(), file.name), file)
    return list(once.values())


def _is_row_file(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)


def _is_container(file: Path) -> bool:
    """Return True for a zip archive or workbook, whatever its name says."""
    with file.open("rb") as opened:
        return kind_of(opened.read(SIGNATURE_BYTES)) == "zip"


def _expand(file: Path, *, alike: bool = True) -> list[Path]:
    """Return the files of rows in an archive, or a workbook's sheets if there are several, as paths.

    Any other file is returned as it is. Of a workbook's sheets, only those with the same columns are, if `alike`.
    """
    location = locate_part(file)
    if location.part or not _is_container(file):
        return [file]
    with file.open("rb") as opened:
        if is_workbook(opened, str(file)):
            sheets = sheet_names(opened, str(file), alike=alike)
            return [file / sheet for sheet in sheets] if len(sheets) > 1 else [file]
    return list_parts(file)


def _list_others(files: Iterable[Path]) -> str:
    """List what is there in place of rows, for a sentence."""
    names = [file.name for file in files]
    if not names:
        return ""
    listing = ", ".join(names[:MAX_LISTED_FILES]) + (", …" if len(names) > MAX_LISTED_FILES else "")
    return f", only {listing} (rows may be {READABLE})"


def _split_of(name: str) -> str | None:
    """Return the split that a whole word of a file's or its folders' names names, or None."""
    words = set(re.findall("[a-z]+", name.lower()))
    return next((SPLIT_ALIASES[word] for word in SPLIT_ALIASES if word in (words if word.isascii() else name)), None)


def _split_pattern(folder: Path, names: dict[str, Path], wanted: tuple[str | None, ...]) -> str:
    """Make a pattern for exactly the files of one split, the first wanted one that exists."""
    present = {_split_of(name) for name in names}
    split = next(split for split in (*wanted, *present) if split in present)
    chosen = [name for name in names if _split_of(name) == split]
    beginning = glob.escape(commonprefix(chosen))  # noqa: RUF071 (letters are compared, not folders)
    for pattern in (f"{beginning}*", f"*{split}*"):
        if len(chosen) > 1 and _matching(folder, names, pattern) == [names[name] for name in chosen]:
            return pattern
    return glob.escape(chosen[0])


def _matching(folder: Path, names: dict[str, Path], pattern: str) -> list[Path]:
    """Return what a pattern chooses in a folder, or among the parts of an archive or workbook."""
    if folder.is_dir() and all(locate_part(path).part == "" for path in names.values()):
        return [file for file in _glob_files(folder, f"**/{pattern}") if file in names.values()]
    return [path for path in names.values() if _fits(path, folder, pattern)]


def _quote_for_yaml(text: str) -> str:
    """Write a text for YAML, in quotes where it needs them."""
    return text if re.fullmatch(r"[\w/][\w./*-]*", text) else json.dumps(text, ensure_ascii=False)


def refuse_missing_paths(recipe: Recipe) -> None:
    """Raise one UserError for all local paths of a recipe that do not exist, without network and torch."""
    lookups: list[tuple[Callable[[], object], int | None]] = []  # with the number of a listed source
    if recipe.model.hub is None:
        lookups.append((lambda: locate_model(recipe), None))
    for number, source in enumerate(recipe.sources):
        listed = number
        if source.hub is None:
            lookups.append((partial(match_files, source.name, source.files, "data.name"), listed))
        if isinstance(source.validation, str):
            lookups.append((partial(match_files, source.validation, None, "data.validation"), listed))
    faults: list[str] = []
    for look_up, listed in lookups:
        try:
            look_up()
        except UserError as error:
            faults += error.faults if listed is None else [recipe.in_source(fault, listed) for fault in error.faults]
    if faults:
        raise UserError(faults)


COMPRESSION_RATIO = 4  # bytes of text in a byte of a compressed file, roughly


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows: its path, its name in messages, and whether its rows are only for validation."""

    path: Path
    display_name: str
    for_validation: bool


def find_files(recipe: Recipe) -> list[RowFile]:
    """Find the files of a recipe's rows; raises UserError if they do not exist, or are on both sides of the split."""
    settings = recipe.data
    folder = settings.name
    if settings.hub is not None:
        folder = locate(settings.name, settings.hub, settings.revision, "dataset", "data.name")
    paths = match_files(folder, settings.files, "data.name")
    validation_paths: list[Path] = []
    if isinstance(settings.validation, str):
        validation_paths = match_files(settings.validation, None, "data.validation")
        both = {path.resolve() for path in paths} & {path.resolve() for path in validation_paths}
        if both:
            raise UserError(f"data.validation: {min(both)} is also trained on; name a file of other rows")
    everything = (*paths, *validation_paths)
    names = Counter(map(_short_name, everything))
    return [
        RowFile(path, _short_name(path) if names[_short_name(path)] == 1 else path.as_posix(), index >= len(paths))
        for index, path in enumerate(everything)
    ]


def _short_name(path: Path) -> str:
    """Return a file's name without its folders; of a part, with the archive's name before it."""
    location = locate_part(path)
    return f"{location.file.name}/{location.part}" if location.part else path.name


def estimate_row_count(files: Sequence[RowFile]) -> int | None:
    """Estimate the rows of the files, for the time left; None if only reading them would show it."""
    try:
        counts = [_estimate_file_rows(file.path) for file in files]
    except Exception:  # whatever is wrong with a file, reading its rows reports it better
        return None
    return None if None in counts else sum(count for count in counts if count)


def estimate_text_bytes(file: RowFile) -> int:
    """Estimate the bytes of text in a file; a compressed one holds more than its size."""
    location = locate_part(file.path)
    compressed = location.part or file.path.suffix.lower() in (*COMPRESSED_SUFFIXES, ".parquet", ".xlsx", ".zip")
    return location.file.stat().st_size * (COMPRESSION_RATIO if compressed else 1)


def _estimate_file_rows(path: Path) -> int | None:
    suffixes = path.name.lower()
    if suffixes.endswith(".parquet"):
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]

        return parquet.read_metadata(path).num_rows
    if locate_part(path).part or not suffixes.removesuffix(".gz").endswith((".jsonl", ".ndjson", ".csv", ".tsv")):
        return None
    return sum(block.count(b"\n") for block in read_blocks(path, decompress=True))


def read_blocks(path: Path, *, decompress: bool = False) -> Iterator[bytes]:
    """Read a file's bytes, a mebibyte at a time, as they are on disk or decompressed; of a part, its archive's."""
    path = locate_part(path).file
    with gzip.open(path) if decompress and path.suffix.lower() == ".gz" else path.open("rb") as file:
        while block := file.read(2**20):
            yield block
