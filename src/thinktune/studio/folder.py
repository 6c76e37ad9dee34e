"""The studio's folder, which is its whole state: recipes, files of rows and runs; nothing outside it is reached."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinktune.errors import UserError
from thinktune.files import ROW_FILE_ENDINGS
from thinktune.http import ApiError
from thinktune.run import RunFolder

RECIPE_ENDINGS = (".yaml", ".yml")
MAX_DEPTH = 4  # folders below the studio's in which recipes, rows and runs are looked for
MAX_LISTED = 1000  # recipes, and files of rows; more are no list for people


@dataclass(frozen=True, slots=True)
class StudioFolder:
    """A folder of the user's; `path` is absolute, without links."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "StudioFolder":
        """Open a folder, made if it is not there; raises UserError where something else has its name."""
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file; name the folder that holds your rows and runs")
        path.mkdir(parents=True, exist_ok=True)
        return cls(path.resolve())

    def resolve(self, name: str, *, new: bool = False) -> Path:
        """Return the path of a name below the folder, links followed.

        Raises ApiError: 400 for what leaves the folder or enters a hidden one, 404 for what is not there unless `new`.
        """
        parts = name.replace("\\", "/").split("/")
        if not name or "\0" in name or name.startswith(("/", "\\")) or Path(name).is_absolute():
            raise ApiError(400, f"{name!r} is no name in this folder; give the path from {self.path.name} on")
        if any(part.startswith(".") and part != "." for part in parts):
            raise ApiError(400, f"{name!r} leaves this folder or is hidden; name a file or a folder below it")
        try:
            found = (self.path / name).resolve()
            there = found.exists()
        except (OSError, ValueError):
            raise ApiError(400, f"{name[:200]!r} can be no file's name") from None
        if not found.is_relative_to(self.path):
            raise ApiError(400, f"{name!r} is a link out of this folder; copy what it names into the folder")
        if not there and not new:
            raise ApiError(404, f"{name} is not in this folder; it may have been moved or deleted")
        return found

    def name_of(self, path: Path) -> str:
        """Return the name of a path below the folder, with slashes, as addresses and commands have it."""
        return path.relative_to(self.path).as_posix()

    def recipes(self) -> list[str]:
        """List recipes by name: YAML files that have the keys of one."""
        return sorted(name for name, entry in self._files(RECIPE_ENDINGS) if _is_recipe(entry))

    def row_files(self) -> list[str]:
        """List files that hold rows, by name, as their endings say."""
        return sorted(name for name, _ in self._files(ROW_FILE_ENDINGS))

    def runs(self) -> list[str]:
        """List runs by name, in no order; a run's own folders are not searched."""
        return list(_runs_below(self.path, "", MAX_DEPTH))

    def find_run(self, name: str) -> Path:
        """Return a run's folder; raises ApiError (404) where it is none."""
        path = self.resolve(name)
        if not RunFolder(path).is_run:
            raise ApiError(404, f"{name} is no run's folder; start it with: thinktune train RECIPE")
        return path

    def _files(self, endings: tuple[str, ...]) -> list[tuple[str, os.DirEntry[str]]]:
        found: list[tuple[str, os.DirEntry[str]]] = []
        for name, entry in _files_below(self.path, "", MAX_DEPTH):
            if name.lower().endswith(endings):
                found.append((name, entry))
                if len(found) == MAX_LISTED:
                    break
        return found


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
    except OSError:
        return []  # removed meanwhile, or closed to this user


def _files_below(folder: str | Path, prefix: str, depth: int) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield files by name, those of a folder before those below it; runs' folders are not entered."""
    entries = _entries(folder)
    yield from ((f"{prefix}{one.name}", one) for one in entries if one.is_file())
    for one in entries:
        if depth > 1 and one.is_dir(follow_symlinks=False) and not _is_run(one):
            yield from _files_below(one.path, f"{prefix}{one.name}/", depth - 1)


def _runs_below(folder: str | Path, prefix: str, depth: int) -> Iterator[str]:
    for one in _entries(folder):
        if one.is_dir(follow_symlinks=False):
            if _is_run(one):
                yield f"{prefix}{one.name}"
            elif depth > 1:
                yield from _runs_below(one.path, f"{prefix}{one.name}/", depth - 1)


def _is_run(entry: os.DirEntry[str]) -> bool:
    return RunFolder(Path(entry.path)).is_run


def _is_recipe(entry: os.DirEntry[str]) -> bool:
    """Return True for a YAML file with the keys `model` and `data` at the margin."""
    try:
        if entry.stat().st_size > 2**20:
            return False
        text = Path(entry.path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    keys = {line.split(":", 1)[0] for line in text.splitlines() if ":" in line}
    return {"model", "data"} <= keys
