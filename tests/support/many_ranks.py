"""Work of one rank in the tests of many ranks: functions that a forked process can find by name."""

import copy
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.runs import settings
from support.tiny_models import tiny_model
from thinktune.checkpoint import saving, store
from thinktune.checkpoint.base_files import BaseFiles
from thinktune.config.schema import TrainConfig
from thinktune.data.packing import balance
from thinktune.distributed.sharding import ParallelDims, as_shard_of, local_shard, row_offset
from thinktune.distributed.world import World, destroy_distributed, init_distributed
from thinktune.errors import Stopped
from thinktune.model.attention import set_attention
from thinktune.model.batch import Batch, collate
from thinktune.model.forward import compute_loss, evaluate_loss, evaluate_row_losses
from thinktune.model.loading import load_model, load_sharded_model
from thinktune.model.long_rows.context_parallel import share_context
from thinktune.model.loss import CROSS_ENTROPY, Objective
from thinktune.model.low_precision.float8 import Scaling, apply_float8
from thinktune.model.transforms import apply_activation_budget, compile_layers
from thinktune.optim.memory_tiers import TIERS
from thinktune.optim.optimizer import Optimizer
from thinktune.tokenization import Rendered
from thinktune.train import loop
from thinktune.train.step import StepOptions, step

CPU = torch.device("cpu")


def train_here(tree: dict[str, Any], stop_at: int | None = None) -> list[str]:
    """Train by a recipe's tree; return what this rank printed. With `stop_at` the last rank gets a signal in that step."""
    world = init_distributed(CPU)
    said: list[str] = []
    if stop_at and world.rank == world.size - 1:
        real, reports = loop.step, []

        def stepping(*args: Any) -> Any:
            reports.append(real(*args))
            if len(reports) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return reports[-1]

        loop.step = stepping
    try:
        loop.train(settings(tree), said.append, ("test",), world=world)
    except Stopped as stopped:
        said.append(str(stopped))
    destroy_distributed()
    return said


def resume_and_step(folder: Path, former: str, name: str, steps: list[int], parallel_dims: ParallelDims) -> list[int]:
    """For every tier read a checkpoint, take some steps with given gradients, and write the next checkpoint.

    Returns for each tier the number of weights that this rank keeps, and of all weights.
    """
    world = init_distributed(CPU)
    kept: list[int] = []
    for memory in TIERS:
        found = store.find_checkpoint(folder / f"{former}-{memory}", "last")
        source = found.folder if found else folder / "start"
        if world.size > 1:
            model = load_sharded_model(source, world.mesh(parallel_dims, CPU), CPU, TIERS[memory].load_dtype)
        else:
            model = load_model(source, CPU, TIERS[memory].load_dtype)
        optimizer = Optimizer(
            model, TrainConfig(rows_per_step=1, memory=memory, update_in_backward=False, clip_norm=1e9)
        )
        if found:
            saving.restore(found, optimizer)
        for number in steps:
            take_step(optimizer, number)
        kept.append(sum(local_shard(weight).numel() for weight in optimizer.parameters.values()))
        kept.append(sum(weight.numel() for weight in optimizer.parameters.values()))
        saving.save(folder / f"{name}-{memory}", model, BaseFiles(), optimizer, {"step": steps[-1]}, world)
    destroy_distributed()
    return kept


def take_step(optimizer: Optimizer, step: int) -> None:
    """Take a step with gradients that depend on nothing but its number."""
    generator = torch.Generator().manual_seed(step)
    optimizer.begin_step(step, 1e-3)
    for weight in optimizer.parameters.values():
        gradient = torch.randn(weight.shape, generator=generator).to(weight.dtype)
        first = row_offset(weight)
        part = gradient[first : first + len(local_shard(weight.detach()))]
        weight.grad = as_shard_of(part, weight)
    optimizer.finish_step()


@dataclass(frozen=True)
class Case:
    """A way to train: tier, update in backward or after it, activation budget, compiled layers, and so on.

    With `float8`, the layers' products are in 8 bits, by this scaling, and one rank has the batches of two one by one:
    a scale is that of a whole batch.
    """

    memory: str
    inside: bool = False
    budget: float = 1.0
    compiled: bool = False
    tied: bool = True
    objective: Objective = CROSS_ENTROPY
    float8: Scaling | None = None


def two_steps(folder: Path, cases: list[Case], parallel_dims: ParallelDims) -> list[list[float]]:
    """Return for each case the losses and gradient norms of two steps, and the eval loss after them."""
    world = init_distributed(CPU)
    found = [_two_steps(folder / ("tied" if case.tied else "untied"), case, parallel_dims, world) for case in cases]
    destroy_distributed()
    return found


def _two_steps(source: Path, case: Case, parallel_dims: ParallelDims, world: World) -> list[float]:
    dtype, precision = TIERS[case.memory].load_dtype, torch.float32 if case.memory == "fp32" else torch.bfloat16
    model = (
        load_sharded_model(source, world.mesh(parallel_dims, CPU), CPU, dtype)
        if world.size > 1
        else load_model(source, CPU, dtype)
    )
    config = TrainConfig(rows_per_step=1, memory=case.memory, update_in_backward=case.inside, clip_norm=1e9)
    optimizer = Optimizer(model, config)
    if case.float8:
        apply_float8(model, case.float8, hold=world.size == 1 and not case.inside)
    set_attention(model, precision)
    apply_activation_budget(model, case.budget, compiled=False)
    if case.compiled:
        compile_layers(model, backend="aot_eager")
    numbers: list[float] = []
    for number in (1, 2):
        optimizer.begin_step(number, 1e-3)
        batches = _batches(number, world, 512 if case.inside else 48, max(world.size, 2 if case.float8 else 1))
        weight = case.objective.summed_weight(100, REASONING_TOKENS)
        options = StepOptions(label_tokens=100, objective=case.objective, label_weight=weight)
        report = step(model, batches, optimizer, world, precision, options)
        numbers += [report.losses.mean_losses()["loss"], report.gradient_norm.item()]
    return [*numbers, evaluate_loss(model, _batches(3, world, 48), CPU, precision, world=world).mean_losses()["loss"]]


REASONING_TOKENS = 45  # of the 100


def _batches(number: int, world: World, capacity: int, ranks: int | None = None) -> list[Batch]:
    """Pack four rows, of 100 learned tokens in all, in batches of up to so many tokens; one rank has those of all."""
    generator = np.random.default_rng(number)
    rows = [
        Rendered(
            generator.integers(0, 300, size).astype(np.int32),
            np.array([0] * 5 + [1] * reasoning + [2] * (size - 5 - reasoning), np.uint8),
            "r:1",
        )
        for size, reasoning in ((25, 12), (40, 0), (15, 8), (40, 25))
    ]
    by_rank = balance([len(row) for row in rows], capacity, ranks or world.size)
    groups = by_rank[world.rank] if world.size > 1 else [group for groups in by_rank for group in groups]
    return [collate([rows[index] for index in group], capacity) for group in groups]


DFT_WITH_WEIGHTS = Objective(0.25, 1.0, by_probability=True)
CONTEXT_LENGTHS = (25, 40, 1, 15, 40, 30)  # of packed rows, of which ranks' slices cut some in two


def context_differences(names: list[str], size: int, compiled: bool = False) -> dict[str, list[float]]:
    """Return for each kind of model how far losses and gradients of ranks that share tokens are from one rank's.

    Relative to the largest of the loss, and of any gradient.
    """
    world = init_distributed(CPU)
    found = {name: _context_difference(name, world, size, compiled) for name in names}
    destroy_distributed()
    return found


def _context_difference(name: str, world: World, size: int, compiled: bool) -> list[float]:
    model = tiny_model(name).train()
    set_attention(model, torch.float32)
    generator = np.random.default_rng(0)
    rows = [
        Rendered(
            generator.integers(3, 150, length).astype(np.int32),
            np.array([0, *([1, 2] * length)[: length - 1]], np.uint8),
            f"r:{length}",
        )
        for length in CONTEXT_LENGTHS
    ]
    batch = collate(rows, 1024)
    alone = copy.deepcopy(model)
    losses, wanted = _row_losses_and_gradients(alone, batch, World(), 1.0)
    share = share_context(model, world, size)
    if compiled:
        compile_layers(model, backend="aot_eager")
    part = share.slice(batch)
    theirs, found = _row_losses_and_gradients(model, part, world, world.size / size)
    assert theirs.keys() == losses.keys()
    apart = max(abs(theirs[row][0] - losses[row][0]) for row in losses)
    assert all(theirs[row][1] == losses[row][1] * (world.size // size) for row in losses)
    alone.zero_grad()
    model.zero_grad()
    _, wanted_by_dft = _row_losses_and_gradients(alone, batch, World(), 1.0, DFT_WITH_WEIGHTS)
    _, found_by_dft = _row_losses_and_gradients(model, part, world, world.size / size, DFT_WITH_WEIGHTS)
    return [apart, _relative_difference(found, wanted), _relative_difference(found_by_dft, wanted_by_dft)]


def _relative_difference(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    return max(float((found[key] - wanted[key]).abs().max()) for key in wanted) / largest


def _row_losses_and_gradients(
    model: Any, batch: Batch, world: World, copies: float, objective: Objective = CROSS_ENTROPY
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the mean losses of a batch's rows and the gradients of its summed loss, over all ranks and `copies` of it."""
    scaled, _ = compute_loss(model, batch, 1 / copies, torch.float32, None, objective)
    scaled.backward()
    gradients = {
        key: world.all_reduce(weight.grad) for key, weight in model.named_parameters() if weight.grad is not None
    }
    return evaluate_row_losses(model, [batch], CPU, torch.float32, world=world)[1], gradients
