"""Find, verify, point to and prune the checkpoints of a run; a checkpoint is whole or absent. Loads no torch."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinktune.checkpoint.manifest import MANIFEST, checksum_mismatches, has_unlisted_files, manifest_mismatches
from thinktune.errors import UserError
from thinktune.files import atomic_write_text, read_json, write_json

STATE_FOLDER, TRAINER_STATE_FILE = (
    "state",
    "state.json",
)  # a folder of safetensors, one of each rank; and what else the run needs


STATE_CHECKSUMS_KEY = "state_digests"  # in FACTS: the state is no part of the seal, as it goes when the next one comes


EVALUATED_FILE = (
    "evaluated.json"  # of a run: the last step whose evaluation stands whole in the journals, with their length
)


_CHECKPOINT_NAME = re.compile(r"step-\d{6,}")


_PARTIAL_FOLDER = re.compile(r"\.(step-\d{6,}|final)\.\d+\.(gone\.)?partial")


_PARTIAL_FILE = re.compile(r"\..+\.\d+\.partial")  # as `files.atomic_write_text` names it


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved step: a plain transformers folder, with the optimizer's state beside it while it is the last one."""

    folder: Path
    step: int


def find_checkpoint(run_folder: Path, pointer: str) -> Checkpoint | None:
    """The checkpoint that `last` or `best` points at, if there is one."""
    if not (run_folder / pointer).is_file():
        return None
    name = (run_folder / pointer).read_text(encoding="utf-8", errors="replace").strip()
    folder = run_folder / "checkpoints" / name
    if not _CHECKPOINT_NAME.fullmatch(name) or not (folder / "config.json").is_file():
        raise UserError(
            f"{run_folder / pointer}: points at {folder}, which is not there; put it back, or start anew with name=..."
        )
    return Checkpoint(folder, int(name.removeprefix("step-")))


def verify(checkpoint: Checkpoint, *, with_state: bool = False) -> None:
    """Raise UserError where a file of a checkpoint is missing, added, or not byte for byte as it was written.

    `with_state` says whether the optimizer's state is held to its digest as well.
    """
    faults = manifest_mismatches(checkpoint.folder, exclude=(STATE_FOLDER,))
    if with_state and not faults:
        faults = checksum_mismatches(checkpoint.folder, read_trainer_state(checkpoint)[STATE_CHECKSUMS_KEY])
    if faults:
        raise UserError(
            f"{checkpoint.folder}: is not as it was written: {'; '.join(faults)}; put back what it was (or move away "
            "what was added), or start anew with name=..."
        )


def read_trainer_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `save` was given as facts, beside the step."""
    return read_json(checkpoint.folder / TRAINER_STATE_FILE)


def has_checkpoint(run_folder: Path, step: int) -> bool:
    """Whether a step has a checkpoint, whole or with its weights alone."""
    return (run_folder / "checkpoints" / checkpoint_name(step) / MANIFEST).is_file()


def has_final_model(run_folder: Path, best: Checkpoint) -> bool:
    """Whether `final/` is there, whole and made from this checkpoint; a damaged one is written again."""
    final = run_folder / "final"
    return (
        final.is_dir() and not manifest_mismatches(final) and read_json(final / TRAINER_STATE_FILE)["step"] == best.step
    )


def mark_best(run_folder: Path, step: int) -> None:
    """Say which saved step is the best so far."""
    write_pointer(run_folder, "best", step)


def mark_evaluated(run_folder: Path, step: int, journal_lengths: dict[str, int]) -> None:
    """Say that a step's evaluation is whole, and how long the journals are with it."""
    write_json(run_folder / EVALUATED_FILE, {"step": step, "journals": journal_lengths})


def evaluated_journal_lengths(run_folder: Path, step: int) -> dict[str, int] | None:
    """The journals' lengths after a step's evaluation, or none if that did not come to its end."""
    marked = read_json(run_folder / EVALUATED_FILE) if (run_folder / EVALUATED_FILE).is_file() else {}
    return marked["journals"] if marked.get("step") == step else None


def prune_checkpoints(run_folder: Path) -> None:
    """Keep the last checkpoint whole and the weights of the best; remove the others and what crashes left aside.

    A folder that is none of ours, or holds what somebody put there, is left alone.
    """
    kept = {checkpoint.folder for pointer in ("last", "best") if (checkpoint := find_checkpoint(run_folder, pointer))}
    last = find_checkpoint(run_folder, "last")
    for path in run_folder.glob(".*.partial"):
        if path.is_file() and _PARTIAL_FILE.fullmatch(path.name):
            path.unlink()
    for folder in [*(run_folder / "checkpoints").iterdir(), *run_folder.glob(".final.*")]:
        if _PARTIAL_FOLDER.fullmatch(folder.name):
            shutil.rmtree(folder)
        elif not _CHECKPOINT_NAME.fullmatch(folder.name):
            continue
        elif folder not in kept:
            if not has_unlisted_files(folder, exclude=(STATE_FOLDER,)):
                remove_folder(folder)
        elif last is None or folder != last.folder:
            shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)


def require_run_folder(folder: Path) -> None:
    """Raise UserError where a folder is no run's."""
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder}: is no run's folder (it has no recipe.yaml); name one, as in runs/NAME")


def resolve_model_folder(folder: Path) -> Path:
    """The folder of the model that a run ended with (or has as its best so far); any other folder is a model itself.

    Raises UserError where there is none, and where a run's is not as it was written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; name a run's folder, as in runs/NAME, or a model's")
    if not (folder / "recipe.yaml").is_file():
        return folder
    if (folder / "final").is_dir():
        verify(Checkpoint(folder / "final", 0))
        return folder / "final"
    best = find_checkpoint(folder, "best")
    if best is None:
        raise UserError(f"{folder}: this run has no model yet; let `thinktune train` reach its first evaluation")
    verify(best)
    return best.folder


def checkpoint_name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step-{step:06d}"


def remove_folder(folder: Path) -> None:
    """Remove a folder so that no half of it ever has its name."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.gone.partial")
    folder.rename(gone)
    shutil.rmtree(gone)


def write_pointer(run_folder: Path, pointer: str, step: int) -> None:
    """Let a pointer file (`last`, `best`) name a step's checkpoint."""
    atomic_write_text(run_folder / pointer, checkpoint_name(step) + "\n")
