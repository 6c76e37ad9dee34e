"""Find, verify, point to and prune the checkpoints of a run; a checkpoint is whole or absent. Loads no torch."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinktune.checkpoint.manifest import SEAL, added, broken, differing
from thinktune.errors import UserError
from thinktune.files import read_json, write_json, write_whole

STATE, FACTS = "state", "state.json"  # a folder of safetensors, one of each rank; and what else the run needs


STATE_DIGEST = "state_digests"  # in FACTS: the state is no part of the seal, as it goes when the next one comes


EVALUATED = "evaluated.json"  # of a run: the last step whose evaluation stands whole in the journals, with their length


_NAME = re.compile(r"step-\d{6,}")


_PARTIAL = re.compile(r"\.(step-\d{6,}|final)\.\d+\.(gone\.)?partial")


_PARTIAL_FILE = re.compile(r"\..+\.\d+\.partial")  # as `files.write_whole` names it


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved step: a plain transformers folder, with the optimizer's state beside it while it is the last one."""

    folder: Path
    step: int


def find(run: Path, pointer: str) -> Checkpoint | None:
    """The checkpoint that `last` or `best` points at, if there is one."""
    if not (run / pointer).is_file():
        return None
    name = (run / pointer).read_text(encoding="utf-8", errors="replace").strip()
    folder = run / "checkpoints" / name
    if not _NAME.fullmatch(name) or not (folder / "config.json").is_file():
        raise UserError(
            f"{run / pointer}: points at {folder}, which is not there; put it back, or start anew with name=..."
        )
    return Checkpoint(folder, int(name.removeprefix("step-")))


def verify(checkpoint: Checkpoint, *, state: bool = False) -> None:
    """Raise UserError where a file of a checkpoint is missing, added, or not byte for byte as it was written.

    `state` says whether the optimizer's state is held to its digest as well.
    """
    faults = broken(checkpoint.folder, apart=(STATE,))
    if state and not faults:
        faults = differing(checkpoint.folder, facts_of(checkpoint)[STATE_DIGEST])
    if faults:
        raise UserError(
            f"{checkpoint.folder}: is not as it was written: {'; '.join(faults)}; put back what it was (or move away "
            "what was added), or start anew with name=..."
        )


def facts_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `save` was given as facts, beside the step."""
    return read_json(checkpoint.folder / FACTS)


def is_saved(run: Path, step: int) -> bool:
    """Whether a step has a checkpoint, whole or with its weights alone."""
    return (run / "checkpoints" / step_name(step) / SEAL).is_file()


def has_final(run: Path, best: Checkpoint) -> bool:
    """Whether `final/` is there, whole and made from this checkpoint; a damaged one is written again."""
    final = run / "final"
    return final.is_dir() and not broken(final) and read_json(final / FACTS)["step"] == best.step


def point_best(run: Path, step: int) -> None:
    """Say which saved step is the best so far."""
    point_to(run, "best", step)


def mark_evaluated(run: Path, step: int, lengths: dict[str, int]) -> None:
    """Say that a step's evaluation is whole, and how long the journals are with it."""
    write_json(run / EVALUATED, {"step": step, "journals": lengths})


def evaluated(run: Path, step: int) -> dict[str, int] | None:
    """The journals' lengths after a step's evaluation, or none if that did not come to its end."""
    marked = read_json(run / EVALUATED) if (run / EVALUATED).is_file() else {}
    return marked["journals"] if marked.get("step") == step else None


def prune(run: Path) -> None:
    """Keep the last checkpoint whole and the weights of the best; remove the others and what crashes left aside.

    A folder that is none of ours, or holds what somebody put there, is left alone.
    """
    kept = {checkpoint.folder for pointer in ("last", "best") if (checkpoint := find(run, pointer))}
    last = find(run, "last")
    for path in run.glob(".*.partial"):
        if path.is_file() and _PARTIAL_FILE.fullmatch(path.name):
            path.unlink()
    for folder in [*(run / "checkpoints").iterdir(), *run.glob(".final.*")]:
        if _PARTIAL.fullmatch(folder.name):
            shutil.rmtree(folder)
        elif not _NAME.fullmatch(folder.name):
            continue
        elif folder not in kept:
            if not added(folder, apart=(STATE,)):
                remove_folder(folder)
        elif last is None or folder != last.folder:
            shutil.rmtree(folder / STATE, ignore_errors=True)


def refuse_no_run(run: Path) -> None:
    """Raise UserError where a folder is no run's."""
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: is no run's folder (it has no recipe.yaml); name one, as in runs/NAME")


def model_folder(run: Path) -> Path:
    """The folder of the model that a run ended with (or has as its best so far); any other folder is a model itself.

    Raises UserError where there is none, and where a run's is not as it was written.
    """
    if not run.is_dir():
        raise UserError(f"{run}: is no folder; name a run's folder, as in runs/NAME, or a model's")
    if not (run / "recipe.yaml").is_file():
        return run
    if (run / "final").is_dir():
        verify(Checkpoint(run / "final", 0))
        return run / "final"
    best = find(run, "best")
    if best is None:
        raise UserError(f"{run}: this run has no model yet; let `thinktune train` reach its first evaluation")
    verify(best)
    return best.folder


def step_name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step-{step:06d}"


def remove_folder(folder: Path) -> None:
    """Remove a folder so that no half of it ever has its name."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.gone.partial")
    folder.rename(gone)
    shutil.rmtree(gone)


def point_to(run: Path, pointer: str, step: int) -> None:
    """Let a pointer file (`last`, `best`) name a step's checkpoint."""
    write_whole(run / pointer, step_name(step) + "\n")
