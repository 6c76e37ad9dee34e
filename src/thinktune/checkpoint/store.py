"""Find, verify, point to and prune the checkpoints of a run; a checkpoint is whole or absent. Loads no torch."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thinktune.checkpoint.manifest import MANIFEST, checksum_mismatches, has_unlisted_files, manifest_mismatches
from thinktune.errors import UserError
from thinktune.files import atomic_write_text, read_json, write_json
from thinktune.run import RunFolder, diagnose_run
from thinktune.run.diagnosis import diagnosis_from_record, worse_than_base
from thinktune.run.folder import checkpoint_step
from thinktune.run.reading import EvaluatedRecord, read_object

STATE_FOLDER = "state"  # optimizer and random generators, as safetensors; only the last checkpoint has it


TRAINER_STATE_FILE = "state.json"  # the step, and what else a run needs to resume


STATE_CHECKSUMS_KEY = "state_digests"  # in the trainer state, since the manifest omits what pruning removes


AVERAGE_KEY = "average"  # in the state of a model that is an average of base and tuned: its weight


Pointer = Literal["last", "best"]


_PARTIAL_FOLDER = re.compile(r"\.(.+?)\.\d+\.(gone\.)?partial")


_PARTIAL_FILE = re.compile(r"\..+\.\d+\.partial")  # as `files.atomic_write_text` names it


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved step: a plain transformers folder; the last one also holds the optimizer's state."""

    folder: Path
    step: int


def find_checkpoint(run_folder: Path, pointer: Pointer) -> Checkpoint | None:
    """Return the checkpoint that `last` or `best` points at, if there is one.

    Raises UserError where the pointer names a checkpoint that is not there.
    """
    run = RunFolder(run_folder)
    file = run.last if pointer == "last" else run.best
    if not file.is_file():
        return None
    name = file.read_text(encoding="utf-8", errors="replace").strip()
    folder, step = run.checkpoints / name, checkpoint_step(name)
    if step is None or not (folder / "config.json").is_file():
        raise UserError(f"{file}: points at {folder}, which is missing; put it back, or start a new run with name=...")
    return Checkpoint(folder, step)


def verify(checkpoint: Checkpoint, *, with_state: bool = False) -> None:
    """Raise UserError where a file of a checkpoint is missing, added, or differs by a byte from what was written.

    Args:
        checkpoint: the checkpoint, or any folder with a manifest.
        with_state: also verify the optimizer's state.
    """
    mismatches = manifest_mismatches(checkpoint.folder, exclude=(STATE_FOLDER,))
    if with_state and not mismatches:
        mismatches = checksum_mismatches(checkpoint.folder, read_trainer_state(checkpoint)[STATE_CHECKSUMS_KEY])
    if mismatches:
        raise UserError(
            f"{checkpoint.folder}: has changed since it was written: {'; '.join(mismatches)}; restore the original "
            "files (and move away any that were added), or start a new run with name=..."
        )


def read_trainer_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read the trainer state that `save` was given."""
    return read_json(checkpoint.folder / TRAINER_STATE_FILE)


def has_checkpoint(run_folder: Path, step: int) -> bool:
    """Return True if a step has a checkpoint, with or without the optimizer's state."""
    return (RunFolder(run_folder).checkpoint(step) / MANIFEST).is_file()


def has_final_model(run_folder: Path, best: Checkpoint) -> bool:
    """Return True if the final model is whole and was made from this checkpoint."""
    final = RunFolder(run_folder).final
    return (
        final.is_dir() and not manifest_mismatches(final) and read_json(final / TRAINER_STATE_FILE)["step"] == best.step
    )


def average_weight(model_folder: Path) -> float:
    """Return the weight of the tuned model in an average with its base; 1 for any other model."""
    state = model_folder / TRAINER_STATE_FILE
    try:
        record = read_json(state) if state.is_file() else None
    except (ValueError, OSError, RecursionError):
        return 1.0
    average = record.get(AVERAGE_KEY) if isinstance(record, dict) else None
    weight = average.get("weight") if isinstance(average, dict) else None
    return float(weight) if isinstance(weight, int | float) else 1.0


def describe_final(run_folder: Path) -> str:
    """Name a run's final model by its step and, of an average, its weight, as in `step 80` or `step 80, 0.7`."""
    final = RunFolder(run_folder).final
    step, weight = model_step(final), average_weight(final)
    return f"step {step}" if weight == 1 else f"step {step}, {weight:g}"


def mark_best(run_folder: Path, step: int) -> None:
    """Point `best` at a step's checkpoint."""
    write_pointer(run_folder, "best", step)


def mark_evaluated(run_folder: Path, step: int, journal_lengths: dict[str, int]) -> None:
    """Record that a step's evaluation is complete, and the journals' lengths in bytes after it."""
    write_json(RunFolder(run_folder).evaluated, {"step": step, "journals": journal_lengths})


def evaluated_journal_lengths(run_folder: Path, step: int) -> dict[str, int] | None:
    """Return the journals' lengths after a step's evaluation, or None if it was not completed."""
    file = RunFolder(run_folder).evaluated
    marked = read_object(file, EvaluatedRecord, "delete it to run the evaluation again")
    return marked["journals"] if marked.get("step") == step else None


def prune_checkpoints(run_folder: Path) -> None:
    """Keep the last checkpoint whole and the weights of the best; remove the others and what crashes left behind.

    Folders that are not ours, and those that somebody added files to, are left alone.
    """
    run, last, best = RunFolder(run_folder), find_checkpoint(run_folder, "last"), find_checkpoint(run_folder, "best")
    kept = {checkpoint.folder for checkpoint in (last, best) if checkpoint}
    for path in run_folder.glob(".*.partial"):
        if path.is_file() and _PARTIAL_FILE.fullmatch(path.name):
            path.unlink()
    for folder in [*run.checkpoints.iterdir(), *run_folder.glob(f".{run.final.name}.*")]:
        if _is_partial(folder, run):
            shutil.rmtree(folder)
        elif checkpoint_step(folder.name) is None:
            continue
        elif folder not in kept:
            if not has_unlisted_files(folder, exclude=(STATE_FOLDER,)):
                remove_folder(folder)
        elif last is None or folder != last.folder:
            shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)


def require_run_folder(folder: Path) -> None:
    """Raise UserError where a folder is not a run's."""
    if not RunFolder(folder).is_run:
        raise UserError(
            f"{folder}: is not a run's folder (it has no {RunFolder(folder).recipe.name}); name one, as in runs/NAME"
        )


def resolve_model_folder(folder: Path) -> Path:
    """Return the folder of a run's final model (or of its best so far); any other folder is a model itself.

    Raises UserError where there is none, and where a run's model is not as it was written.
    """
    run = RunFolder(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; name a run's folder, as in runs/NAME, or a model's")
    if not run.is_run:
        return folder
    if run.final.is_dir():
        verify(Checkpoint(run.final, 0))
        return run.final
    best = find_checkpoint(folder, "best")
    if best is None:
        raise UserError(f"{folder}: this run has no model yet; run `thinktune train` until its first evaluation")
    verify(best)
    return best.folder


def model_warning(folder: Path) -> str | None:
    """Return a sentence where the model of a run, or a final model by itself, is worse than its base; else None."""
    run = RunFolder(folder)
    state = (run.final if run.is_run else folder) / TRAINER_STATE_FILE
    try:
        record = read_json(state) if state.is_file() else None
        if isinstance(record, dict) and "diagnosis" in record:
            diagnosis = diagnosis_from_record(record["diagnosis"])
        else:
            diagnosis = diagnose_run(folder) if run.is_run else None
    except ValueError:  # another tool's file, or a damaged journal: nothing can be said
        return None
    return worse_than_base(diagnosis) if diagnosis else None


def model_step(model_folder: Path) -> int | None:
    """Return the step after which a run's model was saved; None for any other model."""
    state = model_folder / TRAINER_STATE_FILE
    try:
        record = read_json(state) if state.is_file() else None
    except (ValueError, OSError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else None


def remove_folder(folder: Path) -> None:
    """Remove a folder so that no half of it ever bears its name."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.gone.partial")
    folder.rename(gone)
    shutil.rmtree(gone)


def write_pointer(run_folder: Path, pointer: Pointer, step: int) -> None:
    """Point `last` or `best` at a step's checkpoint."""
    run = RunFolder(run_folder)
    atomic_write_text(run.last if pointer == "last" else run.best, run.checkpoint(step).name + "\n")


def _is_partial(folder: Path, run: RunFolder) -> bool:
    """Return True if a crash left this folder while a checkpoint or the final model was written or removed."""
    found = _PARTIAL_FOLDER.fullmatch(folder.name)
    return bool(found) and (found[1] == run.final.name or checkpoint_step(found[1]) is not None)
