"""The studio's folder, which is its whole state: recipes, files of rows and runs; nothing outside it is reached."""

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import yaml

from thinktune.errors import UserError
from thinktune.files import MAX_RECIPE_BYTES, ROW_FILE_ENDINGS
from thinktune.http import ApiError
from thinktune.run import RunFolder
from thinktune.run.lock import lock_fault
from thinktune.studio.folder_tree import FolderTree

DOUBTS_ENDINGS = ("/doubts.json", ".doubts.json")  # what `check --doubts` writes, and what was decided of it
RECIPE_ENDINGS = (".yaml", ".yml")
MAX_LISTED = 1000  # recipes, and files of rows; more are no list for people


@dataclass(frozen=True, slots=True)
class StudioFolder:
    """A folder of the user's; `path` is absolute, without links."""

    path: Path
    _tree: FolderTree

    @property
    def shown(self) -> str:
        """The folder as a page shows it: from the user's home on, as `~/…`, where it is below that."""
        with suppress(RuntimeError):  # nobody's home
            home = Path.home().resolve()
            if home in self.path.parents and home != Path(home.anchor):
                return f"~/{self.path.relative_to(home).as_posix()}"
        return str(self.path)

    @classmethod
    def open(cls, path: Path) -> "StudioFolder":
        """Open a folder, made if it is not there; raises UserError where something else has its name, or no file in it
        can be locked, by which a studio knows what runs."""
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file; name the folder that holds your rows and runs")
        path.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError), TemporaryFile(dir=path) as file:  # what nobody may write in is only looked at
            if fault := lock_fault(file):
                raise UserError(f"{path}: its files cannot be locked ({fault}); use a folder on another disk")
        return cls(path.resolve(), FolderTree(path.resolve()))

    def resolve(self, name: str, *, new: bool = False) -> Path:
        """Return the path of a name below the folder, links followed.

        Raises ApiError: 400 for what leaves the folder or enters a hidden one, 404 for what is not there unless `new`.
        """
        parts = name.replace("\\", "/").split("/")
        if not name or "\0" in name or name.startswith(("/", "\\")) or Path(name).is_absolute():
            raise ApiError(400, f"{name!r} is not a name in this folder; give the path from {self.path.name} on")
        if any(part.startswith(".") and part != "." for part in parts):
            raise ApiError(400, f"{name!r} leaves this folder or is hidden; name a file or a folder below it")
        try:
            found = (self.path / name).resolve()
            there = found.exists()
        except (OSError, ValueError):
            raise ApiError(400, f"{name[:200]!r} cannot be the name of a file") from None
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
        found = (name for name in self._tree.files() if name.lower().endswith(RECIPE_ENDINGS))
        return sorted(islice((name for name in found if recipe_place(self.path / name)), MAX_LISTED))

    def row_files(self) -> list[str]:
        """List files that hold rows, by name, as their endings say."""
        files = (name for name in self._tree.files() if not name.endswith(DOUBTS_ENDINGS))
        return sorted(islice((name for name in files if name.lower().endswith(ROW_FILE_ENDINGS)), MAX_LISTED))

    def runs(self) -> list[str]:
        """List runs by name, in no order; a run's own folders are not searched."""
        return list(self._tree.runs())

    def run_of_recipe(self, recipe: str) -> str | None:
        """Return the name that a recipe's run has or will have; None where it is elsewhere, or the file no recipe."""
        place = recipe_place(self.path / recipe)
        return place and self._name_below(Path(place.runs_folder) / place.name)

    def rows_of_recipe(self, recipe: str) -> list[str]:
        """Return the names of the files that a recipe takes rows from, those in this folder."""
        place = recipe_place(self.path / recipe)
        found = (self._name_below(Path(rows)) for rows in (place.rows if place else ()))
        return [name for name in found if name and (self.path / name).is_file()]

    def _name_below(self, path: Path) -> str | None:
        try:
            found = (self.path / path).resolve()
        except (OSError, ValueError, RuntimeError):
            return None
        return self.name_of(found) if found.is_relative_to(self.path) and found != self.path else None

    def find_run(self, name: str) -> Path:
        """Return a run's folder; raises ApiError (404) where it is none."""
        path = self.resolve(name)
        if not RunFolder(path).is_run:
            raise ApiError(404, f"{name} is not a run folder; start a run with: thinktune train RECIPE")
        return path


@dataclass(frozen=True, slots=True)
class RecipePlace:
    """What a recipe says of places: its run's name, the folder of its runs, and its rows."""

    name: str
    runs_folder: str
    rows: tuple[str, ...]


def recipe_place(path: Path) -> RecipePlace | None:
    """Return the places that a recipe names, as `config` reads them; None for a file that is no recipe.

    The file may be half edited, so that no other key matters.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    if path.suffix.lower() not in RECIPE_ENDINGS or stat.st_size > MAX_RECIPE_BYTES:
        return None
    return _read_place(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4 * MAX_LISTED)
def _read_place(path: Path, _changed_at: int, _size: int) -> RecipePlace | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if not {"model", "data"} <= {line.split(":", 1)[0] for line in text.splitlines() if ":" in line}:
        return None
    try:
        tree: Any = yaml.safe_load(text)
        sources = [tree["data"], *(tree.get("other_sources") or [])] if isinstance(tree["data"], dict) else tree["data"]
        rows = tuple(str(source["name"]) for source in sources if isinstance(source, dict) and source.get("name"))
        return RecipePlace(str(tree.get("name") or path.stem), str(tree.get("runs_folder") or "runs"), rows)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return RecipePlace(path.stem, "runs", ())
