"""Expert settings: no first user needs them. Recipes write them under `expert:`; other sections hold and read them."""

from typing import Any

from thinktune.config.foreign_keys import answer_foreign_key, own_places
from thinktune.config.recipe_keys import EXPERT_FIELDS, OTHER_SOURCES, recipe_key


def answer_unknown_key(leaf: str) -> str | None:
    """Say what a key is here that another trainer has, or that stands at another place; None for any other."""
    places = " or ".join(map(recipe_key, own_places(leaf)))
    return answer_foreign_key(leaf) or (f"write it as {places}" if places else None)


def fields_at_former_place(tree: dict[str, Any]) -> list[str]:
    """List the expert fields that a recipe sets in the section where they were before."""
    return [field for field in EXPERT_FIELDS.values() if has_key(tree, field)]


def to_fields(tree: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a recipe's tree with `expert:` dissolved into the schema's fields, and a sentence for each mistake.

    Of several sources, an expert setting is that of each which does not set it itself.
    """
    expert = tree.get("expert") or {}
    fields, faults = without_key(tree, "expert"), list[str]()
    if OTHER_SOURCES in fields:
        fields, faults = without_key(fields, OTHER_SOURCES), [f"{OTHER_SOURCES}: unknown key; write data as a list"]
    if not isinstance(expert, dict):
        return fields, [*faults, f"expert: holds {expert!r}; write keys and values below it"]
    for name, value in expert.items():
        field = EXPERT_FIELDS.get(name)
        if field is None:
            answer = answer_unknown_key(str(name)) or f"known are {', '.join(EXPERT_FIELDS)}"
            faults.append(f"expert.{name}: unknown key; {answer}")
        elif has_key(tree, field):
            faults.append(f"expert.{name}, {field}: are one setting; keep the first")
        else:
            section, _, leaf = field.partition(".")
            held = fields.get(section) or {}
            if isinstance(held, dict):  # the schema refuses anything else
                fields[section] = {**held, leaf: value}
            elif isinstance(held, list):
                fields[section] = [{leaf: value, **each} if isinstance(each, dict) else each for each in held]
    if isinstance(sources := fields.get("data"), list) and sources:
        fields |= {"data": sources[0], OTHER_SOURCES: sources[1:]}
    return fields, faults


def from_fields(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the schema's values as a recipe writes them: expert settings under `expert:`, last.

    Several sources are a list, and each holds its own expert settings.
    """
    expert: dict[str, Any] = {}
    others = tree.get(OTHER_SOURCES)
    tree = without_key(tree, OTHER_SOURCES)
    if others:
        tree = {key: [value, *others] if key == "data" else value for key, value in tree.items()}
    for name, field in EXPERT_FIELDS.items():
        section, _, leaf = field.partition(".")
        if not isinstance(tree[section], dict):
            continue
        expert[name] = tree[section][leaf]
        tree = without_key(tree, field)
    return {**tree, "expert": expert}


def has_key(tree: dict[str, Any], key: str) -> bool:
    """Return True if a tree of sections sets `section.key`."""
    section, _, leaf = key.partition(".")
    held = tree.get(section)
    return isinstance(held, dict) and leaf in held


def without_key(tree: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a tree of sections without one key, `section` or `section.key`."""
    section, _, leaf = key.partition(".")
    if not leaf:
        return {name: value for name, value in tree.items() if name != section}
    if not has_key(tree, key):
        return tree
    return {**tree, section: {name: value for name, value in tree[section].items() if name != leaf}}
