"""The studio's folder, which is its whole state: recipes, files of rows and runs; nothing outside it is reached."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from thinktune.errors import UserError
from thinktune.files import MAX_RECIPE_BYTES, ROW_FILE_ENDINGS
from thinktune.http import ApiError
from thinktune.run import RunFolder
from thinktune.studio.folder_tree import FolderTree

RECIPE_ENDINGS = (".yaml", ".yml")
MAX_LISTED = 1000  # recipes, and files of rows; more are no list for people


@dataclass(frozen=True, slots=True)
class StudioFolder:
    """A folder of the user's; `path` is absolute, without links."""

    path: Path
    _tree: FolderTree

    @classmethod
    def open(cls, path: Path) -> "StudioFolder":
        """Open a folder, made if it is not there; raises UserError where something else has its name."""
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file; name the folder that holds your rows and runs")
        path.mkdir(parents=True, exist_ok=True)
        return cls(path.resolve(), FolderTree(path.resolve()))

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
        found = (name for name in self._tree.files() if name.lower().endswith(RECIPE_ENDINGS))
        return sorted(islice((name for name in found if recipe_place(self.path / name)), MAX_LISTED))

    def row_files(self) -> list[str]:
        """List files that hold rows, by name, as their endings say."""
        return sorted(
            islice((name for name in self._tree.files() if name.lower().endswith(ROW_FILE_ENDINGS)), MAX_LISTED)
        )

    def runs(self) -> list[str]:
        """List runs by name, in no order; a run's own folders are not searched."""
        return list(self._tree.runs())

    def run_of_recipe(self, recipe: str) -> str | None:
        """Return the name that a recipe's run has or will have; None where it is elsewhere, or the file no recipe."""
        if (place := recipe_place(self.path / recipe)) is None:
            return None
        run = (self.path / place[1] / place[0]).resolve()
        return self.name_of(run) if run.is_relative_to(self.path) and run != self.path else None

    def find_run(self, name: str) -> Path:
        """Return a run's folder; raises ApiError (404) where it is none."""
        path = self.resolve(name)
        if not RunFolder(path).is_run:
            raise ApiError(404, f"{name} is no run's folder; start it with: thinktune train RECIPE")
        return path


def recipe_place(path: Path) -> tuple[str, str] | None:
    """Return the name of a recipe's run and the folder of its runs; None for a file that is no recipe.

    The file may be half edited, so only these keys are read, as `config` reads them.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    if path.suffix.lower() not in RECIPE_ENDINGS or stat.st_size > MAX_RECIPE_BYTES:
        return None
    return _read_place(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4 * MAX_LISTED)
def _read_place(path: Path, _changed_at: int, _size: int) -> tuple[str, str] | None:
    try:
        text = path.read_text(encoding="utf-8")
        if not {"model", "data"} <= {line.split(":", 1)[0] for line in text.splitlines() if ":" in line}:
            return None
        tree: Any = yaml.safe_load(text)
        return str(tree.get("name") or path.stem), str(tree.get("runs_folder") or "runs")
    except (yaml.YAMLError, AttributeError, RecursionError):
        return path.stem, "runs"
    except (OSError, ValueError):
        return None
