"""Save and restore checkpoints, on one rank or many, and write the final model."""

import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from thinktune.checkpoint.averaging import Average, write_average
from thinktune.checkpoint.base_files import CONFIG_FILE, BaseFiles, StoredAs
from thinktune.checkpoint.manifest import CARD_FILE, MANIFEST, checksum, write_manifest
from thinktune.checkpoint.store import (
    AVERAGE_KEY,
    STATE_CHECKSUMS_KEY,
    STATE_FOLDER,
    TRAINER_STATE_FILE,
    Checkpoint,
    remove_folder,
    write_pointer,
)
from thinktune.checkpoint.weight_files import INDEX_FILE, write_weights
from thinktune.distributed import SINGLE, World, full_tensor
from thinktune.distributed.world import raise_checkpoint_cause
from thinktune.errors import UserError
from thinktune.files import atomic_write_text, fsync_folder, fsync_tree, name_path, read_json, write_json
from thinktune.optim import Optimizer
from thinktune.run import RunFolder

RNG_PREFIX = "random/"  # of the generators' names among those of the optimizer's state


def rng_states(device: torch.device) -> dict[str, Tensor]:
    """Return the RNG state of the host and of the device, as uint8 tensors by name."""
    found = {f"{RNG_PREFIX}cpu": torch.get_rng_state()}
    if device.type != "cpu":
        found[f"{RNG_PREFIX}{device.type}"] = torch.get_device_module(device).get_rng_state()
    return found


def set_rng_state(device_type: str, state: Tensor, device: torch.device) -> None:
    """Set the RNG state of the host, or of the device if it is of that type."""
    if device_type == "cpu":
        torch.set_rng_state(state)
    elif device_type == device.type:
        torch.get_device_module(device).set_rng_state(state)


_LAYER_PREFIX = re.compile(r"(.*\.layers\.\d+)\.")


def save_sharded_model(folder: Path, model: Any, optimizer: Optimizer, world: World) -> None:
    """Write configuration and weights (fp32 masters, where there are any), a file for each layer, by the ranks in turn.

    All ranks gather one layer at a time, so that none holds more than one layer besides its own shard. Where a rank
    cannot write, its error is raised on all ranks.
    """
    groups = _group_by_layer(list(optimizer.parameters))
    files = {file: f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number, file in enumerate(groups, 1)}
    sizes = dict.fromkeys(groups, 0)
    write_error: Exception | None = None
    for number, (group, names) in enumerate(groups.items()):
        weights = {name: full_tensor(optimizer.master_weight(name)).detach() for name in names}
        sizes[group] = sum(weight.nbytes for weight in weights.values())
        if number % world.size == world.rank and not write_error:
            try:
                _write_safetensors(folder / files[group], weights)
            except Exception as error:  # the other ranks still need this one's shards
                write_error = error

    def finish() -> None:
        if write_error:
            raise write_error
        if world.is_main:
            places = {name: files[group] for group, names in groups.items() for name in names}
            total = {"total_size": sum(sizes.values())}
            write_json(folder / INDEX_FILE, {"metadata": total, "weight_map": places})
            model.config.dtype = model.dtype
            model.config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)

    world.run_on_all(finish)


def _group_by_layer(names: list[str]) -> dict[str, list[str]]:
    """Group names of weights by layer; a weight outside the layers is a group of its own."""
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = _LAYER_PREFIX.match(name)
        groups.setdefault(layer[1] if layer else name, []).append(name)
    return groups


def _write_safetensors(path: Path, weights: dict[str, Tensor]) -> None:
    save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, path, {"format": "pt"})
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def save(
    run_folder: Path,
    model: Any,
    base_files: BaseFiles,
    optimizer: Optimizer,
    trainer_state: dict[str, Any],
    world: World = SINGLE,
) -> Checkpoint:
    """Save model, optimizer and trainer state as the checkpoint of a step, then point `last` at it.

    A crash leaves the former checkpoint in place. Where the optimizer keeps fp32 masters, those are the weights that
    are written. Nothing is copied on the device, so weights and state must not change meanwhile; with one process,
    generation and evaluation may go on. All ranks write at once, and any number of ranks can read what they wrote.
    Raises OSError on all ranks where a disk is full or fails; then nothing of the new checkpoint is left.

    Args:
        run_folder: the run's folder, on a disk that all ranks share.
        model: the model that is trained.
        base_files: the base's tokenizer and configuration, which the checkpoint carries on.
        optimizer: its optimizer.
        trainer_state: the `step`, and what else the run needs to resume, as JSON; that of the first rank is written.
        world: the ranks, all of which must call.
    """
    step = trainer_state["step"]
    folder = RunFolder(run_folder).checkpoint(step)
    # By its name: the run's folder may have another path on another machine.
    partial = folder.with_name(world.run_on_main(lambda: _partial_folder(folder).name))
    try:
        with name_path(folder):
            if world.size == 1:
                _save_unsharded_model(partial, model, optimizer.master_weights())
            else:
                save_sharded_model(partial, model, optimizer, world)
            _save_optimizer_state(partial / STATE_FOLDER, optimizer, world)
            world.run_on_main(lambda: _commit_checkpoint(partial, folder, base_files, trainer_state))
    finally:
        if world.is_main:
            shutil.rmtree(partial, ignore_errors=True)
    return Checkpoint(folder, step)


def restore(checkpoint: Checkpoint, optimizer: Optimizer) -> None:
    """Load the state of optimizer and random generators; the weights are loaded like any model's.

    Each rank reads its shard by itself, however many ranks wrote. Raises UserError where the state is another memory
    tier's.
    """
    device = next(iter(optimizer.parameters.values())).device
    random = rng_states(device)
    state = optimizer.state_dict() | random
    reader = HuggingFaceStorageReader(str(checkpoint.folder / STATE_FOLDER))
    written = {name: entry.size for name, entry in reader.read_metadata().state_dict_metadata.items()}  # pyright: ignore
    missing = random.keys() - written.keys()  # generators of a device that the writer did not have
    for name in missing:
        del state[name]
    if {name: size for name, size in written.items() if not name.startswith(RNG_PREFIX)} != {
        name: tensor.shape for name, tensor in state.items() if not name.startswith(RNG_PREFIX)
    }:
        raise UserError(
            f"train.memory: {checkpoint.folder} cannot be restored (its state does not fit memory "
            f"{optimizer.memory}); resume it on the machine where it started, or start a new run with name=..."
        )
    state_folder = checkpoint.folder / STATE_FOLDER
    with torch.no_grad(), name_path(state_folder), warnings.catch_warnings(), raise_checkpoint_cause():
        warnings.simplefilter("ignore")  # about a single process, or each reading by itself: both are intended
        state_dict_loader.load(state, storage_reader=reader, no_dist=True)
    for name in random.keys() - missing:
        set_rng_state(name.removeprefix(RNG_PREFIX), random[name], device)


@dataclass(frozen=True, slots=True)
class PlainForm:
    """The form of a plain model folder: the dtype of its weights, where its base stores each, and what it says of it.

    `state` is the content of its state.json: the step, and the run's diagnosis (see `diagnosis_record`).
    """

    dtype: torch.dtype
    stored_as: Mapping[str, StoredAs]
    state: Mapping[str, Any]


def write_plain(
    place: Path, checkpoint: Checkpoint, form: PlainForm, card: str | None, average: Average | None = None
) -> Path:
    """Write a checkpoint's model, or its average with the base, as a plain folder with its card; whole or not at all.

    The folder is the base's with new weights. A former one in its place is removed once this one is whole.
    """
    partial = _partial_folder(place)
    try:
        fill_plain(partial, place, checkpoint, form, average)
        if card is not None:
            atomic_write_text(partial / CARD_FILE, card)
        _commit_folder(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def fill_plain(
    folder: Path, place: Path, checkpoint: Checkpoint, form: PlainForm, average: Average | None = None
) -> None:
    """Write all of a plain model folder but its card and manifest; errors name its files by `place`."""
    left_out = (MANIFEST, TRAINER_STATE_FILE, INDEX_FILE)
    weights = sorted(checkpoint.folder.glob("*.safetensors"))
    if average is None:
        write_weights(weights, folder, place, form.dtype, form.stored_as)
    else:
        write_average(weights, folder, place, average, (form.dtype, form.stored_as))
    for path in sorted(checkpoint.folder.iterdir()):
        if path.is_file() and path.suffix != ".safetensors" and path.name not in left_out:
            with name_path(place / path.name):
                shutil.copyfile(path, folder / path.name)
        elif path.is_dir() and path.name != STATE_FOLDER:
            with name_path(place / path.name):
                shutil.copytree(path, folder / path.name)
    name = str(form.dtype).removeprefix("torch.")
    # Each of the two names is read by some releases.
    write_json(folder / CONFIG_FILE, read_json(folder / CONFIG_FILE) | {"dtype": name, "torch_dtype": name})
    state = dict(form.state) | ({AVERAGE_KEY: {"weight": average.weight}} if average else {})
    write_json(folder / TRAINER_STATE_FILE, state)


def _partial_folder(folder: Path) -> Path:
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _save_unsharded_model(folder: Path, model: Any, weights: dict[str, Tensor] | None) -> None:
    with torch.no_grad():
        if weights is None and model.device.type != "cpu":
            # transformers would copy what is a part of another tensor on the device, all at once, beside an evaluation.
            weights = {name: _own_or_on_host(weight) for name, weight in model.state_dict().items()}
        model.save_pretrained(folder, state_dict=weights)


def _own_or_on_host(weight: Tensor) -> Tensor:
    is_part = weight.numel() * weight.element_size() < weight.untyped_storage().nbytes()
    return weight.cpu() if is_part else weight


def _save_optimizer_state(folder: Path, optimizer: Optimizer, world: World) -> None:
    """Write the state of optimizer and random generators, a file for each rank."""
    state = optimizer.state_dict() | rng_states(next(iter(optimizer.parameters.values())).device)
    if world.size == 1:
        folder.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "state.safetensors")
        return
    with raise_checkpoint_cause():
        state_dict_saver.save(
            state,
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            process_group=world.gloo_group,
        )


def _commit_checkpoint(partial: Path, folder: Path, base_files: BaseFiles, trainer_state: dict[str, Any]) -> None:
    """Add base files, trainer state and manifest to what ranks have written, rename it, and point `last` at it."""
    base_files.write(partial)
    files = sorted((partial / STATE_FOLDER).iterdir())
    digests = {f"{STATE_FOLDER}/{path.name}": checksum(path) for path in files}
    write_json(partial / TRAINER_STATE_FILE, {STATE_CHECKSUMS_KEY: digests, **trainer_state})
    _commit_folder(partial, folder)
    write_pointer(folder.parent.parent, "last", trainer_state["step"])


def _commit_folder(partial: Path, folder: Path) -> None:
    write_manifest(partial, exclude=(STATE_FOLDER,))
    fsync_tree(partial)
    if folder.exists():  # the same step, from before a crash that came ahead of the pointer
        remove_folder(folder)
    partial.rename(folder)
    fsync_folder(folder.parent)
