"""Checkpoints: folders that are whole or absent and known by their digests, pointers to them, and the final model."""

import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_cut
from torch.distributed.checkpoint.state_dict_saver import save as save_cut

from thinktune import chance
from thinktune.errors import UserError
from thinktune.files import read_json, sync_folder, sync_tree, write_json, write_whole
from thinktune.optim import Update
from thinktune.parallel import ALONE, World
from thinktune.seal import SEAL, added, broken, differing, measure, seal
from thinktune.written import write_shares

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


def save(
    run: Path, step: int, model: Any, tokenizer: Any, update: Update, facts: dict[str, Any], world: World = ALONE
) -> Checkpoint:
    """Write the whole state of a step, then point `last` at it. A crash leaves the former checkpoint in place.

    Where the update keeps fp32 masters, those are the weights that are written. Nothing is copied on the device, so
    that weights and state must stand still meanwhile; generation and evaluation may go on, with one process. All ranks
    write at once, and what they write can be read by any number of ranks. Raises OSError and what safetensors raises
    where a disk refuses, on all ranks; then nothing of the new checkpoint is left.

    Args:
        run: the run's folder, on a disk that all ranks see.
        step: how many steps were made.
        model: what is trained.
        tokenizer: its tokenizer.
        update: what trains it.
        facts: what else the run needs to go on, as JSON; the first rank's count.
        world: the ranks, all of which must call.
    """
    folder = run / "checkpoints" / _name(step)
    aside = world.agree(_aside(folder) if world.leads else folder)
    try:
        if world.size == 1:
            _save_model(aside, model, update.weights())
        else:
            write_shares(aside, model, update, world)
        _save_state(aside / STATE, update, world)
        world.together(lambda: _close(aside, folder, tokenizer, {"step": step, **facts}) if world.leads else None)
    finally:
        if world.leads:
            shutil.rmtree(aside, ignore_errors=True)
    if world.leads:
        _point(run, "last", step)
    return Checkpoint(folder, step)


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


def restore(checkpoint: Checkpoint, update: Update) -> None:
    """Give optimizer and random generators the state that they had; the weights are loaded like any model's.

    Each rank reads its share alone, however many wrote. Raises UserError where it is another tier's.
    """
    device = next(iter(update.parameters.values())).device
    random = chance.states(device)
    state = update.state() | random
    reader = HuggingFaceStorageReader(str(checkpoint.folder / STATE))
    written = {name: entry.size for name, entry in reader.read_metadata().state_dict_metadata.items()}  # pyright: ignore
    lacking = random.keys() - written.keys()  # of another device's generators
    for name in lacking:
        del state[name]
    if {name: size for name, size in written.items() if not name.startswith(chance.PREFIX)} != {
        name: tensor.shape for name, tensor in state.items() if not name.startswith(chance.PREFIX)
    }:
        raise UserError(
            f"train.memory: {checkpoint.folder} cannot be taken up (the state is not that of memory {update.memory}); "
            "go on where the run was begun, or start a new run with name=..."
        )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process, or that each reads for itself, is meant
        load_cut(state, storage_reader=reader, no_dist=True)
    for name in random.keys() - lacking:
        chance.restore(name.removeprefix(chance.PREFIX), random[name], device)


def is_saved(run: Path, step: int) -> bool:
    """Whether a step has a checkpoint, whole or with its weights alone."""
    return (run / "checkpoints" / _name(step) / SEAL).is_file()


def has_final(run: Path, best: Checkpoint) -> bool:
    """Whether `final/` is there, whole and made from this checkpoint; a damaged one is written again."""
    final = run / "final"
    return final.is_dir() and not broken(final) and read_json(final / FACTS)["step"] == best.step


def point_best(run: Path, step: int) -> None:
    """Say which saved step is the best so far."""
    _point(run, "best", step)


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
                _remove(folder)
        elif last is None or folder != last.folder:
            shutil.rmtree(folder / STATE, ignore_errors=True)


def write_final(run: Path, checkpoint: Checkpoint, dtype: torch.dtype) -> Path:
    """Write a checkpoint's model, its weights as `dtype`, as the plain folder `final`; file by file, so within little
    memory."""
    final = run / "final"
    aside = _aside(final)
    try:
        for path in sorted(checkpoint.folder.iterdir()):
            if path.suffix == ".safetensors":
                weights = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
                save_file(weights, aside / path.name, {"format": "pt"})
            elif path.is_file() and path.name not in (SEAL, FACTS):
                shutil.copyfile(path, aside / path.name)
        config = read_json(aside / "config.json")
        write_json(aside / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
        write_json(aside / FACTS, {"step": checkpoint.step})
        _settle(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


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


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _aside(folder: Path) -> Path:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def _save_model(folder: Path, model: Any, weights: dict[str, Tensor] | None) -> None:
    with torch.no_grad():
        model.save_pretrained(folder, state_dict=weights)


def _save_state(folder: Path, update: Update, world: World) -> None:
    """The optimizer's state and the generators', in one file of each rank."""
    state = update.state() | chance.states(next(iter(update.parameters.values())).device)
    if world.size == 1:
        folder.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "state.safetensors")
        return
    save_cut(
        state,
        storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
        process_group=world.host,
    )


def _close(aside: Path, folder: Path, tokenizer: Any, facts: dict[str, Any]) -> None:
    """What the first rank adds to what all have written, and the rename that makes it a checkpoint."""
    tokenizer.save_pretrained(aside)
    files = sorted((aside / STATE).iterdir())
    digests = {f"{STATE}/{path.name}": measure(path) for path in files}
    write_json(aside / FACTS, {STATE_DIGEST: digests, **facts})
    _settle(aside, folder)


def _settle(aside: Path, folder: Path) -> None:
    seal(aside, apart=(STATE,))
    sync_tree(aside)
    if folder.exists():  # the same step, written before a crash that came before the pointer
        _remove(folder)
    aside.rename(folder)
    sync_folder(folder.parent)


def _remove(folder: Path) -> None:
    """Remove a folder so that no half of it ever has its name."""
    gone = folder.with_name(f".{folder.name}.{os.getpid()}.gone.partial")
    folder.rename(gone)
    shutil.rmtree(gone)


def _point(run: Path, pointer: str, step: int) -> None:
    write_whole(run / pointer, _name(step) + "\n")
