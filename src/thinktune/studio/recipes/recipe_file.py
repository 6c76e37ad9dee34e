"""A recipe's file as the page sees it: its text, its settings and its mistakes; written whole or not at all."""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from thinktune.config import Recipe
from thinktune.config.expert import from_fields
from thinktune.config.loading import load_recipe_text
from thinktune.config.strict_yaml import YamlSyntaxError, parse_yaml
from thinktune.errors import UserError
from thinktune.files import atomic_write_bytes, describe_given_rows
from thinktune.studio.recipes.editing import edit_recipe
from thinktune.studio.recipes.places import faults_of_places

MAX_RECIPE_BYTES = 2**20
MOST_COPIES = 1000  # beside a recipe
NEW_FILE = ""  # the digest of a file that is not there yet
_WRITING = threading.Lock()  # two tabs of one studio write one after the other


class ChangedMeanwhileError(Exception):
    """A file is another one than the page has read; it is not overwritten."""


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe's text with the digest of its bytes, every setting, those that the file itself names, and mistakes.

    `values` are None where there are mistakes.
    """

    text: str
    digest: str
    values: Mapping[str, Any] | None
    own: Mapping[str, Any]
    mistakes: tuple[str, ...]
    modified_at: float


def read_recipe_file(path: Path, name: Path) -> RecipeFile:
    """Read a recipe; `name` is its path as messages show it. Raises UserError where it is no text in UTF-8."""
    content, modified_at = _read(path, name)
    text = _decode(content, name)
    try:
        recipe, mistakes = load_recipe_text(text, name), ()
    except UserError as error:
        recipe, mistakes = None, tuple(error.faults)
    values = from_fields(recipe.model_dump(mode="json")) if recipe else None
    return RecipeFile(text, digest_of(content), values, _own_values(text), mistakes, modified_at)


def change_recipe_file(folder: Path, path: Path, name: Path, digest: str, changes: Mapping[str, Any]) -> None:
    """Set settings in a recipe's file, as `edit_recipe` does; raises as `write_recipe_file` does."""
    with _WRITING:
        content = _current(path, name, digest)
        _write(folder, path, name, content, edit_recipe(_decode(content, name), changes))


def write_recipe_file(folder: Path, path: Path, name: Path, digest: str, text: str) -> None:
    """Write a recipe's text in the place of the one with this digest; NEW_FILE makes a new file in the studio's folder.

    Raises UserError with every mistake in it, and ChangedMeanwhileError where the file is another one by now; the file
    is then as it was.
    """
    with _WRITING:
        _write(folder, path, name, _current(path, name, digest), text)


def copy_recipe_file(folder: Path, path: Path, name: Path, changes: Mapping[str, Any]) -> Path:
    """Write a copy of a recipe with other settings beside it, under the next name that is free; return its path.

    The copy's run is named by its file, so that the recipe's own run is never gone on with. Raises as
    `write_recipe_file` does.
    """
    content = _read(path, name)[0]
    text = edit_recipe(_decode(content, name), {**changes, "name": None})
    stem = re.sub(r"-[0-9]+$", "", path.stem)
    with _WRITING:
        for number in range(2, MOST_COPIES):
            other = path.with_name(f"{stem}-{number}{path.suffix}")
            after = load_recipe_text(text, name.with_name(other.name))
            if other.exists() or (folder / after.run_folder).exists():
                continue
            if faults := faults_of_places(folder, _recipe_of(content, name), after):
                raise UserError(faults)
            atomic_write_bytes(other, (text.encode(),))
            return other
    raise UserError(f"{name}: has {MOST_COPIES - 2} copies already; remove one")


def digest_of(content: bytes) -> str:
    """Hash a file's bytes."""
    return blake2b(content, digest_size=16).hexdigest()


def _read(path: Path, name: Path) -> tuple[bytes, float]:
    if fault := describe_given_rows(path, "a recipe"):
        raise UserError(fault)
    with path.open("rb") as file:
        content = file.read(MAX_RECIPE_BYTES + 1)
    if len(content) > MAX_RECIPE_BYTES:
        raise UserError(f"{name}: is larger than a recipe can be (1 MiB); name a recipe file")
    return content, path.stat().st_mtime


def _decode(content: bytes, name: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: is not YAML in UTF-8 (byte {error.start + 1}); save it as UTF-8") from None


def _current(path: Path, name: Path, digest: str) -> bytes:
    """Return a file's bytes; raises ChangedMeanwhileError unless they have this digest."""
    try:
        content = _read(path, name)[0]
    except FileNotFoundError:
        if digest == NEW_FILE:
            return b""
        raise ChangedMeanwhileError(f"{name}: no longer exists; nothing was written") from None
    if digest_of(content) != digest:
        what = "already exists" if digest == NEW_FILE else "has changed since this page read it"
        raise ChangedMeanwhileError(f"{name}: {what}; nothing was written")
    return content


def _write(folder: Path, path: Path, name: Path, before: bytes, text: str) -> None:
    content = text.encode()
    if len(content) > MAX_RECIPE_BYTES:
        raise UserError(f"{name}: is larger than a recipe can be (1 MiB); shorten it")
    after = load_recipe_text(text, name)
    if faults := faults_of_places(folder, _recipe_of(before, name), after):
        raise UserError(faults)
    if content != before:
        atomic_write_bytes(path, (content,))


def _recipe_of(content: bytes, name: Path) -> Recipe | None:
    try:
        return load_recipe_text(_decode(content, name), name)
    except UserError:
        return None


def _own_values(text: str) -> Mapping[str, Any]:
    try:
        held = parse_yaml(text).value
    except YamlSyntaxError:
        return {}
    return held if isinstance(held, dict) else {}
