"""Facts of a model card: what a run's own records and a model's own files say, and no figure besides."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml

from thinktune.checkpoint import find_checkpoint
from thinktune.checkpoint.store import TRAINER_STATE_FILE, average_weight
from thinktune.config import Recipe, load_recipe
from thinktune.config.expert import OTHER_SOURCES, any_source_key, first_source_key, recipe_key
from thinktune.config.loading import validate_recipe
from thinktune.errors import UserError
from thinktune.eval.averaging.curve import Curve, read_curve
from thinktune.eval.completion_store import model_fingerprint
from thinktune.files import read_json
from thinktune.hub.card_metadata import read_license, repository_name
from thinktune.report.evaluation_section import read_reports
from thinktune.report.trained_rows import count_trained
from thinktune.run import Diagnosis, Record, RunFolder, diagnose_run, read_metrics
from thinktune.run.folder import find_run
from thinktune.run.reading import AnyObject, read_environment, read_object, refuse_damage
from thinktune.run.resume import flatten_settings

Part = TypeVar("Part")


# Settings that say where things are on the machine that trained, whom it reports to, and how it is served; and those
# whose place is elsewhere on the card.
_NOT_ON_CARD = ("name", "runs_folder", "plan.", "track.", "serve.", "data.license", "data.system")


_PATHS = ("model.name", "model.template", "data.name", "data.validation", "data.replay.rows")


_SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


MIN_LANGUAGE_SHARE = 0.05  # of the rows looked at; rarer languages are not said to be the model's


@dataclass(slots=True)
class CardFacts:
    """Facts of a model: of its folder, and of the run that made it, where there is one.

    What a run has not recorded is empty or None. `damages` has a sentence for each file that could not be used.
    """

    name: str
    folder: Path
    license: dict[str, str] = field(default_factory=dict[str, str])  # as `read_license` returns it
    config: Record = field(default_factory=dict[str, Any])
    sampling: Record = field(default_factory=dict[str, Any])  # of generation_config.json; greedy if empty
    weights: tuple[str, ...] = ()  # names of GGUF files
    step: int | None = None  # of the run, whose weights these are
    weight: float = 1.0  # of those weights in their average with the base's
    curve: Curve | None = None  # by which that weight was chosen
    run: str | None = None
    recipe: Recipe | None = None
    environment: Record = field(default_factory=dict[str, Any])
    data: Record = field(default_factory=dict[str, Any])
    trained: Record | None = None  # sums up to `step`: tokens, learned_tokens, seconds, epoch, memory_gib
    diagnosis: Diagnosis | None = None
    evaluations: dict[str, Record] = field(default_factory=dict[str, Record])  # by mode: thinking, silent
    outdated_evaluation: bool = False  # there is one, of other weights than these
    damages: list[str] = field(default_factory=list[str])

    @property
    def base_repository(self) -> str | None:
        """The base's `owner/name` on a hub, where it is known."""
        return repository_name(self.recipe.model.name, self.recipe.model.hub) if self.recipe else None

    @property
    def base_name(self) -> str:
        """The base's name for people, without a folder of the machine that trained."""
        return self.base_repository or (_last_name(self.recipe.model.name) if self.recipe else "")

    @property
    def dtype(self) -> str | None:
        """The dtype of the weights, where they are as training wrote them."""
        plain = self.config and not self.weights and "quantization_config" not in self.config
        return self.environment.get("model_dtype") if plain else None

    @property
    def longest_row_tokens(self) -> int | None:
        """Tokens of the longest row that was trained or held out: longer ones were measured, but left out."""
        measured = (self.data.get("lengths") or {}).get("whole")
        return min(int(measured["max"]), self.recipe.max_tokens) if measured and self.recipe else None

    @property
    def languages(self) -> list[str]:
        """Languages of the training rows by ISO 639-1 code, the commonest first."""
        counts: Mapping[str, int] = self.data.get("languages") or {}
        total = sum(counts.values())
        return [name for name, count in counts.items() if name and count >= MIN_LANGUAGE_SHARE * total]

    @property
    def think_tags(self) -> tuple[str, str] | None:
        """What opens and closes the reasoning of a reply."""
        found = self.data.get("think_tags")
        return (str(found[0]), str(found[1])) if isinstance(found, list) and len(found) == 2 else None


def read_facts(folder: Path, run: RunFolder | None, name: str, source: Path | None = None) -> CardFacts:
    """Read the facts of a model folder; of its run's evaluations those that are of these weights.

    `source` is the folder that an export was made from, where the model's small files are. A damaged record of the run
    costs its part of the card, and a sentence in `damages`.
    """
    weights = source
    source = source or folder
    facts = CardFacts(
        name,
        folder,
        license=read_license(source),
        config=_read_plain(folder / "config.json"),
        sampling=_read_sampling(source / "generation_config.json"),
        weights=tuple(sorted(path.name for path in folder.glob("*.gguf"))),
    )
    if run is None:
        return facts

    def keep(read: Callable[[], Part], otherwise: Part) -> Part:
        try:
            return read()
        except UserError as error:
            facts.damages.extend(error.faults)
            return otherwise

    facts.run = run.path.resolve().name
    state = _read_plain(source / TRAINER_STATE_FILE) or _read_plain(run.final / TRAINER_STATE_FILE)
    facts.step = state["step"] if isinstance(state.get("step"), int) else None
    facts.weight = average_weight(source if (source / TRAINER_STATE_FILE).is_file() else run.final)
    facts.recipe = keep(lambda: load_recipe(run.recipe), None)
    facts.environment = keep(lambda: read_environment(run.path), {})
    facts.data = keep(lambda: _read_data(run.data_summary), {})
    metrics = keep(lambda: read_metrics(run.path), [])
    facts.trained = _sum_training(metrics, facts.step)
    facts.diagnosis = keep(lambda: diagnose_run(run.path), None) if metrics else None
    recorded = {key: facts.environment.get(f"model_{key}") for key in ("license", "license_name", "license_link")}
    facts.license = {key: str(value) for key, value in recorded.items() if value} or facts.license
    beside, average = find_run(weights or folder)
    own = folder in (run.final, *run.checkpoints.glob("*")) or (average and beside.path == run.path)
    if weights is None:  # an export's are the run's in another form
        weights = folder if own else _model_of(run)
    if facts.weight < 1 and not (own and average):
        facts.curve = keep(lambda: read_curve(run.path), None)
    report = keep(lambda: read_reports(run.path, average if own else None), {})
    if report:
        _add_evaluations(facts, report, run, model_fingerprint(weights) if weights else "")
    return facts


def _add_evaluations(facts: CardFacts, report: Record, run: RunFolder, fingerprint: str) -> None:
    """Add the evaluations of the model with a fingerprint."""
    silent = report.get("silent")
    with refuse_damage(run.evaluation().report):
        for mode, found in (("thinking", report), ("silent", silent)):
            if not found or not found.get("sets"):
                continue
            asked = found["settings"]["models"]["tuned"]["print"]
            if "://" in asked or asked == fingerprint:
                facts.evaluations[mode] = found
            else:
                facts.outdated_evaluation = True


def _model_of(run: RunFolder) -> Path | None:
    """Return the folder of the model that `eval` asks: the final one, or the best so far."""
    best = None if run.final.is_dir() else find_checkpoint(run.path, "best")
    return best.folder if best else run.final if run.final.is_dir() else None


def settings_text(recipe: Recipe) -> str:
    """Return the settings of a recipe that are not the defaults, as YAML; of paths the last name alone."""
    defaults = flatten_settings(
        validate_recipe({"model": {"name": "-"}, "data": {"name": "-"}}, "").model_dump(mode="json")
    )
    tree: dict[str, Any] = {}
    values = flatten_settings(recipe.model_dump(mode="json"))
    for key, value in values.items():
        field = any_source_key(key)
        # What a list of sources holds is shown by their own settings.
        if key == OTHER_SOURCES or value == defaults.get(field) or field.startswith(_NOT_ON_CARD):
            continue
        on_hub = key.endswith(".name") and values.get(key.removesuffix("name") + "hub")
        shown = _last_name(value) if field in _PATHS and isinstance(value, str) and not on_hub else value
        place = first_source_key(key) if recipe.other_sources else recipe_key(key)
        *sections, leaf = place.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[leaf] = shown
    if recipe.other_sources:
        tree["data"] = [tree["data"][str(number)] for number in range(1 + len(recipe.other_sources))]
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False, width=120).rstrip()


def _read_data(path: Path) -> Record:
    """Read the counts of rows, and use what the card uses once, so that its form is known to be right."""
    data = read_object(path, AnyObject)
    with refuse_damage(path):
        count_trained(data)
        for fault in data.get("faults") or []:
            dict(fault["actions"])
        for file in data.get("files") or []:
            file["path"] = _last_name(str(file["path"]))
        for source in data.get("sources") or []:
            source["name"] = str(source["name"])
        sum((data.get("languages") or {}).values())
        _ = (data.get("lengths") or {}).get("whole", {"max": 0})["max"] + 0
    return data


def _sum_training(metrics: Sequence[Record], step: int | None) -> Record | None:
    """Sum the lines of training up to a step, or to the last; None where there is none."""
    lines = [line for line in metrics if line.get("kind") == "train" and (step is None or line["step"] <= step)]
    if not lines:
        return None
    sums = {key: sum(line.get(key) or 0 for line in lines) for key in ("tokens", "learned_tokens")}
    peak = max((line.get("memory_gib") or 0 for line in lines), default=0)
    return sums | {"seconds": lines[-1].get("seconds"), "epoch": lines[-1].get("epoch"), "memory_gib": peak or None}


def _read_sampling(path: Path) -> Record:
    """Read how a model samples by itself; {} where it is greedy, or says nothing."""
    config = _read_plain(path)
    named = {key: config[key] for key in _SAMPLING_KEYS if isinstance(config.get(key), int | float)}
    return named if config.get("do_sample") else {}


def _read_plain(path: Path) -> Record:
    """Read a JSON object of a model folder; {} where there is none, or another program's that is damaged."""
    try:
        found = read_json(path)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _last_name(path: str) -> str:
    """Return the last part of a path, of `…/RUN/final` the last two: no folder of the machine that trained."""
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")]
    names = parts[-2:] if parts and parts[-1] == "final" else parts[-1:]
    return PurePath(*names).as_posix() if names else path
