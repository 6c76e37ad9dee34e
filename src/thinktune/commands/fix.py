"""The recipe that `check` would choose: every remedy it names is followed, and the result is written beside."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from thinktune.config import ROW_FAULTS, Recipe
from thinktune.config.loading import dump_values, validate_recipe
from thinktune.config.proposals import Change, read_changes
from thinktune.config.recipe_keys import EXPERT_FIELDS
from thinktune.config.strict_yaml import parse_yaml
from thinktune.data import Prepared
from thinktune.data.pipeline import prepare_with_faults
from thinktune.data.reading.raw_rows import WHOLE_FILE
from thinktune.errors import UserError
from thinktune.files import atomic_write_text
from thinktune.hub import locate_model
from thinktune.progress import Say
from thinktune.tokenization.model_template import read_tokenizer_with_notes
from thinktune.translation import translate

MAX_ROUNDS = 8  # of remedies, each of which may bring to light what the next one is for
COMMENT_CHARACTERS = 400
SILENT_SHARE, FEWEST_ROWS_TO_SILENCE = 0.1, 20  # of fewer rows, that share may be none
PROPOSED_SECTIONS = ("data", "model")  # of which remedies for rows and templates speak


@dataclass(slots=True)
class Fixing:
    """A recipe while it is fixed: its own values as a tree, why each of them was changed, and what is left to do."""

    tree: dict[str, Any]
    reasons: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # by `section.key`
    followed: set[str] = field(default_factory=set[str])  # reasons that are sentences whose remedy was followed
    unsure: list[Change] = field(default_factory=list[Change])  # other readings, which were not chosen
    left: tuple[str, ...] = ()
    prepared: Prepared | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe as it is now."""
        return validate_recipe(self.tree, "the fixed recipe")


def fix_recipe(path: Path, recipe: Recipe, say: Say) -> tuple[Path, Recipe, list[str]]:
    """Follow the remedies for a recipe's data and template, and write what comes out beside the recipe.

    Returns the new file and its recipe, and a line about it and about what is left to do. The file says of each choice
    why. No file is overwritten.
    """
    if recipe.other_sources:
        raise UserError(
            f"--fix: data is a list of {len(recipe.sources)} sources, and --fix works on one; write a recipe with "
            "only the source that needs fixing, and copy the result"
        )
    fixing = Fixing(own_values(recipe, path))
    if "silent_share" in recipe.data.model_fields_set:  # the user's choice, even where it is the default
        fixing.tree["data"]["silent_share"] = recipe.data.silent_share
    follow_remedies(fixing, say)
    changed = ", ".join(fixing.reasons) or "nothing needed a change"
    if fixing.prepared is not None:
        write_out_choices(fixing, fixing.prepared.summary)
    target = free_name(path, ".fixed")
    heading = f"Written by thinktune check --fix from {path.name}, which is unchanged; the reason is above each choice."
    atomic_write_text(target, format_recipe(fixing, heading))
    lines = [f"{target}: written from {path.name}: {changed}; the reason is beside each change"]
    lines += [f"{target}: is not ready yet; see below"] if fixing.left else []
    return target, fixing.recipe, lines


def take_first(changes: Sequence[Change]) -> Change:
    """Choose the first of several readings, which is the most likely."""
    return changes[0]


def follow_remedies(fixing: Fixing, say: Say, pick: Callable[[Sequence[Change]], Change] = take_first) -> None:
    """Follow remedies until the rows are ready or nothing helps; `pick` chooses among those of one sentence."""
    for _ in range(MAX_ROUNDS):
        stops = try_recipe(fixing, say)
        changes = _choices(stops, fixing.tree)
        fixing.left = tuple(stops)
        if not changes:
            break
        change = pick(changes)
        fixing.unsure += [other for other in changes if other is not change]
        for key, value in change.values.items():
            _apply(fixing.tree, key, value)
            _give_reasons(fixing, key, value, [*stops, change.sentence])


def _give_reasons(fixing: Fixing, key: str, value: Any, sentences: Sequence[str]) -> None:
    """Note why a setting was changed: for the last of `sentences`, or for what others say of the columns left out."""
    unused = [one for one in sentences if key == "data.ignore" and one.startswith(f"{key}: column ")]
    causes = [one for one in unused if any(repr(column) in one for column in value)] or [sentences[-1]]
    places = [f"{key}.{name}" for name in value] if key == "data.faults" else [key]
    for place in places:
        fixing.reasons.setdefault(place, []).extend(causes)
    fixing.followed.update(causes)


def own_values(recipe: Recipe, path: Path) -> dict[str, Any]:
    """Return the values of a recipe that differ from the defaults, as a recipe writes them."""
    whole = recipe.model_dump(mode="json", exclude_defaults=True)
    tree: dict[str, Any] = {}
    expert: dict[str, Any] = {}
    names = {key: name for name, key in EXPERT_FIELDS.items()}
    for section, values in whole.items():
        if not isinstance(values, dict):
            tree[section] = values
            continue
        for key, value in values.items():
            place = f"{section}.{key}"
            if place in names:
                expert[names[place]] = value
            else:
                tree.setdefault(section, {})[key] = value
    faults = {name: each for name, each in recipe.data.faults.items() if each != ROW_FAULTS[name].default}
    tree["data"] = {key: value for key, value in tree["data"].items() if key != "faults"}
    tree["data"] |= {"faults": faults} if faults else {}
    if tree.get("name") == path.stem:
        del tree["name"]  # a run is named after its file
    return tree | ({"expert": expert} if expert else {})


def try_recipe(fixing: Fixing, say: Say) -> list[str]:
    """Return why a run with the recipe cannot start, as far as its rows and its template decide."""
    recipe = fixing.recipe
    try:
        trusted, template = recipe.model.trust_remote_code, recipe.model.template
        tokenizer, _ = read_tokenizer_with_notes(locate_model(recipe), trust_remote_code=trusted, template=template)
        fixing.prepared = prepare_with_faults(recipe.of_source(0), tokenizer, say)  # without replay
    except UserError as error:
        fixing.prepared = None
        return list(error.faults)
    return list(fixing.prepared.stop_reasons)


def _choices(stops: Sequence[str], tree: Mapping[str, Any]) -> list[Change]:
    """Return proposed changes that change something, the best first, and beside it others of the same sentence.

    One that trains reasoning is best, else the last sentence's first: a remedy for a whole file stands after the
    sentences about its columns.
    """
    changes = [change for stop in reversed(stops) for change in read_changes(stop, PROPOSED_SECTIONS)]
    new = [change for change in changes if any(_changes(tree, key, value) for key, value in change.values.items())]
    reasoning = [
        change
        for change in new
        if "reasoning" in _as_dict(change.values.get("data.columns")) and not _has_reasoning(tree)
    ]
    best = next(iter((*reasoning, *new)), None)
    return [] if best is None else [best, *(one for one in new if one is not best and one.sentence == best.sentence)]


def _changes(tree: Mapping[str, Any], key: str, value: Any) -> bool:
    copied = {section: dict(held) if isinstance(held, dict) else held for section, held in tree.items()}
    before = repr(copied)
    _apply(copied, key, value)
    return repr(copied) != before and "…" not in repr(value)


def _apply(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.key`: columns to ignore and policies are added to those that the recipe names already."""
    section, _, leaf = key.partition(".")
    held = tree.setdefault(section, {})
    if leaf == "ignore" and isinstance(value, list):
        value = [*dict.fromkeys([*held.get(leaf, []), *value])]
    elif leaf == "faults" or (leaf == "columns" and not {"answer", "messages"} & _as_dict(value).keys()):
        value = _as_dict(held.get(leaf)) | _as_dict(value)
    held[leaf] = value


def _as_dict(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _has_reasoning(tree: Mapping[str, Any]) -> bool:
    return "reasoning" in _as_dict(_as_dict(tree.get("data")).get("columns"))


def write_out_choices(fixing: Fixing, summary: Mapping[str, Any]) -> None:
    """Write out what was chosen without a word of the recipe: the mapping, and the policies of faults that were met."""
    data = fixing.tree["data"]
    formats = {file["format"]: file["columns"] for file in summary["files"] if file["rows"]}
    if len({*formats.values()}) == 1:  # files of several layouts are told apart by what each of them has
        data["columns"] = _as_dict(parse_yaml(next(iter(formats.values()))).value)
    for text in sorted(formats):
        place = "data.columns" if "columns" in data else "data.name"
        fixing.reasons.setdefault(place, []).append(f"rows are read as {text}")
    met = {fault["fault"]: fault for fault in summary["faults"]}
    if met:
        data["faults"] = _as_dict(data.get("faults")) | {name: fault["policy"] for name, fault in met.items()}
    for name, fault in met.items():
        fixing.reasons.setdefault(f"data.faults.{name}", []).append(describe_fault(fault["meaning"], fault))
    longer = summary["over"].get(str(summary["max_tokens"]), 0)
    if longer:
        fixing.reasons.setdefault("data.max_tokens", []).append(
            f"{longer:,} replies are longer than {summary['max_tokens']:,} tokens; a larger limit needs more memory"
        )
        data.setdefault("max_tokens", summary["max_tokens"])
    keeps_switch = summary["silent_rows"] or not summary["has_thinking_switch"] or "silent_share" in data
    if not keeps_switch and summary["train_rows"] >= FEWEST_ROWS_TO_SILENCE:
        data["silent_share"] = SILENT_SHARE
        fixing.reasons["data.silent_share"] = [
            "share of the rows that is trained without reasoning: every row has reasoning, and from such rows alone a "
            "model forgets how to answer without thinking"
        ]


def describe_fault(name: str, fault: Mapping[str, Any]) -> str:
    """Describe what became of rows with a fault, as in `fragment: 2 dropped, as in rows.jsonl:3: …`."""
    example = fault["examples"][0]
    if fault["fault"] == "encoding" and WHOLE_FILE in example:
        return f"{name}: {example}"
    done = ", ".join(f"{number:,} {action}" for action, number in fault["actions"].items())
    return f"{name}: {done}, as in {example}"


def free_name(path: Path, ending: str = "") -> Path:
    """Return a name beside a recipe, with an ending to its stem, that no file has."""
    names = (
        path.with_name(f"{path.stem}{ending}{number}{path.suffix}")
        for number in chain([""], (f"-{n}" for n in count(2)))
    )
    return next(name for name in names if not name.exists())


def format_recipe(fixing: Fixing, heading: str) -> str:
    """Write the recipe below a heading, each choice below its reasons, in the terminal's language."""
    lines = [f"# {translate(heading)}"]
    lines += [translate(f"# Not ready: {_one_line(translate(sentence))}") for sentence in fixing.left]

    def comments(place: str) -> list[str]:
        return [f"# {_comment(fixing, place, reason)}" for reason in fixing.reasons.get(place, ())]

    for section, values in fixing.tree.items():
        lines.append("")
        if not isinstance(values, dict):
            lines.append(dump_values({section: values}).rstrip())
            continue
        lines.append(f"{section}:")
        for key, value in values.items():
            place = f"{section}.{key}"
            lines += [f"  {line}" for line in comments(place)]
            if key == "faults" and isinstance(value, dict):
                lines.append(f"  {key}:")
                for name, policy in value.items():
                    lines += [f"    {line}" for line in comments(f"{place}.{name}")]
                    lines.append(f"    {dump_values({name: policy}).rstrip()}")
            else:
                lines += [f"  {line}" for line in dump_values({key: value}).rstrip().split("\n")]
    return "\n".join(lines) + "\n"


def _comment(fixing: Fixing, place: str, reason: str) -> str:
    """Return a reason in the terminal's language; of a sentence whose remedy was followed, only what was wrong."""
    said = translate(reason)
    if reason not in fixing.followed:
        return _one_line(said)
    remedy = said.rfind(f"{'.'.join(place.split('.')[:2])}: ")
    cut = max(said.rfind(mark, 0, max(0, remedy)) for mark in ("; ", "；"))
    return translate(f"chosen because: {_one_line(said[:cut] if cut > 0 else said)}")


def _one_line(text: str) -> str:
    """Return a text that fits into a comment of one line, whatever a row put into it."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= COMMENT_CHARACTERS else f"{plain[:COMMENT_CHARACTERS]} …"
