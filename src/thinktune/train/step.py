"""One optimizer step, its dry run, and the compiler's warm-up."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinktune.distributed import World
from thinktune.model import Batch, CausalLM
from thinktune.model.decoder import decoder_layers
from thinktune.model.forward import LossReport, LossSums, compute_loss, set_replica_all_reduce
from thinktune.model.loss import CROSS_ENTROPY, Objective
from thinktune.model.low_precision.float8 import cast_weights
from thinktune.optim import Optimizer


@dataclass(frozen=True, slots=True)
class StepReport:
    """Cross entropies, whatever the objective, and gradient norm of a step, on the device until they are read."""

    losses: LossReport
    gradient_norm: Tensor  # a scalar, before clipping
    label_tokens: int
    sources: LossReport | None = None  # sums and counts (sources,), where a run has several


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What a step minimizes, and options of it that change neither model nor data.

    `label_tokens` are the trained tokens of the whole step, on all ranks (None: those of the batches given), and
    `label_weight` is the sum of their weights (None: each is 1); `chunk_rows` is how many rows of logits exist at a
    time (None: what suits the device). Of several `sources`, losses are summed apart as well.
    """

    label_tokens: int | None = None
    chunk_rows: int | None = None
    sources: int = 1
    objective: Objective = CROSS_ENTROPY
    label_weight: float | None = None


DEFAULT_OPTIONS = StepOptions()


def step(
    model: CausalLM,
    batches: Sequence[Batch],
    optimizer: Optimizer,
    world: World,
    precision: torch.dtype,
    options: StepOptions = DEFAULT_OPTIONS,
) -> StepReport:
    """Run forward and backward over this rank's micro-batches (gradient accumulation), then one update.

    The host never waits for the device in it. The loss is the sum over the trained tokens of all micro-batches and
    ranks, divided by their number, or by the sum of their weights: how rows were packed never changes what is learned.
    A step in which nothing weighs anything has no gradient.
    """
    if not model.training:
        model.train()
    cast_weights(model)
    label_tokens = options.label_tokens or sum(batch.label_tokens for batch in batches)
    assert options.label_weight is not None or not options.objective.weighs_parts
    weight = label_tokens if options.label_weight is None else options.label_weight
    scale = world.size / weight if weight else 0.0  # ranks' gradients are averaged, and their sum is meant
    losses = LossSums(batches[0].ids.device)
    by_source = LossSums(batches[0].ids.device, options.sources)
    for number, batch in enumerate(batches, 1):
        set_replica_all_reduce(model, enabled=number == len(batches))
        scaled, each = compute_loss(model, batch, scale, precision, options.chunk_rows, options.objective)
        # A loss that is not finite makes its row's gradient so, and the update refuses that on the device.
        scaled.backward()
        losses.add(each, batch.label_kinds)
        if batch.label_sources is not None:
            by_source.add(each, batch.label_sources)
    sources = by_source.all_reduce_groups(world) if options.sources > 1 else None
    return StepReport(losses.all_reduce(world), optimizer.finish_step(), label_tokens, sources)


def dry_train_step(
    model: CausalLM,
    batches: Sequence[Batch],
    optimizer: Optimizer,
    precision: torch.dtype,
    chunk_rows: int | None = None,
    objective: Objective = CROSS_ENTROPY,
) -> None:
    """Run a step with full memory use and NaN gradients, so that the optimizer skips the update."""
    model.train()
    optimizer.begin_step(0, 0.0)
    cast_weights(model)
    for number, batch in enumerate(batches, 1):
        set_replica_all_reduce(model, enabled=number == len(batches))
        scaled, _ = compute_loss(model, batch, math.nan, precision, chunk_rows, objective)
        scaled.backward()
    optimizer.finish_step()


def warm_up(
    model: CausalLM,
    batch: Batch,
    precision: torch.dtype,
    chunk_rows: int | None = None,
    objective: Objective = CROSS_ENTROPY,
    *,
    evaluates: bool = True,
) -> float:
    """Compile what a step, and an evaluation if asked for, need, and return the seconds it took.

    One batch runs, and changes no weight. The backward pass runs through the last layer only: the others share its
    code.
    """
    started_at = time.monotonic()
    model.train()
    cast_weights(model)
    scaled, _ = compute_loss(model, batch, 1.0, precision, chunk_rows, objective)
    torch.autograd.grad(scaled, list(decoder_layers(model)[-1].parameters()), allow_unused=True)
    model.eval()
    if evaluates:
        with torch.no_grad():
            compute_loss(model, batch, 1.0, precision, chunk_rows)
    if batch.ids.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.monotonic() - started_at
