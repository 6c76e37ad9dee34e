"""Checkpoints: folders that are whole or absent, the pointers `last` and `best`, and the final model."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from thinktune.errors import UserError
from thinktune.files import read_json, sync_folder, sync_tree, write_json, write_whole
from thinktune.optim import Update

STATE, FACTS = "state.safetensors", "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved step: a plain transformers folder, with the optimizer's state beside it while it is the last one."""

    folder: Path
    step: int


def save(run: Path, step: int, model: Any, tokenizer: Any, update: Update) -> Checkpoint:
    """Write the whole state of a step, then point `last` at it. A crash leaves the former checkpoint in place.

    Where the update keeps fp32 masters, those are the weights that are written.
    """
    folder = run / "checkpoints" / _name(step)
    aside = _aside(folder)
    _save_model(aside, model, tokenizer, update.weights())
    save_file({name: tensor.contiguous() for name, tensor in update.state().items()}, aside / STATE)
    write_json(aside / FACTS, {"step": step})
    _settle(aside, folder)
    _point(run, "last", step)
    return Checkpoint(folder, step)


def find(run: Path, pointer: str) -> Checkpoint | None:
    """The checkpoint that `last` or `best` points at, if there is one."""
    if not (run / pointer).is_file():
        return None
    folder = run / "checkpoints" / (run / pointer).read_text(encoding="utf-8").strip()
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{run / pointer}: points at {folder}, which is not there; put it back, or start anew with name=..."
        )
    return Checkpoint(folder, int(folder.name.removeprefix("step-")))


def point_best(run: Path, step: int) -> None:
    """Say which saved step is the best so far."""
    _point(run, "best", step)


def restore(checkpoint: Checkpoint, update: Update) -> None:
    """Give the optimizer the state that it had at the checkpoint; the weights are loaded like any model's."""
    if not (checkpoint.folder / STATE).is_file():
        raise UserError(
            f"{checkpoint.folder}: holds no {STATE}; the run cannot go on from it, so start anew with name=..."
        )
    assert read_json(checkpoint.folder / FACTS)["step"] == checkpoint.step
    update.restore(load_file(checkpoint.folder / STATE))


def prune(run: Path) -> None:
    """Keep the last checkpoint whole and the weights of the best; remove the others and what crashes left aside."""
    kept = {checkpoint.folder for pointer in ("last", "best") if (checkpoint := find(run, pointer))}
    last = find(run, "last")
    folders = [path for path in (run / "checkpoints").iterdir() if path.is_dir()]
    for folder in [*folders, *run.glob(".final.*")]:
        if folder not in kept:
            shutil.rmtree(folder)
        elif last is None or folder != last.folder:
            (folder / STATE).unlink(missing_ok=True)


def write_final(run: Path, checkpoint: Checkpoint, model: Any, tokenizer: Any) -> Path:
    """Write a checkpoint's model, already loaded in the type it shall be kept in, as the plain folder `final`."""
    final = run / "final"
    aside = _aside(final)
    _save_model(aside, model, tokenizer)
    write_json(aside / FACTS, {"step": checkpoint.step})
    _settle(aside, final)
    return final


def refuse_no_run(run: Path) -> None:
    """Raise UserError where a folder is no run's."""
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: is no run's folder (it has no recipe.yaml); name one, as in runs/NAME")


def model_folder(run: Path) -> Path:
    """The folder of the model that a run ended with (or has as its best so far); any other folder is a model itself."""
    if not run.is_dir():
        raise UserError(f"{run}: is no folder; name a run's folder, as in runs/NAME, or a model's")
    if not (run / "recipe.yaml").is_file():
        return run
    if (run / "final").is_dir():
        return run / "final"
    best = find(run, "best")
    if best is None:
        raise UserError(f"{run}: this run has no model yet; let `thinktune train` reach its first evaluation")
    return best.folder


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _aside(folder: Path) -> Path:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def _save_model(folder: Path, model: Any, tokenizer: Any, weights: dict[str, Tensor] | None = None) -> None:
    with torch.no_grad():
        model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def _settle(aside: Path, folder: Path) -> None:
    sync_tree(aside)
    shutil.rmtree(folder, ignore_errors=True)  # the same step, written before a crash that came before the pointer
    aside.rename(folder)
    sync_folder(folder.parent)


def _point(run: Path, pointer: str, step: int) -> None:
    write_whole(run / pointer, _name(step) + "\n")
