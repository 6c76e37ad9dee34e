"""What a rank does in the tests of many ranks: functions that a forked process can find by name."""

import os
import signal
from typing import Any

import torch
from runs import settings

import thinktune.train as room
from thinktune.errors import Stopped
from thinktune.parallel import join, leave

CPU = torch.device("cpu")


def train_here(tree: dict[str, Any], stop_at: int | None = None) -> list[str]:
    """Train by a recipe's tree among the ranks; what this rank said. With `stop_at` the last rank is told to stop."""
    world = join(CPU)
    said: list[str] = []
    if stop_at and world.rank == world.size - 1:
        taken, made = room.step, []

        def stepping(*given: Any) -> Any:
            made.append(taken(*given))
            if len(made) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return made[-1]

        room.step = stepping
    try:
        room.train(settings(tree), said.append, ("test",), world=world)
    except Stopped as stopped:
        said.append(str(stopped))
    leave()
    return said
