"""Disk space that a run needs at most at one time, from the model's configuration, and the space there is."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thinktune.config import MemoryTierName
from thinktune.errors import UserError
from thinktune.model import ModelConfig
from thinktune.optim import TIERS
from thinktune.planner.hardware import GIB
from thinktune.planner.trace import parameter_shapes

OTHER_FILES_BYTES = 64 * 2**20  # tokenizer, configurations, journals, the report


@dataclass(frozen=True, slots=True)
class DiskRequirements:
    """Bytes of a checkpoint's weights, of the optimizer's state, and of the final model.

    `averaged_bytes` are those of one more model, beside the final one, while weights are averaged.
    """

    weights_bytes: int
    state_bytes: int
    final_bytes: int
    averaged_bytes: int = 0

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of a whole checkpoint."""
        return self.weights_bytes + self.state_bytes

    @property
    def peak_bytes(self) -> int:
        """Bytes at the peak: the last checkpoint and the best weights, while another checkpoint is written.

        Or the final model, which may be larger: an fp32 base that is trained in bf16 is written in fp32.
        """
        return (
            self.checkpoint_bytes
            + self.weights_bytes
            + max(self.checkpoint_bytes, self.final_bytes + self.averaged_bytes)
            + OTHER_FILES_BYTES
        )


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Free bytes where a run writes, and bytes in its folder already, which count as free."""

    free_bytes: int
    run_folder_bytes: int

    def missing_bytes(self, requirements: DiskRequirements) -> int:
        """Return how many bytes the run needs beyond those available."""
        return max(0, requirements.peak_bytes - self.run_folder_bytes - self.free_bytes)


def disk_requirements(config: ModelConfig, memory: MemoryTierName, *, averages: bool = False) -> DiskRequirements:
    """Compute the bytes that a run in a memory tier writes; the final model has the dtype of the base.

    `averages` says that models between base and tuned are written as well, one at a time.
    """
    count, tier = sum(map(math.prod, parameter_shapes(config))), TIERS[memory]
    weights = count * tier.weight_bytes_per_parameter
    state = round(count * tier.bytes_per_parameter) - weights
    final = count * (config.dtype or torch.float32).itemsize
    return DiskRequirements(weights, state, final, final if averages else 0)


def disk_space(folder: Path) -> DiskSpace:
    """Measure the disk of a run's folder, which need not exist yet."""
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return DiskSpace(shutil.disk_usage(there).free, held)


def describe_shortage(folder: Path, requirements: DiskRequirements) -> str | None:
    """Explain what to do if the disk is too small for a run; None if it is not."""
    found = disk_space(folder)
    if not (missing := found.missing_bytes(requirements)):
        return None
    free, needed, checkpoint, best, final = (
        spell_size(size)
        for size in (
            found.free_bytes,
            requirements.peak_bytes - found.run_folder_bytes,
            requirements.checkpoint_bytes,
            requirements.weights_bytes,
            requirements.final_bytes,
        )
    )
    return (
        f"{folder}: the disk has {free} free, and the run needs {needed} more (two checkpoints of {checkpoint}, the "
        f"best weights {best}, other files {spell_size(OTHER_FILES_BYTES)}; the final model of {final} replaces the "
        f"second checkpoint); free {spell_missing(missing)}, or set runs_folder=... to another disk"
    )


def require_disk_space(folder: Path, requirements: DiskRequirements) -> None:
    """Raise UserError if the disk cannot hold what a run needs at most."""
    if shortage := describe_shortage(folder, requirements):
        raise UserError(shortage)


def disk_as_dict(folder: Path, requirements: DiskRequirements) -> dict[str, Any]:
    """Return requirements and space as JSON values, in bytes."""
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
    """Describe what `disk_as_dict` returned in one line."""
    checkpoint, best, final, most, held, free = (
        spell_size(facts[f"{name}_bytes"]) for name in ("checkpoint", "best_weights", "final", "most", "held", "free")
    )
    holds = f", and the run's folder already holds {held}" if facts["held_bytes"] else ""
    return (
        f"disk: at most {most} at a time in {facts['folder']} (two checkpoints of {checkpoint}, the best weights "
        f"{best}, other files {spell_size(OTHER_FILES_BYTES)}; the final model, {final}, replaces the second "
        f"checkpoint); {free} are free{holds}"
    )


def spell_size(size_bytes: int) -> str:
    """Spell a size in GiB, or in MiB where it is smaller than one GiB."""
    return f"{size_bytes / GIB:,.2f} GiB" if size_bytes >= GIB else f"{size_bytes / 2**20:.1f} MiB"


def spell_missing(size_bytes: int) -> str:
    """Spell a size that somebody is to free: never less than it."""
    step = GIB / 100 if size_bytes >= GIB else 2**20 / 10
    return spell_size(math.ceil(math.ceil(size_bytes / step) * step))
