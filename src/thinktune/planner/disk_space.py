"""What a run writes to its disk at most at one time, from the model's configuration, beside the room that is there."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thinktune.config.schema import Memory
from thinktune.errors import UserError
from thinktune.optim.memory_tiers import TIERS
from thinktune.planner.hardware import GIB
from thinktune.planner.trace import parameter_shapes

BESIDE_BYTES = 64 * 2**20  # tokenizers, configurations, journals, the page


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of a checkpoint's weights, of the optimizer's state beside them, and of the final model."""

    weights: int
    state: int
    final: int

    @property
    def checkpoint(self) -> int:
        """A whole one."""
        return self.weights + self.state

    @property
    def most(self) -> int:
        """At the worst moment: the last checkpoint and the best weights stand while the next one is written.

        Or the final model, which may be the larger: a base in fp32 that is trained in bf16 is written in fp32.
        """
        return self.checkpoint + self.weights + max(self.checkpoint, self.final) + BESIDE_BYTES


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that are free where a run writes, and those that its folder holds already, which count as room."""

    free: int
    held: int

    def missing(self, needs: Needs) -> int:
        """How many bytes more the run needs than there are."""
        return max(0, needs.most - self.held - self.free)


def needs(config: Any, memory: Memory) -> Needs:
    """What a run of a model in a memory tier writes: its masters, and the final model in the type of the base."""
    count, tier = sum(map(math.prod, parameter_shapes(config))), TIERS[memory]
    weights = count * (2 if tier.weights == "rounded" else 4)
    state = round(count * tier.bytes_per_parameter) - weights
    return Needs(weights, state, count * (config.dtype or torch.float32).itemsize)


def room(folder: Path) -> Room:
    """The room for a run's folder, which need not be there yet."""
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return Room(shutil.disk_usage(there).free, held)


def fault(folder: Path, needs: Needs) -> str | None:
    """What to do where the disk is too small for a run; none where it is not."""
    found = room(folder)
    if not (missing := found.missing(needs)):
        return None
    more = (needs.most - found.held) / GIB
    return (
        f"{folder}: its disk has {found.free / GIB:.2f} GiB free, and the run needs {more:.2f} GiB more (the best "
        f"weights and two checkpoints of {needs.checkpoint / GIB:.2f} GiB, the second making room for the final "
        f"model of {needs.final / GIB:.2f} GiB); free {missing / GIB:.2f} GiB, or write elsewhere by runs_folder=..."
    )


def refuse_no_room(folder: Path, needs: Needs) -> None:
    """Raise UserError where the disk cannot hold what a run needs at most."""
    if told := fault(folder, needs):
        raise UserError(told)


def facts(folder: Path, needs: Needs) -> dict[str, Any]:
    """Needs and room as plain values, in bytes."""
    found = room(folder)
    return {
        "folder": str(folder),
        "checkpoint_bytes": needs.checkpoint,
        "best_weights_bytes": needs.weights,
        "final_bytes": needs.final,
        "most_bytes": needs.most,
        "held_bytes": found.held,
        "free_bytes": found.free,
        "fits": not found.missing(needs),
    }


def say(facts: dict[str, Any]) -> str:
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
