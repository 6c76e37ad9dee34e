"""A model whose weights are cut over ranks, written as a plain transformers folder by all ranks at once."""

import os
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from thinktune.files import write_json
from thinktune.optim import Update
from thinktune.parallel import World
from thinktune.shares import whole

_LAYER = re.compile(r"(.*\.layers\.\d+)\.")


def write_shares(folder: Path, model: Any, update: Update, world: World) -> None:
    """Write configuration and weights (the masters, where there are any), a file for each layer, in turn by each rank.

    A layer is put together on all ranks, so that none ever holds more than one of them above its own share. Raises the
    error of the rank whose disk refuses, on all ranks.
    """
    groups = _groups(list(update.parameters))
    files = {file: f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number, file in enumerate(groups, 1)}
    sizes = dict.fromkeys(groups, 0)
    refusal: Exception | None = None
    for number, (group, names) in enumerate(groups.items()):
        weights = {name: whole(update.master(name)).detach() for name in names}
        sizes[group] = sum(weight.nbytes for weight in weights.values())
        if number % world.size == world.rank and not refusal:
            try:
                _write(folder / files[group], weights)
            except Exception as error:  # the other ranks still ask for this one's shares
                refusal = error
    world.together(lambda: _raise(refusal))
    if world.leads:
        places = {name: files[group] for group, names in groups.items() for name in names}
        total = {"total_size": sum(sizes.values())}
        write_json(folder / "model.safetensors.index.json", {"metadata": total, "weight_map": places})
        model.config.dtype = model.dtype
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)


def _groups(names: list[str]) -> dict[str, list[str]]:
    """Names of weights by their layer; what is in none stands alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = _LAYER.match(name)
        groups.setdefault(layer[1] if layer else name, []).append(name)
    return groups


def _write(path: Path, weights: dict[str, Tensor]) -> None:
    save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, path, {"format": "pt"})
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _raise(error: Exception | None) -> None:
    if error:
        raise error
