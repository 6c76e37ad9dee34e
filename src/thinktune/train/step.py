"""One optimizer step, and the loss of rows that are not trained on."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thinktune.distributed import World
from thinktune.model import Batch, LossReport
from thinktune.model.forward import LossSums, compute_loss, set_replica_all_reduce
from thinktune.optim import Optimizer


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did; numbers stay on the device until they are read."""

    losses: LossReport
    gradient_norm: Tensor
    label_tokens: int


def step(
    model: Any,
    batches: Sequence[Batch],
    optimizer: Optimizer,
    world: World,
    precision: torch.dtype,
    chunk_rows: int | None = None,
    label_tokens: int | None = None,
) -> StepReport:
    """Forward and backward over this rank's batches of a step, then one update; the host waits for nothing in it.

    The loss is the sum over learned tokens divided by `label_tokens`, those of the whole step, over all batches and
    ranks (none: of these batches): how rows were packed never changes what is learned. `chunk_rows` is how many rows of
    logits exist at a time (none: what suits the device).
    """
    if not model.training:
        model.train()
    label_tokens = label_tokens or sum(batch.label_tokens for batch in batches)
    scale = world.size / label_tokens  # ranks' gradients are averaged, and their sum is meant
    losses = LossSums(batches[0].ids.device)
    for number, batch in enumerate(batches, 1):
        set_replica_all_reduce(model, enabled=number == len(batches))
        scaled, each = compute_loss(model, batch, scale, precision, chunk_rows)
        # A loss that is not finite makes every gradient so, and the update refuses those on the device.
        scaled.backward(torch.where(scaled.isfinite(), torch.ones_like(scaled), math.nan))
        losses.add(each, batch.label_kinds)
    return StepReport(losses.all_reduce(world), optimizer.finish_step(), label_tokens)


def dry_train_step(
    model: Any, batches: Sequence[Batch], optimizer: Optimizer, precision: torch.dtype, chunk_rows: int | None = None
) -> None:
    """A step with all the memory of one that changes nothing: its gradients are bad, and the update refuses them."""
    model.train()
    optimizer.begin_step(0, 0.0)
    for number, batch in enumerate(batches, 1):
        set_replica_all_reduce(model, enabled=number == len(batches))
        scaled, _ = compute_loss(model, batch, math.nan, precision, chunk_rows)
        scaled.backward()
    optimizer.finish_step()


def warm_up(model: Any, batch: Batch, precision: torch.dtype, chunk_rows: int | None = None) -> float:
    """Compile everything that a step and an evaluation need, by one batch that moves no weight; returns the seconds.

    Of the backward pass only the last layer is run: the others share its code.
    """
    begun = time.monotonic()
    model.train()
    scaled, _ = compute_loss(model, batch, 1.0, precision, chunk_rows)
    torch.autograd.grad(scaled, model.model.layers[-1].input_layernorm.weight)
    model.eval()
    with torch.no_grad():
        compute_loss(model, batch, 1.0, precision, chunk_rows)
    if batch.ids.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.monotonic() - begun
