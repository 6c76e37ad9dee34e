"""What lies below a folder: files and runs by name, read again only where a folder has changed."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thinktune.run import RunFolder
from thinktune.run.thought_folder import ThoughtFolder

MAX_DEPTH = 4  # folders below the top in which files and runs are looked for
RACY_NANOSECONDS = 2 * 10**9  # a folder changed so shortly ago may change again without another time


@dataclass(frozen=True, slots=True)
class _Folder:
    """The names in a folder, sorted, and when it had changed last as they were read."""

    changed_at: int
    files: tuple[str, ...]
    folders: tuple[str, ...]


@dataclass(slots=True)
class FolderTree:
    """Files and runs below a folder; hidden ones and links to folders are left out, and runs are not entered.

    Ten thousand runs are listed in some milliseconds when nothing has changed.
    """

    path: Path
    _folders: dict[str, _Folder] = field(default_factory=dict[str, _Folder])
    _runs: set[str] = field(default_factory=set[str])

    def files(self) -> Iterator[str]:
        """Yield the names of files, those of a folder before those below it."""
        yield from self._walk("", MAX_DEPTH, runs=False)

    def runs(self) -> Iterator[str]:
        """Yield the names of runs."""
        yield from self._walk("", MAX_DEPTH, runs=True)

    def _walk(self, name: str, depth: int, *, runs: bool) -> Iterator[str]:
        folder = self._read(name)
        prefix = f"{name}/" if name else ""
        if name and "config.json" in folder.files:
            return  # a model's folder, whose JSON is neither rows nor a run
        if not runs:
            yield from (f"{prefix}{file}" for file in folder.files if not _is_record(file, folder.files))
        for one in folder.folders:
            inner = f"{prefix}{one}"
            if self._is_run(inner):
                if runs:
                    yield inner
            elif depth > 1:
                yield from self._walk(inner, depth - 1, runs=runs)

    def _is_run(self, name: str) -> bool:
        if name in self._runs:
            return True
        if RunFolder(self.path / name).is_run:
            self._runs.add(name)
            return True
        return False

    def _read(self, name: str) -> _Folder:
        path = os.path.join(self.path, name) if name else str(self.path)  # noqa: PTH118, ten thousand times a second
        try:
            changed_at = os.stat(path).st_mtime_ns  # noqa: PTH116
            kept = self._folders.get(name)
            if kept and kept.changed_at == changed_at and time.time_ns() - changed_at > RACY_NANOSECONDS:
                return kept
            with os.scandir(path) as entries:
                shown = [one for one in entries if not one.name.startswith(".")]
            found = _Folder(
                changed_at,
                tuple(sorted(one.name for one in shown if one.is_file())),
                tuple(sorted(one.name for one in shown if one.is_dir(follow_symlinks=False))),
            )
        except OSError:
            return _Folder(0, (), ())  # removed meanwhile, or closed to this user
        prefix = f"{name}/" if name else ""
        gone = set(kept.folders if kept else ()) - set(found.folders)
        self._runs.difference_update(f"{prefix}{one}" for one in gone)
        self._folders[name] = found
        return found


def _is_record(file: str, beside: tuple[str, ...]) -> bool:
    """Return True for a file in which `think` keeps what it asked: JSON, but no rows."""
    thought = ThoughtFolder(Path())
    if thought.account.name not in beside or thought.settings.name not in beside:
        return False
    return file in {each.name for each in (thought.account, thought.settings, thought.verdicts, thought.replies)}
