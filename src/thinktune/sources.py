"""The files that a recipe's rows stand in, on which side each is, and how much they hold."""

import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinktune import find, hub
from thinktune.errors import UserError
from thinktune.knobs import Recipe

PACKED = 4  # bytes of text in a byte of a packed file, about


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of rows: its path, the name that sentences give it, and whether its rows are for evaluation alone."""

    path: Path
    shown: str
    for_validation: bool


def find_files(recipe: Recipe) -> list[RowFile]:
    """The files of a recipe's rows; raises UserError where they are not there, or stand on both sides."""
    settings = recipe.data
    folder = Path(settings.name).expanduser()
    if settings.hub is not None:
        folder = hub.locate(settings.name, settings.hub, settings.revision, "dataset", "data.name")
    paths = find.find_files(folder, settings.files, "data.name")
    own: list[Path] = []
    if isinstance(settings.validation, str):
        own = find.find_files(Path(settings.validation).expanduser(), None, "data.validation")
        both = {path.resolve() for path in paths} & {path.resolve() for path in own}
        if both:
            raise UserError(f"data.validation: {min(both)} is trained on as well; name a file of other rows")
    names = Counter(path.name for path in (*paths, *own))
    return [
        RowFile(path, path.name if names[path.name] == 1 else path.as_posix(), place >= len(paths))
        for place, path in enumerate((*paths, *own))
    ]


def expected_rows(files: Sequence[RowFile]) -> int | None:
    """How many rows the files hold, for the time left; none where only reading them tells it."""
    try:
        counts = [_expected_rows(file.path) for file in files]
    except Exception:  # whatever is wrong with a file, who reads its rows says so better
        return None
    return None if None in counts else sum(count for count in counts if count)


def text_bytes(file: RowFile) -> int:
    """About how many bytes of text a file holds: a packed one holds more than its size."""
    packed = file.path.suffix.lower() in (".gz", ".parquet")
    return file.path.stat().st_size * (PACKED if packed else 1)


def _expected_rows(path: Path) -> int | None:
    suffixes = path.name.lower()
    if suffixes.endswith(".parquet"):
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]

        return parquet.read_metadata(path).num_rows
    if suffixes.removesuffix(".gz").endswith(".json"):
        return None
    return sum(block.count(b"\n") for block in blocks(path, unpacked=True))


def blocks(path: Path, *, unpacked: bool = False) -> Iterator[bytes]:
    """A file's bytes, a mebibyte at a time, as they are on the disk or unpacked."""
    with gzip.open(path) if unpacked and path.suffix.lower() == ".gz" else path.open("rb") as file:
        while block := file.read(2**20):
            yield block
