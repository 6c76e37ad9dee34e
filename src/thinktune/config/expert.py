"""Expert settings: no first user needs them. Recipes write them under `expert:`; other sections hold and read them."""

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
_NAMES = {field: name for name, field in EXPERT_FIELDS.items()}


def recipe_key(field: str) -> str:
    """Return the key by which a recipe sets a field: `train.betas.1` is written `expert.betas.1`."""
    section, _, rest = field.partition(".")
    name, dot, index = rest.partition(".")
    return f"expert.{_NAMES[f'{section}.{name}']}{dot}{index}" if f"{section}.{name}" in _NAMES else field


def other_key(key: str) -> str | None:
    """Return the second key of an expert setting: its place under `expert:` for its field, and the reverse."""
    if key in _NAMES:
        return f"expert.{_NAMES[key]}"
    return EXPERT_FIELDS.get(key.removeprefix("expert.")) if key.startswith("expert.") else None


def fields_at_former_place(tree: dict[str, Any]) -> list[str]:
    """List the expert fields that a recipe sets in the section where they were before."""
    return [field for field in _NAMES if has_key(tree, field)]


def to_fields(tree: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a recipe's tree with `expert:` dissolved into the schema's fields, and a sentence for each mistake."""
    expert = tree.get("expert") or {}
    if not isinstance(expert, dict):
        return without_key(tree, "expert"), [f"expert: holds {expert!r}; write keys and values below it"]
    fields, faults = without_key(tree, "expert"), list[str]()
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
    return fields, faults


def from_fields(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the schema's values as a recipe writes them: expert settings under `expert:`, last."""
    expert: dict[str, Any] = {}
    for name, field in EXPERT_FIELDS.items():
        section, _, leaf = field.partition(".")
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
