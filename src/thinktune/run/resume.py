"""Lock of a run's folder, and checks of what changed since the run was started."""

import os
import platform
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from thinktune.cache import source_fingerprint
from thinktune.config import Recipe, load_recipe
from thinktune.config.loading import dump_recipe
from thinktune.config.recipe_keys import OTHER_SOURCES, any_source_key, recipe_key
from thinktune.errors import UserError
from thinktune.files import atomic_write_stream, atomic_write_text, read_json, write_json
from thinktune.run.environment import LIBRARIES
from thinktune.run.folder import RunFolder
from thinktune.run.lock import hold_lock, is_held
from thinktune.run.reading import read_environment

# What may change when a run resumes, since neither the weights nor the choice among them depends on it: whole
# sections, or single settings. Batches and recomputation leave the results equal except for rounding.
RESUMABLE_CHANGES = (
    "generate.",
    "track.",
    "serve.",
    "plan.",
    "data.license",
    "name",
    "runs_folder",
    "train.log_every_steps",
    "train.save_every_minutes",
    "train.time_limit",
    "train.stop_when_overfitting",
    "train.average",  # follows the last step
    "train.bad_numbers",
    "train.full_disk",
    "train.deterministic",
    "train.batch_tokens",
    "train.activation_budget",
    "train.offload_activations",
    "train.context_parallel",
    "train.strategy",
)


# Where model, chat template and rows are.
PLACES = (
    "model.name",
    "model.hub",
    "model.revision",
    "model.template",
    "data.name",
    "data.hub",
    "data.revision",
    "data.files",
    "data.replay.rows",
)


# Where they are, and how rows are read: what counts is what is found there, by the fingerprints of weights, tokenizer
# and rows.
JUDGED_BY_CONTENT = (
    *PLACES,
    "data.columns.",
    "data.ignore",
    "data.faults.",
    "data.handed_phrases",
    "data.think_tags",
)


RECORDED = (*LIBRARIES, "code", "python", "platform", "device", "precision", "world_size")  # of environment.json


# The packages whose code decides the weights of a resumed run: from rows to tokens (`data`, by the rules of `config`),
# to losses (`model`) and updates (`optim`), over ranks (`distributed`), through what a checkpoint saves and restores.
# `train` drives them. Pages, trackers, the server, evaluation and the planner (whose decision is recorded by itself,
# in environment.json) may change without any step coming out differently.
TRAINING_PACKAGES = ("checkpoint", "config", "data", "distributed", "model", "optim", "tokenization", "train")


@contextmanager
def lock_run(folder: Path) -> Generator[None]:
    """Lock a run's folder for this process; the system releases it however the process ends.

    Raises UserError where another process holds it. Folders and files made for the lock alone are removed afterwards.
    """
    run = RunFolder(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    is_new = not run.lock.exists()
    taken = (
        f"{folder}: another process is training in it; wait for it to end, or start a new run with name={folder.name}-2"
    )
    try:
        with hold_lock(run.lock, taken):
            with suppress(OSError):  # it is only for those who would stop the run
                write_json(run.process, {"machine": platform.node(), "process": os.getpid()})
            try:
                yield
            finally:
                run.process.unlink(missing_ok=True)
                if is_new and not run.is_run:  # no run came of it
                    run.lock.unlink()
    finally:
        for path in created:
            with suppress(OSError):  # not empty: a run is in it
                path.rmdir()


def training_process(folder: Path) -> int | None:
    """Return the number of the process that trains in a run's folder; None where none does, or on another machine."""
    run = RunFolder(folder)
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = read_json(run.process)
        if is_held(run.lock) and record["machine"] == platform.node():
            return int(record["process"])
    return None


def is_locked(folder: Path) -> bool:
    """Return True if a process trains in a run's folder, as far as this machine can see."""
    return is_held(RunFolder(folder).lock)


def recipe_changes(recipe: Recipe, folder: Path) -> list[str]:
    """List the harmless changes to a run's recipe since it was started; none for a new run.

    Raises UserError where a change would make it a different run, and where the folder holds something else.
    """
    run = RunFolder(folder)
    if not run.is_run:
        leftovers = (run.lock.name, run.process.name, ".partial")
        if folder.is_dir() and any(not path.name.endswith(leftovers) for path in folder.iterdir()):
            raise UserError(f"{folder}: is not empty and not a run of thinktune; choose another name with name=...")
        return []
    recorded, followed = load_recipe(run.recipe), recipe
    if (recorded.other_sources and recipe.data.replay) or (recorded.data.replay and recipe.other_sources):
        recorded, followed = _with_listed_sources(recorded), _with_listed_sources(recipe)
    before = flatten_settings(recorded.model_dump(mode="json"))
    now = flatten_settings(followed.model_dump(mode="json"))

    def name_of(key: str) -> str:
        listed = recipe.data.replay and key.startswith(f"{OTHER_SOURCES}.0.")
        return recipe.in_source(any_source_key(key), 1) if listed else recipe_key(key)

    changed = {
        key: f"{name_of(key)} (was {before.get(key)!r}, is {now.get(key)!r})"
        for key in (*now, *(key for key in before.keys() - now if key.startswith("data.replay.")))  # left out by now
        if before.get(key) != now.get(key)
    }
    harmless = (*RESUMABLE_CHANGES, *JUDGED_BY_CONTENT)

    def harms(key: str) -> bool:
        field = any_source_key(key)
        other_file = field == "data.validation" and isinstance(before.get(key), str) and isinstance(now.get(key), str)
        return not other_file and not field.startswith(harmless)

    if harmful := [text for key, text in changed.items() if harms(key)]:
        raise UserError(
            f"{folder}: has a run that began with other settings; changed: {', '.join(harmful)}; restore the previous "
            f"values, or start a new run with name={folder.name}-2"
        )
    return list(changed.values())


def _with_listed_sources(recipe: Recipe) -> Recipe:
    """Return the recipe with its replay as the source that it is.

    A recipe may write it so itself, and runs that were started before `data.replay` had settings recorded it so.
    """
    own = recipe.data.model_copy(update={"replay": None})
    return recipe.model_copy(update={"data": own, OTHER_SOURCES: recipe.sources[1:]})


def record_recipe(recipe: Recipe, folder: Path) -> None:
    """Write the recipe that a run follows from now on."""
    atomic_write_text(RunFolder(folder).recipe, dump_recipe(recipe))


def record_rows(digest_lines: Iterable[str], folder: Path) -> None:
    """Write a line for each training row, `digest file:line`, so that a later change can be named."""
    atomic_write_stream(RunFolder(folder).row_digests, (f"{line}\n" for line in digest_lines))


def refuse_other_data(fingerprint: str, digest_lines: Iterable[str], folder: Path, changes: Sequence[str] = ()) -> None:
    """Raise UserError where a run was started with other rows or another chat template, naming the rows that differ.

    Args:
        fingerprint: of the rows as they are now.
        digest_lines: of the training rows as they are now, as `record_rows` takes them; read only for the error.
        folder: the run's folder.
        changes: the settings that changed, as `recipe_changes` lists them.
    """
    run = RunFolder(folder)
    if read_environment(folder).get("data_fingerprint", fingerprint) != fingerprint:
        raise UserError(
            f"{folder}: has a run with other data (the rows or the chat template changed"
            f"{_describe_row_changes(run, digest_lines)}{'; changed settings: ' * bool(changes)}{', '.join(changes)}); "
            f"change them back, or start a new run with name={folder.name}-2"
        )


def refuse_other_tokenizer(fingerprint: str, folder: Path) -> None:
    """Raise UserError where a run was started with another tokenizer or chat template."""
    facts = read_environment(folder)
    if facts.get("tokenizer_fingerprint") not in (None, fingerprint):
        raise UserError(
            f"{folder}: has a run with another tokenizer or chat template; put back the one of "
            f"{facts['model']}, or start a new run with name={folder.name}-2"
        )


def environment_changes(facts: dict[str, Any], folder: Path) -> list[str]:
    """List what else changed since the run was started: versions, our code, device, ranks; none for a new run."""
    recorded = read_environment(folder)
    return [
        f"{key} (was {recorded[key]!r}, is {facts[key]!r})"
        for key in RECORDED
        if key in facts and key in recorded and recorded[key] != facts[key]
    ]


def code_fingerprint(python: str = sys.version) -> str:
    """Hash of the code that decides a run's weights, and of the Python that runs it."""
    return source_fingerprint(*TRAINING_PACKAGES, python=python)[:16]


def _describe_row_changes(run: RunFolder, digest_lines: Iterable[str]) -> str:
    """Describe how many training rows differ from those that the run was started with, and where the first is."""
    if not run.row_digests.is_file():
        return ""
    recorded = run.row_digests.read_text(encoding="utf-8", errors="replace").splitlines()
    before, now = (dict(line.split(" ", 1) for line in lines if " " in line) for lines in (recorded, digest_lines))
    changes: list[str] = []
    for change, rows, others in (("gone", before, now), ("new", now, before)):
        if places := [place for digest, place in rows.items() if digest not in others]:
            changes.append(f"{len(places):,} training rows {change}, the first {places[0]}")
    return f": {'; '.join(changes)}" if changes else ": those held out, or their order"


def flatten_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a tree of sections by their whole keys, as in `train.epochs` and `other_sources.0.name`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key == OTHER_SOURCES:
            numbered = {str(number): source for number, source in enumerate(value)}
            flat |= {key: f"{len(value) + 1} sources"} | flatten_settings(numbered, f"{key}.")
            continue
        flat |= flatten_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
