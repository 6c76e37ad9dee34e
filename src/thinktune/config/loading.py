"""A recipe: one YAML file plus `key.path=value` overrides, checked whole before anything is loaded."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from thinktune.config.schema import Recipe
from thinktune.errors import UserError, shorten_error

FORMER_KEYS = {"recompute": "activation_budget"}  # what a key of older recipes is called now


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML file, apply `a.b=value` overrides in order, and check the result.

    Raises UserError with every mistake at once.
    """
    try:
        tree: Any = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader) or {}
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); name a recipe file, as in recipes/*.yaml"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no YAML in UTF-8: {shorten_error(error)}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds {type(tree).__name__}, not keys and values; see recipes/*.yaml")
    tree["name"] = tree.get("name") or path.stem
    for override in overrides:
        _apply_override(tree, override)
    return validate_recipe(tree, str(path))


def validate_recipe(tree: dict[str, Any], place: str) -> Recipe:
    """The recipe that a tree of plain values describes; raises UserError naming `place` and every mistake."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError([f"{place}: {_describe_fault(fault)}" for fault in error.errors()]) from None


def dump_recipe(recipe: Recipe) -> str:
    """YAML that `load_recipe` reads back equal, every knob written out."""
    tree = recipe.model_dump(mode="json")
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-5` is a number, as in YAML 1.2, and not a text, as PyYAML has it."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: a text that looks like a number is put into quotes."""


for kind in (_Loader, _Dumper):
    kind.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *parents, leaf = key.split(".")
    if not equals or not leaf:
        raise UserError(f"{override!r}: is no override; write key.path=value, as in train.learning_rate=1e-5")
    branch = tree
    for name in parents:
        branch = branch.setdefault(name, {})
        if not isinstance(branch, dict):
            raise UserError(f"{override!r}: {name} is a value, not a section")
    try:
        branch[leaf] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(
            f"{override!r}: its value is no YAML ({shorten_error(error)}); put it into quotes, as in '{key}=\"{value}\"'"
        ) from None


def _describe_fault(fault: Any) -> str:
    """One line a person can act on, for one of pydantic's faults."""
    place = ".".join(str(part) for part in fault["loc"] if part not in ("float", "str"))
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        *parents, leaf = place.split(".")
        known = _known_keys(parents)
        close = [FORMER_KEYS[leaf]] if FORMER_KEYS.get(leaf) in known else get_close_matches(leaf, known, n=1)
        return f"{place}: unknown key; " + (f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}")
    if fault["type"] == "missing":
        return f"{place}: is missing; add it to the recipe"
    if fault["type"] == "value_error":
        return f"{place}: {message}" if place else message
    return f"{place}: {message} (it is {fault['input']!r})"


def _known_keys(parents: Sequence[str]) -> list[str]:
    section: type[BaseModel] = Recipe
    for name in parents:
        annotation = section.model_fields[name].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
    return list(section.model_fields)
