"""Values inside a row's objects and lists, named by a path: `input.question`, `response.choices.0.message`."""

from collections.abc import Mapping, Sequence
from typing import Any

from thinktune.data.columns.literals import read_literal

MAX_NESTED_DEPTH = 6


MAX_NESTED_COLUMNS = 400  # an object whose keys are identifiers has as many as it has rows


_MISSING = object()


def value_at(columns: Mapping[str, Any], path: str) -> Any:
    """Return a row's value at a path, or None where it has none. A column of that very name comes first."""
    found = _find(columns, path)
    return None if found is _MISSING else found


def has_path(columns: Mapping[str, Any], path: str) -> bool:
    """Return True if a row has a value, or null, at a path."""
    return _find(columns, path) is not _MISSING


def as_container(value: Any) -> Any:
    """Return the list or object that a text spells; any other value as it is."""
    if not isinstance(value, str):
        return value
    literal = read_literal(value)
    return value if literal is None else literal


def _find(value: Any, path: str) -> Any:
    value = as_container(value)
    if isinstance(value, list):
        head, _, rest = path.partition(".")
        if not (head.isascii() and head.isdigit() and len(head) < 7 and int(head) < len(value)):
            return _MISSING
        inner = value[int(head)]
        return _find(inner, rest) if rest else inner
    if not isinstance(value, Mapping):
        return _MISSING
    if path in value:
        return value[path]
    # Names may themselves contain dots, so every beginning of the path may be a name.
    for place in (place for place, character in enumerate(path) if character == "."):
        if path[:place] in value:
            found = _find(value[path[:place]], path[place + 1 :])
            if found is not _MISSING:
                return found
    return _MISSING


def nested_columns(values: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the values of every path inside columns whose values are all objects, or all lists of one element.

    Only there is it sure that a path means the same in every row. Objects themselves are among the values.
    """
    found: dict[str, list[Any]] = {}
    level: dict[str, list[Any]] = {name: list(sample) for name, sample in values.items() if name.isprintable()}
    for _ in range(MAX_NESTED_DEPTH):
        level = {path: inner for name, sample in level.items() for path, inner in _inside(name, sample).items()}
        if not level or len(found) + len(level) > MAX_NESTED_COLUMNS:
            break
        found |= level
    return found


def _inside(name: str, sample: list[Any]) -> dict[str, list[Any]]:
    filled = [as_container(value) for value in sample if value is not None and value not in ("", [], {})]
    if filled and all(isinstance(value, list) and len(value) == 1 for value in filled):
        inner = [value[0] for value in filled]
        return {f"{name}.0": inner} if any(isinstance(value, dict) for value in inner) else {}
    if not filled or not all(isinstance(value, dict) for value in filled):
        return {}
    paths: dict[str, list[Any]] = {}
    for value in filled:
        for key, inner in value.items():
            if not str(key).isprintable():
                continue
            paths.setdefault(f"{name}.{key}", []).append(inner)
    return paths
