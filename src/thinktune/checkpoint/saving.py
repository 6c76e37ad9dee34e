"""Checkpoints: folders that are whole or absent and known by their digests, pointers to them, and the final model."""

import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_cut
from torch.distributed.checkpoint.state_dict_saver import save as save_cut

from thinktune.checkpoint.manifest import MANIFEST, checksum, write_manifest
from thinktune.checkpoint.store import (
    STATE_CHECKSUMS_KEY,
    STATE_FOLDER,
    TRAINER_STATE_FILE,
    Checkpoint,
    checkpoint_name,
    remove_folder,
    write_pointer,
)
from thinktune.distributed import SINGLE, World, full_tensor
from thinktune.errors import UserError
from thinktune.files import fsync_folder, fsync_tree, read_json, write_json
from thinktune.optim import Optimizer

RNG_PREFIX = "random/"  # of their names among those of an update's state


def rng_states(device: torch.device) -> dict[str, Tensor]:
    """The state of the host's generator, and of the device's."""
    found = {f"{RNG_PREFIX}cpu": torch.get_rng_state()}
    if device.type != "cpu":
        found[f"{RNG_PREFIX}{device.type}"] = torch.get_device_module(device).get_rng_state()
    return found


def set_rng_state(device_type: str, state: Tensor, device: torch.device) -> None:
    """Set the generator of a kind of device; that of another kind than this one is left alone."""
    if device_type == "cpu":
        torch.set_rng_state(state)
    elif device_type == device.type:
        torch.get_device_module(device).set_rng_state(state)


_LAYER_PREFIX = re.compile(r"(.*\.layers\.\d+)\.")


def save_sharded_model(folder: Path, model: Any, optimizer: Optimizer, world: World) -> None:
    """Write configuration and weights (the masters, where there are any), a file for each layer, in turn by each rank.

    A layer is put together on all ranks, so that none ever holds more than one of them above its own share. Raises the
    error of the rank whose disk refuses, on all ranks.
    """
    groups = _group_by_layer(list(optimizer.parameters))
    files = {file: f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number, file in enumerate(groups, 1)}
    sizes = dict.fromkeys(groups, 0)
    refusal: Exception | None = None
    for number, (group, names) in enumerate(groups.items()):
        weights = {name: full_tensor(optimizer.master_weight(name)).detach() for name in names}
        sizes[group] = sum(weight.nbytes for weight in weights.values())
        if number % world.size == world.rank and not refusal:
            try:
                _write_safetensors(folder / files[group], weights)
            except Exception as error:  # the other ranks still ask for this one's shares
                refusal = error
    world.run_on_all(lambda: _raise_if(refusal))
    if world.is_main:
        places = {name: files[group] for group, names in groups.items() for name in names}
        total = {"total_size": sum(sizes.values())}
        write_json(folder / "model.safetensors.index.json", {"metadata": total, "weight_map": places})
        model.config.dtype = model.dtype
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)


def _group_by_layer(names: list[str]) -> dict[str, list[str]]:
    """Names of weights by their layer; what is in none stands alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = _LAYER_PREFIX.match(name)
        groups.setdefault(layer[1] if layer else name, []).append(name)
    return groups


def _write_safetensors(path: Path, weights: dict[str, Tensor]) -> None:
    save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, path, {"format": "pt"})
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _raise_if(error: Exception | None) -> None:
    if error:
        raise error


def save(
    run_folder: Path,
    step: int,
    model: Any,
    tokenizer: Any,
    optimizer: Optimizer,
    trainer_state: dict[str, Any],
    world: World = SINGLE,
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
    folder = run_folder / "checkpoints" / checkpoint_name(step)
    aside = world.broadcast(_partial_folder(folder) if world.is_main else folder)
    try:
        if world.size == 1:
            _save_unsharded_model(aside, model, optimizer.master_weights())
        else:
            save_sharded_model(aside, model, optimizer, world)
        _save_optimizer_state(aside / STATE_FOLDER, optimizer, world)
        world.run_on_all(
            lambda: (
                _commit_checkpoint(aside, folder, tokenizer, {"step": step, **trainer_state}) if world.is_main else None
            )
        )
    finally:
        if world.is_main:
            shutil.rmtree(aside, ignore_errors=True)
    if world.is_main:
        write_pointer(run_folder, "last", step)
    return Checkpoint(folder, step)


def restore(checkpoint: Checkpoint, optimizer: Optimizer) -> None:
    """Give optimizer and random generators the state that they had; the weights are loaded like any model's.

    Each rank reads its share alone, however many wrote. Raises UserError where it is another tier's.
    """
    device = next(iter(optimizer.parameters.values())).device
    random = rng_states(device)
    state = optimizer.state_dict() | random
    reader = HuggingFaceStorageReader(str(checkpoint.folder / STATE_FOLDER))
    written = {name: entry.size for name, entry in reader.read_metadata().state_dict_metadata.items()}  # pyright: ignore
    lacking = random.keys() - written.keys()  # of another device's generators
    for name in lacking:
        del state[name]
    if {name: size for name, size in written.items() if not name.startswith(RNG_PREFIX)} != {
        name: tensor.shape for name, tensor in state.items() if not name.startswith(RNG_PREFIX)
    }:
        raise UserError(
            f"train.memory: {checkpoint.folder} cannot be taken up (the state is not that of memory {optimizer.memory}); "
            "go on where the run was begun, or start a new run with name=..."
        )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process, or that each reads for itself, is meant
        load_cut(state, storage_reader=reader, no_dist=True)
    for name in random.keys() - lacking:
        set_rng_state(name.removeprefix(RNG_PREFIX), random[name], device)


def write_final(run_folder: Path, checkpoint: Checkpoint, dtype: torch.dtype) -> Path:
    """Write a checkpoint's model, its weights as `dtype`, as the plain folder `final`; file by file, so within little
    memory."""
    final = run_folder / "final"
    aside = _partial_folder(final)
    try:
        for path in sorted(checkpoint.folder.iterdir()):
            if path.suffix == ".safetensors":
                weights = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
                save_file(weights, aside / path.name, {"format": "pt"})
            elif path.is_file() and path.name not in (MANIFEST, TRAINER_STATE_FILE):
                shutil.copyfile(path, aside / path.name)
        config = read_json(aside / "config.json")
        write_json(aside / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
        write_json(aside / TRAINER_STATE_FILE, {"step": checkpoint.step})
        _commit_folder(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def _partial_folder(folder: Path) -> Path:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def _save_unsharded_model(folder: Path, model: Any, weights: dict[str, Tensor] | None) -> None:
    with torch.no_grad():
        model.save_pretrained(folder, state_dict=weights)


def _save_optimizer_state(folder: Path, optimizer: Optimizer, world: World) -> None:
    """The optimizer's state and the generators', in one file of each rank."""
    state = optimizer.state_dict() | rng_states(next(iter(optimizer.parameters.values())).device)
    if world.size == 1:
        folder.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "state.safetensors")
        return
    save_cut(
        state,
        storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
        process_group=world.gloo_group,
    )


def _commit_checkpoint(aside: Path, folder: Path, tokenizer: Any, trainer_state: dict[str, Any]) -> None:
    """What the first rank adds to what all have written, and the rename that makes it a checkpoint."""
    tokenizer.save_pretrained(aside)
    files = sorted((aside / STATE_FOLDER).iterdir())
    digests = {f"{STATE_FOLDER}/{path.name}": checksum(path) for path in files}
    write_json(aside / TRAINER_STATE_FILE, {STATE_CHECKSUMS_KEY: digests, **trainer_state})
    _commit_folder(aside, folder)


def _commit_folder(aside: Path, folder: Path) -> None:
    write_manifest(aside, exclude=(STATE_FOLDER,))
    fsync_tree(aside)
    if folder.exists():  # the same step, written before a crash that came before the pointer
        remove_folder(folder)
    aside.rename(folder)
    fsync_folder(folder.parent)
