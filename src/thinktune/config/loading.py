"""Read, validate and write a recipe: one YAML file plus `key.path=value` overrides."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from thinktune.config.expert import (
    EXPERT_FIELDS,
    fields_at_former_place,
    from_fields,
    other_key,
    recipe_key,
    to_fields,
    without_key,
)
from thinktune.config.schema import Recipe
from thinktune.errors import UserError, shorten_error
from thinktune.progress import Say, say_nothing

RENAMED_KEYS = {"recompute": "activation_budget"}  # keys of older recipes and their names today


def load_recipe(path: Path, overrides: Sequence[str] = (), say: Say = say_nothing) -> Recipe:
    """Read a YAML file, apply `a.b=value` overrides in order, and validate the result.

    Prints a line for each setting that is written at its former place. Raises UserError with every mistake at once.
    """
    try:
        tree: Any = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader) or {}
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); name a recipe file, such as one in recipes/"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not YAML in UTF-8: {shorten_error(error)}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds {type(tree).__name__}, not keys and values; see the files in recipes/")
    tree["name"] = tree.get("name") or path.stem
    for override in overrides:
        tree = _with_override(tree, override)
    recipe = validate_recipe(tree, str(path))
    for field in fields_at_former_place(tree):
        say(f"{path}: {field} is now {recipe_key(field)}; the former place is still read")
    return recipe


def validate_recipe(tree: dict[str, Any], place: str) -> Recipe:
    """Return the recipe that a tree of plain values describes; raise UserError with `place` and every mistake."""
    fields, faults = to_fields(tree)
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        faults += [_describe_fault(fault) for fault in error.errors()]
        raise UserError([f"{place}: {fault}" for fault in faults]) from None
    if faults:
        raise UserError([f"{place}: {fault}" for fault in faults])
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return YAML that `load_recipe` reads back equal, with every setting written out."""
    tree = from_fields(recipe.model_dump(mode="json"))
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """YAML loader that reads `1e-5` as a number, as YAML 1.2 does and PyYAML does not."""


class _Dumper(yaml.SafeDumper):
    """YAML dumper for `_Loader`: quotes texts that look like numbers."""


for kind in (_Loader, _Dumper):
    kind.add_implicit_resolver(  # pyright: ignore[reportUnknownMemberType]
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _with_override(tree: dict[str, Any], override: str) -> dict[str, Any]:
    """Return the tree with one `key.path=value` set; an expert setting is then set at this place alone."""
    key, equals, text = override.partition("=")
    *parents, leaf = key.split(".")
    if not equals or not leaf:
        raise UserError(f"{override!r}: is not an override; write key.path=value, as in train.learning_rate=1e-5")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(
            f"{override!r}: its value is not YAML ({shorten_error(error)}); put it in quotes, as in '{key}=\"{text}\"'"
        ) from None
    if other := other_key(key):
        tree = without_key(tree, other)
    branch = tree
    for name in parents:
        if branch.get(name) is None:
            branch[name] = {}
        branch = branch[name]
        if not isinstance(branch, dict):
            raise UserError(f"{override!r}: {name} is a value, not a section")
    branch[leaf] = value
    return tree


def _describe_fault(fault: Any) -> str:
    """Return one sentence, with place and remedy, for one of pydantic's errors."""
    place = recipe_key(".".join(str(part) for part in fault["loc"] if part not in ("float", "str")))
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown key; {_suggest_key(place)}"
    if fault["type"] == "missing":
        return f"{place}: is missing; add it to the recipe"
    if fault["type"] == "value_error":
        return f"{place}: {message}" if place else message
    return f"{place}: {message} (it is {fault['input']!r})"


def _suggest_key(key: str) -> str:
    *parents, leaf = key.split(".")
    section: type[BaseModel] = Recipe
    for name in parents:
        annotation = section.model_fields[name].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
    prefix = "".join(f"{name}." for name in parents)
    keys = {name: recipe_key(prefix + name).removeprefix(prefix) for name in section.model_fields}
    if not parents:
        keys |= {"expert": "expert"} | {name: f"expert.{name}" for name in EXPERT_FIELDS}
    close = [RENAMED_KEYS[leaf]] if RENAMED_KEYS.get(leaf) in keys else get_close_matches(leaf, keys, n=1)
    if close:
        return f"did you mean {keys[close[0]]}?"
    return f"known are {', '.join(name for name, shown in keys.items() if name == shown)}"
