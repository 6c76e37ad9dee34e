"""Keys by which a recipe sets the schema's fields: expert settings under `expert:`, and those of each source."""

import re

from thinktune.files import ROW_FILE_ENDINGS

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
_REPLAY_KEYS = {"name": "data.replay.rows", "share": "data.replay.share", "answers": "data.replay.answers"}
# A key, and no file of rows that is called data: data.jsonl, rows/data.csv.
_FILE_ENDINGS = "|".join(sorted(re.escape(ending[1:]) for ending in ROW_FILE_ENDINGS))
_DATA_KEY = re.compile(rf"(?<![\w/\\.-])data\.(?!(?:{_FILE_ENDINGS})\b)(?=[a-z])")
_DATA_KEY_BUT_REPLAYS = re.compile(_DATA_KEY.pattern + r"(?!replay\b|max_tokens\b)")
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
    return _DATA_KEY.sub(f"data.{number}.", sentence)


def of_replay(sentence: str) -> str:
    """Return a sentence about the rows of `data.replay` with their settings named as a recipe can write them.

    Place, share and answers are set there, and the most tokens with those of your own rows. Any other is set where
    `data` is a list, in which they come second.
    """
    named = re.sub(r"\bdata\.(name|share|answers)\b", lambda found: _REPLAY_KEYS[found[1]], sentence)
    sentence = _EXPERT_DATA_KEY.sub(lambda found: EXPERT_FIELDS[found[1]], named)
    listed = _DATA_KEY_BUT_REPLAYS.sub("data.1.", sentence)
    listing = " (data.1 is the replay once data is a list of your rows and of it)"
    told = named if listed == sentence else listed + listing
    return told if told.startswith("data.replay") else f"data.replay: {told}"


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
