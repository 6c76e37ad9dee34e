"""Find the row files of a path, folder or glob: never half of them, never two splits as one."""

import glob
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path, PurePath

from thinktune.config import Recipe
from thinktune.errors import UserError, shorten_error
from thinktune.files import expand_home
from thinktune.hub import locate, locate_model

SUFFIXES = (
    *(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"),
    *(".jsonl.gz", ".ndjson.gz", ".json.gz", ".csv.gz", ".tsv.gz"),
)


DECISIONS_SUFFIX = ".doubts.json"  # of a file beside the rows, with decisions about some of them


# Files that hubs put next to the rows; they describe the data set and contain no rows.
METADATA_FILES = {"dataset_infos.json", "dataset_info.json", "configuration.json", "config.json"}


# Names of splits in file names. Chinese has no spaces between words, so there a part of the name is enough.
SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training", "训练"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "验证"), "validation"),
    **dict.fromkeys(("test", "测试"), "test"),
}


MAX_LISTED_FILES = 8


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
    path = expand_home(Path(name))
    if path.is_dir():
        return _match_in_folder(path, pattern, field)
    is_file = path.is_file()
    if not is_file and not glob.has_magic(str(path)):
        raise UserError(
            f"{field}: {str(name)!r} is not a file or folder here; "
            "correct it, or name its hub too, as in hub: modelscope"
        )
    if pattern is not None:
        what = "file" if is_file else "glob"
        remedy = "name its folder, or leave data.files out"
        raise UserError(f"data.files: is {pattern!r}, but {str(name)!r} is already a {what}; {remedy}")
    found = [path] if is_file else _glob_row_files(None, str(path))
    if not found:
        raise UserError(f"{field}: no row file ({', '.join(SUFFIXES)}) matches {str(name)!r}; correct it")
    return found


def _match_in_folder(folder: Path, pattern: str | None, field: str) -> list[Path]:
    if pattern is not None and (PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts):
        raise UserError(
            f"data.files: {pattern!r} points outside {folder}; write a pattern inside it, such as train*.jsonl"
        )
    found = _glob_row_files(folder, "**/*" if pattern is None else f"**/{pattern}")
    if pattern is None:
        found = [file for file in found if file.name not in METADATA_FILES]
    if not found:
        wanted = "was found" if pattern is None else f"matches {pattern!r}"
        raise UserError(f"{field}: no row file ({', '.join(SUFFIXES)}) {wanted} in {folder}; correct it")
    names = {file.relative_to(folder).as_posix(): file for file in found}
    splits = {_split_of(name) for name in names}
    if pattern is None and len(splits) > 1:
        listing = ", ".join(list(names)[:MAX_LISTED_FILES]) + (", …" if len(names) > MAX_LISTED_FILES else "")
        if field == "data.name":
            remedy = f"data.files: {_quote_for_yaml(_split_pattern(folder, names, ('train', None)))}"
        else:
            remedy = (
                f"{field}: {_quote_for_yaml(str(folder / _split_pattern(folder, names, ('validation', 'test', None))))}"
            )
        raise UserError(f"{field}: {folder} contains files of several splits ({listing}); choose one, as in {remedy}")
    return found


def _glob_row_files(folder: Path | None, pattern: str) -> list[Path]:
    """Find row files by a glob, sorted, without hidden ones; a folder that links show twice is read once."""
    once: dict[tuple[Path, str], Path] = {}
    matches = glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 (Path.glob finds hidden files too)
    for match in sorted(matches):
        file = Path(match) if folder is None else folder / match
        is_rows = file.name.lower().endswith(SUFFIXES) and not file.name.endswith(DECISIONS_SUFFIX)
        if is_rows and file.is_file():
            once.setdefault((file.parent.resolve(), file.name), file)
    return list(once.values())


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
        if len(chosen) > 1 and _glob_row_files(folder, f"**/{pattern}") == [names[name] for name in chosen]:
            return pattern
    return glob.escape(chosen[0])


def _quote_for_yaml(text: str) -> str:
    """Write a text for YAML, in quotes where it needs them."""
    return text if re.fullmatch(r"[\w/][\w./*-]*", text) else json.dumps(text, ensure_ascii=False)


def refuse_missing_paths(recipe: Recipe) -> None:
    """Raise one UserError for all local paths of a recipe that do not exist, without network and torch."""
    lookups: list[Callable[[], object]] = []
    if recipe.model.hub is None:
        lookups.append(lambda: locate_model(recipe))
    if recipe.data.hub is None:
        lookups.append(lambda: match_files(recipe.data.name, recipe.data.files, "data.name"))
    if isinstance(validation := recipe.data.validation, str):
        lookups.append(lambda: match_files(validation, None, "data.validation"))
    faults: list[str] = []
    for look_up in lookups:
        try:
            look_up()
        except UserError as error:
            faults += error.faults
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
    names = Counter(path.name for path in (*paths, *validation_paths))
    return [
        RowFile(path, path.name if names[path.name] == 1 else path.as_posix(), index >= len(paths))
        for index, path in enumerate((*paths, *validation_paths))
    ]


def estimate_row_count(files: Sequence[RowFile]) -> int | None:
    """Estimate the rows of the files, for the time left; None if only reading them would show it."""
    try:
        counts = [_estimate_file_rows(file.path) for file in files]
    except Exception:  # whatever is wrong with a file, reading its rows reports it better
        return None
    return None if None in counts else sum(count for count in counts if count)


def estimate_text_bytes(file: RowFile) -> int:
    """Estimate the bytes of text in a file; a compressed one holds more than its size."""
    compressed = file.path.suffix.lower() in (".gz", ".parquet")
    return file.path.stat().st_size * (COMPRESSION_RATIO if compressed else 1)


def _estimate_file_rows(path: Path) -> int | None:
    suffixes = path.name.lower()
    if suffixes.endswith(".parquet"):
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]

        return parquet.read_metadata(path).num_rows
    if suffixes.removesuffix(".gz").endswith(".json"):
        return None
    return sum(block.count(b"\n") for block in read_blocks(path, decompress=True))


def read_blocks(path: Path, *, decompress: bool = False) -> Iterator[bytes]:
    """Read a file's bytes, a mebibyte at a time, as they are on disk or decompressed."""
    with gzip.open(path) if decompress and path.suffix.lower() == ".gz" else path.open("rb") as file:
        while block := file.read(2**20):
            yield block
