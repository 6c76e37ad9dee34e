"""Weight files of a final model: names, files and dtypes as its base has them, one file in memory at a time."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from thinktune.checkpoint.base_files import StoredAs
from thinktune.files import name_path, write_json

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"

# Of a final model's weights by name: the file, the name in the checkpoint, and the dtype if it is one of its own.
WeightPlan = Mapping[str, tuple[str, str, torch.dtype | None]]


def write_weights(
    files: Sequence[Path], folder: Path, place: Path, dtype: torch.dtype, stored_as: Mapping[str, StoredAs]
) -> None:
    """Write the weights of a checkpoint's files into a folder, as `dtype`, and their index where there are several.

    Where `stored_as` has a place for every weight, and a weight for every place, that is followed; else names and
    files are those of the checkpoint. Raises OSError that names the file, by its `place` after the folder is renamed.
    """
    holders = tensor_files(files)
    plan = plan_weights(holders, stored_as)
    sizes = dict[str, tuple[int, int]]()
    for file in dict.fromkeys(file for file, _, _ in plan.values()):
        weights = _read_as(
            {name: (source, own) for name, (where, source, own) in plan.items() if where == file}, holders, dtype
        )
        with name_path(place / file):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            save_file(weights, folder / file, {"format": "pt"})
        sizes |= {name: (weight.nbytes, weight.numel()) for name, weight in weights.items()}
    write_index(folder, plan, sizes)


def write_index(folder: Path, plan: WeightPlan, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Write the index of a folder's weights where there are several files; `sizes` are bytes and elements by name."""
    if all(file == SINGLE_FILE for file, _, _ in plan.values()):
        return
    total_bytes, total_parameters = (sum(each) for each in zip(*sizes.values(), strict=True))
    write_json(
        folder / INDEX_FILE,
        {
            "metadata": {"total_parameters": total_parameters, "total_size": total_bytes},
            "weight_map": {name: file for name, (file, _, _) in sorted(plan.items())},
        },
    )


def plan_weights(holders: Mapping[str, Path], stored_as: Mapping[str, StoredAs]) -> WeightPlan:
    """Plan a final model's weights as its base stores them, or where some do not fit as the checkpoint does."""
    return _plan_as_base(holders, stored_as) or {
        name: (path.name, name, None) for name, path in sorted(holders.items(), key=lambda item: item[1].name)
    }


def tensor_files(files: Iterable[Path]) -> dict[str, Path]:
    """Return the file of each tensor in safetensors files."""
    found: dict[str, Path] = {}
    for path in files:
        with name_path(path), safe_open(path, framework="pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def _plan_as_base(
    holders: Mapping[str, Path], stored_as: Mapping[str, StoredAs]
) -> dict[str, tuple[str, str, torch.dtype | None]] | None:
    """Return file, name in the checkpoint and own dtype of each weight as the base has it; None if some do not fit.

    A base without a head, whose names lack the prefix that a body has beside one, gets the trained class's names.
    """
    found: dict[str, tuple[str, str, torch.dtype | None]] = {}
    for name, stored in stored_as.items():
        source = next((each for each in stored.sources if each in holders), None)
        if source is None:
            return None
        in_class = name if name in holders else stored.sources[min(1, len(stored.sources) - 1)]
        found[in_class] = (stored.file, source, stored.own_dtype)
    return found if set(holders) == {source for _, source, _ in found.values()} else None


def _read_as(
    wanted: Mapping[str, tuple[str, torch.dtype | None]], holders: Mapping[str, Path], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Read tensors by their names in the checkpoint, floating ones in their own dtype or else in `dtype`."""
    found, seen = dict[str, Tensor](), set[str]()
    with ExitStack() as stack:
        opened = {
            path: stack.enter_context(safe_open(path, framework="pt"))
            for path in dict.fromkeys(holders[source] for source, _ in wanted.values())
        }
        for name, (source, own) in wanted.items():
            with name_path(holders[source]):
                tensor: Tensor = opened[holders[source]].get_tensor(source)
            found[name] = tensor.to(own or dtype) if tensor.is_floating_point() else tensor
            if source in seen:  # a tied head that is stored beside its embedding; safetensors writes no shared memory
                found[name] = found[name].clone()
            seen.add(source)
    return found
