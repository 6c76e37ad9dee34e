"""What a run stands on: its folder held against a second process, and what changed under it."""

import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from thinktune.config import Recipe
from thinktune.config.loading import dump_recipe, validate_recipe
from thinktune.data import Prepared, Subset
from thinktune.errors import UserError
from thinktune.files import atomic_write_stream, atomic_write_text, read_json
from thinktune.run.environment import LIBRARIES

LOCK_FILE, ROW_DIGESTS_FILE = ".lock", "rows.txt"


# What may change under a run, since neither the weights nor the choice among them depends on it: whole sections, or
# single knobs. Batches and recomputation leave the results equal but for rounding.
RESUMABLE_CHANGES = (
    "generate.",
    "track.",
    "train.log_every_steps",
    "train.save_every_minutes",
    "train.time_limit",
    "train.stop_when_overfitting",
    "train.bad_numbers",
    "train.full_disk",
    "train.deterministic",
    "train.batch_tokens",
    "train.activation_budget",
    "train.strategy",
)


RECORDED = (*LIBRARIES, "code", "python", "platform", "device", "precision", "world_size")  # of environment.json


PACKAGE = Path(__file__).parent.parent


@contextmanager
def lock_run(folder: Path) -> Generator[None]:
    """Keep a run's folder for this process; the system lets go of it however the process ends.

    Raises UserError where another process holds it. What was made for the lock alone is gone afterwards.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    fresh = not (folder / LOCK_FILE).exists()
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder}: another process is training in it; wait for that one, or start a new run with "
            f"name={folder.name}-2"
        ) from None
    try:
        yield
    finally:
        if fresh and not (folder / "recipe.yaml").exists():  # it became no run
            (folder / LOCK_FILE).unlink()
        lock.release()
        for path in made:
            with suppress(OSError):  # it is not empty, so it is a run's
                path.rmdir()


def recipe_changes(recipe: Recipe, folder: Path) -> list[str]:
    """What changed in a run's recipe since it was begun, where that does no harm; nothing for a new run.

    Raises UserError where the change is another run's, and where the folder holds something else than a run.
    """
    written = folder / "recipe.yaml"
    if not written.is_file():
        ours = (LOCK_FILE, ".partial")
        if folder.is_dir() and any(not path.name.endswith(ours) for path in folder.iterdir()):
            raise UserError(f"{folder}: is no run of thinktune and not empty; choose another name with name=...")
        return []
    former = validate_recipe(yaml.safe_load(written.read_text(encoding="utf-8")), str(written))
    before, now = _flatten(former.model_dump(mode="json")), _flatten(recipe.model_dump(mode="json"))
    changed = {key: f"{key} (was {before[key]!r}, is {now[key]!r})" for key in now if before.get(key) != now[key]}
    if harmful := [text for key, text in changed.items() if not key.startswith(RESUMABLE_CHANGES)]:
        raise UserError(
            f"{folder}: holds a run of another recipe; changed: {', '.join(harmful)}; "
            f"go on with the former values, or start a new run with name={folder.name}-2"
        )
    return list(changed.values())


def record_recipe(recipe: Recipe, folder: Path) -> None:
    """Write the recipe that a run goes by now."""
    atomic_write_text(folder / "recipe.yaml", dump_recipe(recipe))


def record_rows(rows: Subset, folder: Path) -> None:
    """Write a line for each training row, its digest and where it stands, so that a change can be named."""
    atomic_write_stream(folder / ROW_DIGESTS_FILE, (f"{line}\n" for line in _row_lines(rows)))


def refuse_other_data(prepared: Prepared, folder: Path) -> None:
    """Raise UserError where a run's folder was made with other rows or another chat template, and say which differ."""
    facts = folder / "environment.json"
    if facts.is_file() and read_json(facts)["data_fingerprint"] != prepared.fingerprint:
        raise UserError(
            f"{folder}: holds a run of other data (the rows or the chat template changed"
            f"{_describe_row_changes(prepared, folder)}); put them back, or start a new run with name={folder.name}-2"
        )


def refuse_other_tokenizer(fingerprint: str, folder: Path) -> None:
    """Raise UserError where a run was begun with another tokenizer or chat template."""
    facts = read_json(folder / "environment.json") if (folder / "environment.json").is_file() else {}
    if facts.get("tokenizer_fingerprint", fingerprint) != fingerprint:
        raise UserError(
            f"{folder}: holds a run with another tokenizer or chat template; put back the one of "
            f"{facts['model']}, or start a new run with name={folder.name}-2"
        )


def environment_changes(facts: dict[str, Any], folder: Path) -> list[str]:
    """What else changed since the run was begun: versions, our own code, device, ranks. The state stays exact."""
    former = read_json(folder / "environment.json")
    return [
        f"{key} (was {former[key]!r}, is {facts[key]!r})"
        for key in RECORDED
        if key in facts and key in former and former[key] != facts[key]
    ]


def code_fingerprint() -> str:
    """Changes with any line of our own source."""
    digest = blake2b(sys.version.encode(), digest_size=8)
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(blake2b(file.read_bytes()).digest())
    return digest.hexdigest()


def _describe_row_changes(prepared: Prepared, folder: Path) -> str:
    """How many rows differ from those that a run was begun with, and where the first of them stand."""
    if not (folder / ROW_DIGESTS_FILE).is_file():
        return ""
    before = dict(line.split(" ", 1) for line in (folder / ROW_DIGESTS_FILE).read_text(encoding="utf-8").splitlines())
    now = dict(line.split(" ", 1) for line in _row_lines(prepared.train))
    told: list[str] = []
    for what, some, others in (("gone", before, now), ("new", now, before)):
        if places := [place for digest, place in some.items() if digest not in others]:
            told.append(f"{len(places):,} training rows {what}, the first {places[0]}")
    return f": {'; '.join(told)}" if told else ": those held out, or their order"


def _row_lines(rows: Subset) -> Iterable[str]:
    for number in rows.reply_indices:
        entry = rows.dataset.replies[number]
        yield f"{int(entry['digest']):016x} {rows.dataset.source(int(entry['example']))}"


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
