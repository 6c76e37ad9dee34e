"""Expert settings: no first user needs them. Recipes write them under `expert:`; other sections hold and read them."""

import re
from typing import Any

# Name under `expert:` -> the schema's field. Recipes may still use the field itself, the former place.
EXPERT_FIELDS = {
    "split": "data.split",
    "split_seed": "data.seed",
    "handed_phrases": "data.handed_phrases",
    "think_tags": "data.think_tags",
    "data_license": "data.license",
    "rows_per_step": "train.rows_per_step",
    "betas": "train.betas",
    "precision": "train.precision",
    "update_in_backward": "train.update_in_backward",
    "activation_budget": "train.activation_budget",
    "offload_activations": "train.offload_activations",
    "batch_tokens": "train.batch_tokens",
    "context_parallel": "train.context_parallel",
    "log_every_steps": "train.log_every_steps",
    "bad_numbers": "train.bad_numbers",
    "full_disk": "train.full_disk",
    "deterministic": "train.deterministic",
    "sample_share": "generate.sample_share",
    "batch_rows": "generate.batch_rows",
    "evaluate_tokens": "generate.evaluate_tokens",
    "track_machine": "track.machine",
}
_EXPERT_DATA_KEY = re.compile(
    r"\bexpert\.(" + "|".join(name for name, field in EXPERT_FIELDS.items() if field.startswith("data.")) + r")\b"
)
_NAMES = {field: name for name, field in EXPERT_FIELDS.items()}


# Where a recipe's `data` is a list, the schema holds the first source as `data`, and the others here.
OTHER_SOURCES = "other_sources"


def recipe_key(field: str) -> str:
    """Return the key by which a recipe sets a field: `train.betas.1` is written `expert.betas.1`.

    A field of `other_sources.0` is one of the second source, `data.1`, which also holds its expert settings.
    """
    if field == OTHER_SOURCES:
        return "data"
    if field.startswith(f"{OTHER_SOURCES}."):
        number, dot, rest = field.removeprefix(f"{OTHER_SOURCES}.").partition(".")
        return f"data.{int(number) + 1}{dot}{rest}"
    section, _, rest = field.partition(".")
    name, dot, index = rest.partition(".")
    return f"expert.{_NAMES[f'{section}.{name}']}{dot}{index}" if f"{section}.{name}" in _NAMES else field


def first_source_key(field: str) -> str:
    """Return the key by which a recipe whose `data` is a list sets a field."""
    section, dot, rest = field.partition(".")
    return f"data.0{dot}{rest}" if section == "data" else recipe_key(field)


def of_source(sentence: str, number: int) -> str:
    """Return a sentence about one source of a list with its settings named as the list has them: `data.1.columns`."""
    sentence = _EXPERT_DATA_KEY.sub(lambda found: EXPERT_FIELDS[found[1]], sentence)
    return re.sub(r"\bdata\.(?=[a-z])", f"data.{number}.", sentence)


def of_replay(sentence: str) -> str:
    """Return a sentence about the rows of `data.replay` with their settings named as a recipe can write them.

    Only their place is one of them; any other is set where `data` is a list, in which they come second.
    """
    named = re.sub(r"\bdata\.name\b", "data.replay.rows", sentence)
    sentence = _EXPERT_DATA_KEY.sub(lambda found: EXPERT_FIELDS[found[1]], named)
    listed = re.sub(r"\bdata\.(?!replay\b)(?=[a-z])", "data.1.", sentence)
    if listed == sentence:
        return named if named.startswith("data.replay") else f"data.replay: {named}"
    return f"data.replay: {listed} (data.1 is the replay once data is a list of your rows and of it)"


def any_source_key(field: str) -> str:
    """Return the field by which the first source holds what a field of any source is."""
    if not field.startswith(f"{OTHER_SOURCES}."):
        return field
    return f"data.{field.split('.', 2)[2]}"


def other_key(key: str) -> str | None:
    """Return the second key of an expert setting: its place under `expert:` for its field, and the reverse."""
    if key in _NAMES:
        return f"expert.{_NAMES[key]}"
    return EXPERT_FIELDS.get(key.removeprefix("expert.")) if key.startswith("expert.") else None


def fields_at_former_place(tree: dict[str, Any]) -> list[str]:
    """List the expert fields that a recipe sets in the section where they were before."""
    return [field for field in _NAMES if has_key(tree, field)]


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
            faults.append(f"expert.{name}: unknown key; known are {', '.join(EXPERT_FIELDS)}")
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
