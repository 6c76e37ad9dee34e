"""What a run writes to its disk at most at one time, from the model's configuration, beside the room that is there."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thinktune.config import MemoryTierName
from thinktune.errors import UserError
from thinktune.optim import TIERS
from thinktune.planner.hardware import GIB
from thinktune.planner.trace import parameter_shapes

OTHER_FILES_BYTES = 64 * 2**20  # tokenizers, configurations, journals, the page


@dataclass(frozen=True, slots=True)
class DiskRequirements:
    """Bytes of a checkpoint's weights, of the optimizer's state beside them, and of the final model."""

    weights_bytes: int
    state_bytes: int
    final_bytes: int

    @property
    def checkpoint_bytes(self) -> int:
        """A whole one."""
        return self.weights_bytes + self.state_bytes

    @property
    def peak_bytes(self) -> int:
        """At the worst moment: the last checkpoint and the best weights stand while the next one is written.

        Or the final model, which may be the larger: a base in fp32 that is trained in bf16 is written in fp32.
        """
        return (
            self.checkpoint_bytes
            + self.weights_bytes
            + max(self.checkpoint_bytes, self.final_bytes)
            + OTHER_FILES_BYTES
        )


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Bytes that are free where a run writes, and those that its folder holds already, which count as room."""

    free_bytes: int
    run_folder_bytes: int

    def missing_bytes(self, requirements: DiskRequirements) -> int:
        """How many bytes more the run needs than there are."""
        return max(0, requirements.peak_bytes - self.run_folder_bytes - self.free_bytes)


def disk_requirements(config: Any, memory: MemoryTierName) -> DiskRequirements:
    """What a run of a model in a memory tier writes: its masters, and the final model in the type of the base."""
    count, tier = sum(map(math.prod, parameter_shapes(config))), TIERS[memory]
    weights = count * tier.weight_bytes_per_parameter
    state = round(count * tier.bytes_per_parameter) - weights
    return DiskRequirements(weights, state, count * (config.dtype or torch.float32).itemsize)


def disk_space(folder: Path) -> DiskSpace:
    """The room for a run's folder, which need not be there yet."""
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return DiskSpace(shutil.disk_usage(there).free, held)


def describe_shortage(folder: Path, requirements: DiskRequirements) -> str | None:
    """What to do where the disk is too small for a run; none where it is not."""
    found = disk_space(folder)
    if not (missing := found.missing_bytes(requirements)):
        return None
    more = (requirements.peak_bytes - found.run_folder_bytes) / GIB
    return (
        f"{folder}: its disk has {found.free_bytes / GIB:.2f} GiB free, and the run needs {more:.2f} GiB more (the best "
        f"weights and two checkpoints of {requirements.checkpoint_bytes / GIB:.2f} GiB, the second making room for the final "
        f"model of {requirements.final_bytes / GIB:.2f} GiB); free {missing / GIB:.2f} GiB, or write elsewhere by runs_folder=..."
    )


def require_disk_space(folder: Path, requirements: DiskRequirements) -> None:
    """Raise UserError where the disk cannot hold what a run needs at most."""
    if told := describe_shortage(folder, requirements):
        raise UserError(told)


def disk_as_dict(folder: Path, requirements: DiskRequirements) -> dict[str, Any]:
    """Needs and room as plain values, in bytes."""
    found = disk_space(folder)
    return {
        "folder": str(folder),
        "checkpoint_bytes": requirements.checkpoint_bytes,
        "best_weights_bytes": requirements.weights_bytes,
        "final_bytes": requirements.final_bytes,
        "most_bytes": requirements.peak_bytes,
        "held_bytes": found.run_folder_bytes,
        "free_bytes": found.free_bytes,
        "fits": not found.missing_bytes(requirements),
    }


def describe_disk(facts: dict[str, Any]) -> str:
    """The same in one line."""
    checkpoint, best, final, most, held, free = (
        f"{facts[f'{name}_bytes'] / GIB:.2f}"
        for name in ("checkpoint", "best_weights", "final", "most", "held", "free")
    )
    holds = f", and the run's folder holds {held} already" if facts["held_bytes"] else ""
    return (
        f"disk: at most {most} GiB at a time in {facts['folder']} (two checkpoints of {checkpoint}, the best weights "
        f"{best}; the final model, {final}, takes the second checkpoint's place); free are {free} GiB{holds}"
    )
