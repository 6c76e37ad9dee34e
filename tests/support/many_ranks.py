"""What a rank does in the tests of many ranks: functions that a forked process can find by name."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import thinktune.train.loop as room
from support.runs import settings
from thinktune.checkpoint import saving as checkpoint
from thinktune.checkpoint import store as checkpoint_store
from thinktune.config.schema import TrainConfig
from thinktune.data.chat_template import Rendered
from thinktune.data.packing import balance
from thinktune.distributed.sharding import ParallelDims, as_shard_of, local_shard, row_offset
from thinktune.distributed.world import World, destroy_distributed, init_distributed
from thinktune.errors import Stopped
from thinktune.model.attention import set_attention
from thinktune.model.batch import Batch, collate
from thinktune.model.forward import evaluate_loss
from thinktune.model.loading import load_model, load_sharded_model
from thinktune.model.transforms import apply_activation_budget, compile_layers
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer
from thinktune.train.step import step

CPU = torch.device("cpu")


class Name:
    """As much of a tokenizer as a checkpoint asks for."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.txt").write_text("none", encoding="utf-8")


def train_here(tree: dict[str, Any], stop_at: int | None = None) -> list[str]:
    """Train by a recipe's tree among the ranks; what this rank said. With `stop_at` the last rank is told to stop."""
    world = init_distributed(CPU)
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
    destroy_distributed()
    return said


def go_on(folder: Path, former: str, name: str, steps: list[int], spread: ParallelDims) -> list[int]:
    """Of every tier read a checkpoint, take some steps with given gradients, and write the next checkpoint.

    Returns how many numbers this rank kept of each tier's weights, and those of all.
    """
    world = init_distributed(CPU)
    kept: list[int] = []
    for memory in TIERS:
        found = checkpoint_store.find_checkpoint(folder / f"{former}-{memory}", "last")
        source = found.folder if found else folder / "start"
        if world.size > 1:
            model = load_sharded_model(source, world.mesh(spread, CPU), CPU, TIERS[memory].load_dtype)
        else:
            model = load_model(source, CPU, TIERS[memory].load_dtype)
        update = Optimizer(model, TrainConfig(rows_per_step=1, memory=memory, update_in_backward=False, clip_norm=1e9))
        if found:
            checkpoint.restore(found, update)
        for number in steps:
            take_step(update, number)
        kept.append(sum(local_shard(weight).numel() for weight in update.parameters.values()))
        kept.append(sum(weight.numel() for weight in update.parameters.values()))
        checkpoint.save(folder / f"{name}-{memory}", model, Name(), update, {"step": steps[-1]}, world)
    destroy_distributed()
    return kept


def take_step(update: Optimizer, step: int) -> None:
    """A step of the update by gradients that depend on nothing but its number."""
    chance = torch.Generator().manual_seed(step)
    update.begin_step(step, 1e-3)
    for weight in update.parameters.values():
        gradient = torch.randn(weight.shape, generator=chance).to(weight.dtype)
        first = row_offset(weight)
        part = gradient[first : first + len(local_shard(weight.detach()))]
        weight.grad = as_shard_of(part, weight)
    update.finish_step()


@dataclass(frozen=True)
class Case:
    """A way to train: tier, where the update is, the share of activations kept, whether layers are compiled."""

    memory: str
    inside: bool = False
    budget: float = 1.0
    compiled: bool = False
    tied: bool = True


def two_steps(folder: Path, cases: list[Case], spread: ParallelDims) -> list[list[float]]:
    """Of each case the losses of two steps, the norms of their gradients, and the loss after them."""
    world = init_distributed(CPU)
    found = [_two_steps(folder / ("tied" if case.tied else "untied"), case, spread, world) for case in cases]
    destroy_distributed()
    return found


def _two_steps(source: Path, case: Case, spread: ParallelDims, world: World) -> list[float]:
    dtype, precision = TIERS[case.memory].load_dtype, torch.float32 if case.memory == "fp32" else torch.bfloat16
    model = (
        load_sharded_model(source, world.mesh(spread, CPU), CPU, dtype)
        if world.size > 1
        else load_model(source, CPU, dtype)
    )
    asked = TrainConfig(rows_per_step=1, memory=case.memory, update_in_backward=case.inside, clip_norm=1e9)
    update = Optimizer(model, asked)
    set_attention(model, precision)
    apply_activation_budget(model, case.budget, compiled=False)
    if case.compiled:
        compile_layers(model, backend="aot_eager")
    told: list[float] = []
    for number in (1, 2):
        update.begin_step(number, 1e-3)
        made = step(
            model, _batches(number, world, 512 if case.inside else 48), update, world, precision, label_tokens=100
        )
        told += [made.losses.mean_losses()["loss"], made.gradient_norm.item()]
    return [*told, evaluate_loss(model, _batches(3, world, 48), CPU, precision, world=world).mean_losses()["loss"]]


def _batches(number: int, world: World, capacity: int) -> list[Batch]:
    """Four rows of 100 learned tokens in all, in batches of up to so many tokens."""
    chance = np.random.default_rng(number)
    rows = [
        Rendered(chance.integers(0, 300, size).astype(np.int32), np.array([0] * 5 + [2] * (size - 5), np.uint8), "r:1")
        for size in (25, 40, 15, 40)
    ]
    groups = balance([len(row) for row in rows], capacity, world.size)[world.rank]
    return [collate([rows[index] for index in group], capacity) for group in groups]
