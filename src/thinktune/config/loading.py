"""Read, validate and write a recipe: one YAML file plus `key.path=value` overrides."""

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from thinktune.config.expert import answer_unknown_key, fields_at_former_place, from_fields, to_fields, without_key
from thinktune.config.recipe_keys import EXPERT_FIELDS, OTHER_SOURCES, first_source_key, other_key, recipe_key
from thinktune.config.schema import Recipe
from thinktune.config.strict_yaml import YamlDocument, YamlSyntaxError, is_text, parse_yaml, read_yaml, with_space
from thinktune.errors import UserError
from thinktune.files import describe_given_rows, expand_home
from thinktune.progress import Say, say_nothing

NUMBER_FAULTS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number, as in 8"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "a number, as in 0.5"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
}  # pydantic's names of them, and what to write
MAX_SHOWN_CHARACTERS = 100  # of an override
NAMED_SECTIONS = ("model", "data")  # which people write as the name alone
SHORT_FORMS = {"replay": "share"}  # sections for which a number may stand, and the setting that it is
_MISSPELT = re.compile(r"((?:[^\s:]+\.)?)[^\s:.]+: unknown key; did you mean ([a-z_.]+)\?")
RENAMED_KEYS = {"recompute": "activation_budget"}  # keys of older recipes and their names today


def load_recipe(path: Path, overrides: Sequence[str] = (), say: Say = say_nothing) -> Recipe:
    """Read a YAML file, apply `a.b=value` overrides, and validate the result.

    Prints a line for each setting that is written at its former place. Raises UserError with every mistake at once.
    """
    path = expand_home(path)
    if fault := describe_given_rows(path, "a recipe"):
        raise UserError(fault)
    try:
        document = read_yaml(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); name a recipe file, such as one in recipes/"
        ) from None
    recipe, tree = _read_document(document, path, overrides)
    for field in fields_at_former_place(tree):
        say(f"{path}: {field} is now {recipe_key(field)}; the old name still works")
    return recipe


def load_recipe_text(text: str, path: Path) -> Recipe:
    """Validate a text as `load_recipe` would validate the file that holds it; raises the same UserError."""
    try:
        document = parse_yaml(text)
    except YamlSyntaxError as error:
        raise UserError(f"{path}{f':{error.line}' if error.line else ''}: is not YAML ({error}); correct it") from None
    return _read_document(document, path, ())[0]


def _read_document(document: YamlDocument, path: Path, overrides: Sequence[str]) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of a document with overrides, and its tree; raises UserError with every mistake."""
    tree: Any = {} if document.value is None else document.value
    if not isinstance(tree, dict):
        if isinstance(tree, str) and (meant := with_space(tree)):
            raise UserError(f"{path}: a space is missing after a colon; write {meant[:MAX_SHOWN_CHARACTERS]}")
        raise UserError(f"{path}: holds {type(tree).__name__}, not keys and values; see the files in recipes/")
    places = {key: f"{path}:{line}" for key, line in document.lines.items()}
    mistakes = [f"{path}:{fault.line}: {fault.sentence}" for fault in document.faults]
    faulty = {fault.key for fault in document.faults}
    if tree.get("name") in (None, ""):
        tree["name"] = path.stem
    mistakes += _repeated_overrides(overrides)
    for override in overrides:
        try:
            key, value = _parse_override(override)
            tree = _with_override(tree, key, value, override)
            places = {name: place for name, place in places.items() if not _is_below(name, key)} | {
                key: _show(override)
            }
        except UserError as error:
            mistakes += error.faults
            faulty.add(override.partition("=")[0])
    recipe, faults = _validate(tree)
    mistakes += [
        f"{_place_of(fault, places, str(path))}: {fault}"
        for fault in faults
        if not any(_is_below(_key_of(fault), key) for key in faulty)
    ]
    if mistakes or recipe is None:
        raise UserError(mistakes)
    return recipe, tree


def validate_recipe(tree: dict[str, Any], place: str) -> Recipe:
    """Return the recipe that a tree of plain values describes; raise UserError with `place` and every mistake."""
    recipe, faults = _validate(tree)
    if faults or recipe is None:
        raise UserError([f"{place}: {fault}" for fault in faults])
    return recipe


def _validate(tree: dict[str, Any]) -> tuple[Recipe | None, list[str]]:
    """Return the recipe of a tree, or a sentence for each mistake, which begins with the setting's key."""
    fields, faults = to_fields(tree)
    try:
        return Recipe.model_validate(fields), faults
    except ValidationError as error:
        listed = isinstance(tree.get("data"), list)
        said = [_describe_fault(fault, listed=listed) for fault in error.errors()]
        meant = {f"{found[1]}{found[2]}" for found in filter(None, map(_MISSPELT.match, said))}
        return None, faults + [sentence for sentence in said if sentence.partition(": is missing; ")[0] not in meant]


def dump_recipe(recipe: Recipe) -> str:
    """Return YAML that `load_recipe` reads back equal, with every setting written out."""
    tree = from_fields(recipe.model_dump(mode="json"))
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def dump_values(tree: Mapping[str, Any]) -> str:
    """Return YAML of settings, each on one line, which `strict_yaml` reads back equal."""
    lines = (
        yaml.dump({key: value}, Dumper=_Dumper, allow_unicode=True, width=float("inf"), default_flow_style=True).strip()
        for key, value in tree.items()
    )
    return "".join(f"{line[1:-1]}\n" for line in lines)  # without the braces around it


class _Dumper(yaml.SafeDumper):
    """YAML dumper for `strict_yaml`: quotes texts that would be read as something else, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, None if is_text(text) else "'")


_Dumper.add_representer(str, _represent_text)  # pyright: ignore[reportUnknownMemberType]


def _key_of(sentence: str) -> str:
    """Return the key path that a mistake's sentence begins with."""
    found = re.match(r"[^\s:,]+", sentence)
    return found[0] if found else ""


def _is_below(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _place_of(sentence: str, places: Mapping[str, str], path: str) -> str:
    """Return `file:line` of the setting that a sentence is about, or of the section that lacks it; else the file."""
    key = _key_of(sentence)
    while key:
        found = places.get(key) or places.get(other_key(key) or "")
        if found:
            return found
        key = key.rpartition(".")[0]
    return path


def _show(override: str) -> str:
    return repr(override if len(override) <= MAX_SHOWN_CHARACTERS else f"{override[:MAX_SHOWN_CHARACTERS]}…")


def _repeated_overrides(overrides: Sequence[str]) -> list[str]:
    """Describe the overrides of which one would replace another without a word."""
    seen: dict[str, str] = {}
    faults: list[str] = []
    for override in overrides:
        key = override.partition("=")[0]
        same = [name for name in (key, other_key(key)) if name]
        before = next((seen[known] for known in seen for name in same if _is_below(known, name)), None)
        if before is not None:
            faults.append(f"{_show(override)}: sets the same key as {_show(before)}; keep one")
        seen[key] = override
    return faults


def _parse_override(override: str) -> tuple[str, Any]:
    """Return key path and value of `key.path=value`, read by the rules of a recipe's file."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"{_show(override)}: is not an override; write key.path=value, as in train.learning_rate=1e-5")
    try:
        document = parse_yaml(text)
    except YamlSyntaxError as error:
        raise UserError(
            f"{_show(override)}: its value is not YAML ({error}); put it in quotes, as in "
            f"'{key}=\"{text[:MAX_SHOWN_CHARACTERS]}\"'"
        ) from None
    if document.faults:
        raise UserError([f"{_show(override)}: {fault.sentence}" for fault in document.faults])
    return key, document.value


def _with_override(tree: dict[str, Any], key: str, value: Any, override: str) -> dict[str, Any]:
    """Return the tree with one setting set; an expert setting is then set at this place alone."""
    *parents, leaf = key.split(".")
    if other := other_key(key):
        tree = without_key(tree, other)
        section, _, name = other.partition(".")
        if isinstance(items := tree.get(section), list):  # of each source, as `expert:` is
            tree[section] = [without_key(item, name) if isinstance(item, dict) else item for item in items]
    branch: Any = tree
    for name in parents:
        branch = _part_of(branch, name, override)
        if not isinstance(branch, dict | list):
            raise UserError(f"{_show(override)}: {name} is a value, not a section")
    if isinstance(branch, list):
        branch[_place_in(branch, leaf, override)] = value
    else:
        branch[leaf] = value
    return tree


def _part_of(branch: Any, name: str, override: str) -> Any:
    """Return an item of a list, or a section of a tree: made where it is not there, written out where it is short."""
    if isinstance(branch, list):
        return branch[_place_in(branch, name, override)]
    held = branch.get(name)
    if held is None:
        branch[name] = {}
    elif name in SHORT_FORMS and isinstance(held, int | float) and not isinstance(held, bool):
        branch[name] = {SHORT_FORMS[name]: held}
    return branch[name]


def _place_in(items: Sequence[Any], name: str, override: str) -> int:
    """Return the place in a list that a part of a key names."""
    if name.isdecimal() and name.isascii() and int(name) < len(items):
        return int(name)
    last = len(items) - 1
    raise UserError(
        f"{_show(override)}: sets {name!r} of a list; name one of its items by number, "
        f"{f'0 to {last}' if last else '0'}, as in data.0.name=…"
    )


def _describe_fault(fault: Any, *, listed: bool) -> str:
    """Return one sentence, with place and remedy, for one of pydantic's errors; `listed` if `data` is a list."""
    key = ".".join(str(part) for part in fault["loc"] if part not in ("float", "str"))
    place = first_source_key(key) if listed else recipe_key(key)
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown key; {_suggest_key(place, str(fault['loc'][-1]))}"
    if fault["type"] == "missing":
        return f"{place}: is missing; add it to the recipe"
    if fault["type"] == "value_error":
        return f"{place}: {message}" if place else message
    if fault["input"] is None:
        return f"{place}: is empty; write a value, or leave it out"
    if fault["type"] == "string_type":
        return f"{place}: is {_spell(fault['input'])}, not text; put it in quotes"
    if fault["type"] == "string_pattern_mismatch":  # of Duration alone
        return f"{place}: is {_spell(fault['input'])}; write a time with its unit, as in 3.5h, 90m or 600s"
    if fault["type"] == "model_type" and (meant := _meant_setting(place, fault["input"])):
        return f"{place}: is {_spell(fault['input'])}; write a space after the colon, as in {meant}"
    if fault["type"] == "model_type" and place in NAMED_SECTIONS and isinstance(fault["input"], str):
        return f"{place}: is {_spell(fault['input'])}; write {place}: {{name: {_spell(fault['input'])}}}"
    if fault["type"] == "model_type":
        return f"{place}: is {_spell(fault['input'])}; write its settings below it, each with its value"
    if fault["type"] in NUMBER_FAULTS:
        return f"{place}: is {_spell(fault['input'])}; write {NUMBER_FAULTS[fault['type']]}"
    return f"{place}: {message} (it is {fault['input']!r})"


def _meant_setting(place: str, value: Any) -> str | None:
    """Return the setting that a section's text is but for a space, as in `epochs:10`; a name may hold a colon."""
    meant = with_space(value) if isinstance(value, str) else None
    if meant is None or (place in NAMED_SECTIONS and not meant.startswith("name: ")):
        return None
    return meant[:MAX_SHOWN_CHARACTERS]


def _spell(value: Any) -> str:
    """Spell a value as a recipe does, cut to a readable length."""
    return json.dumps(value, ensure_ascii=False, default=repr)[:60]


def _suggest_key(key: str, leaf: str) -> str:
    """Suggest what an unknown key means, or list the known ones; `leaf`, its last part, may have a dot itself."""
    parents = [part for part in key.removesuffix(leaf).split(".") if part]
    section: type[BaseModel] = Recipe
    for name in parents:
        if not name.isdecimal():  # the number of a source
            annotation = section.model_fields[name].annotation
            section = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
    prefix = "".join(f"{name}." for name in parents)
    keys = {name: recipe_key(prefix + name).removeprefix(prefix) for name in section.model_fields}
    keys.pop(OTHER_SOURCES, None)
    if not parents:
        keys |= {"expert": "expert"} | {name: f"expert.{name}" for name in EXPERT_FIELDS}
    if leaf not in RENAMED_KEYS and (answer := answer_unknown_key(leaf)):
        return answer
    close = [RENAMED_KEYS[leaf]] if RENAMED_KEYS.get(leaf) in keys else get_close_matches(leaf, keys, n=1)
    if close:
        return f"did you mean {keys[close[0]]}?"
    return f"known are {', '.join(name for name, shown in keys.items() if name == shown)}"
