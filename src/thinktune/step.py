"""One optimizer step, and the loss of rows that are not trained on."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from thinktune.loss import linear_cross_entropy
from thinktune.model import arithmetic, gathered, head_weight, hidden_states, sum_over_copies
from thinktune.optim import Update
from thinktune.pack import Batch
from thinktune.parallel import ALONE, World
from thinktune.render import Part

LEARNED_PARTS = (Part.REASONING, Part.ANSWER, Part.END)


@dataclass(frozen=True, slots=True)
class LossReport:
    """Summed losses of reasoning, answer and end tokens, and how many of each there were: (3,) each."""

    sums: Tensor
    counts: Tensor

    def values(self) -> dict[str, float]:
        """Mean losses under the names that metrics.jsonl uses; reading them waits for the device."""
        sums, counts = self.sums.tolist(), self.counts.tolist()
        means = {
            f"{part.name.lower()}_loss": total / count
            for part, total, count in zip(LEARNED_PARTS, sums, counts, strict=True)
            if count
        }
        return {"loss": sum(sums) / max(1, sum(counts)), **means}


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did; numbers stay on the device until they are read."""

    losses: LossReport
    gradient_norm: Tensor
    learned_tokens: int


def step(
    model: Any,
    batches: Sequence[Batch],
    update: Update,
    world: World,
    precision: torch.dtype,
    chunk_rows: int | None = None,
    learned_tokens: int | None = None,
) -> StepReport:
    """Forward and backward over this rank's batches of a step, then one update; the host waits for nothing in it.

    The loss is the sum over learned tokens divided by `learned_tokens`, those of the whole step, over all batches and
    ranks (none: of these batches): how rows were packed never changes what is learned. `chunk_rows` is how many rows of
    logits exist at a time (none: what suits the device).
    """
    if not model.training:
        model.train()
    learned_tokens = learned_tokens or sum(batch.learned_tokens for batch in batches)
    scale = world.size / learned_tokens  # ranks' gradients are averaged, and their sum is meant
    losses = _Sums(batches[0].ids.device)
    for number, batch in enumerate(batches, 1):
        sum_over_copies(model, now=number == len(batches))
        scaled, each = _forward(model, batch, scale, precision, chunk_rows)
        # A loss that is not finite makes every gradient so, and the update refuses those on the device.
        scaled.backward(torch.where(scaled.isfinite(), torch.ones_like(scaled), math.nan))
        losses.add(each, batch.parts)
    return StepReport(losses.report(world), update.finish(), learned_tokens)


def rehearse(
    model: Any, batches: Sequence[Batch], update: Update, precision: torch.dtype, chunk_rows: int | None = None
) -> None:
    """A step with all the memory of one that changes nothing: its gradients are bad, and the update refuses them."""
    model.train()
    update.begin(0, 0.0)
    for number, batch in enumerate(batches, 1):
        sum_over_copies(model, now=number == len(batches))
        scaled, _ = _forward(model, batch, math.nan, precision, chunk_rows)
        scaled.backward()
    update.finish()


def evaluate(
    model: Any,
    batches: Iterable[Batch],
    device: torch.device,
    precision: torch.dtype,
    chunk_rows: int | None = None,
    world: World = ALONE,
) -> LossReport:
    """The exact loss over all learned tokens of all ranks' batches, each copied while the device works on the last."""
    return _measure(model, batches, device, precision, chunk_rows, world)[0]


def evaluate_rows(
    model: Any,
    batches: Iterable[Batch],
    device: torch.device,
    precision: torch.dtype,
    chunk_rows: int | None = None,
    world: World = ALONE,
) -> tuple[LossReport, dict[str, tuple[float, int]]]:
    """The same, and of each row (by its `file:line`) the mean loss and the learned tokens, over all its replies.

    Reading the rows' losses waits for the device, once, when all is done.
    """
    report, rows = _measure(model, batches, device, precision, chunk_rows, world)
    mine = [(names, sums.tolist(), counts.tolist()) for names, sums, counts in rows]
    found: dict[str, tuple[float, int]] = {}
    for names, sums, counts in chain.from_iterable(world.gather(mine)):
        for name, total, count in zip(names, sums, counts, strict=True):
            former, tokens = found.get(name, (0.0, 0))
            found[name] = (former + total, tokens + count)
    return report, {name: (total / max(1, count), count) for name, (total, count) in found.items()}


@torch.no_grad()
def _measure(
    model: Any,
    batches: Iterable[Batch],
    device: torch.device,
    precision: torch.dtype,
    chunk_rows: int | None,
    world: World,
) -> tuple[LossReport, list[tuple[tuple[str, ...], Tensor, Tensor]]]:
    """The losses by part, and of each batch its rows, the sums of their losses and their learned tokens."""
    model.eval()
    losses = _Sums(device)
    rows: list[tuple[tuple[str, ...], Tensor, Tensor]] = []
    for batch in batches:
        on_device = batch.to(device)
        _, each = _forward(model, on_device, 1.0, precision, chunk_rows)
        losses.add(each, on_device.parts)
        owners = torch.searchsorted(batch.boundaries[1:].long(), batch.learned_at, right=True)
        sums = each.new_zeros(len(batch.rows)).index_add_(0, owners.to(device), each)
        counts = owners.new_zeros(len(batch.rows)).index_add_(0, owners, torch.ones_like(owners))
        rows.append((batch.rows, sums, counts))
    return losses.report(world), rows


def warm_up(model: Any, batch: Batch, precision: torch.dtype, chunk_rows: int | None = None) -> float:
    """Compile everything that a step and an evaluation need, by one batch that moves no weight; returns the seconds.

    Of the backward pass only the last layer is run: the others share its code.
    """
    begun = time.monotonic()
    model.train()
    scaled, _ = _forward(model, batch, 1.0, precision, chunk_rows)
    torch.autograd.grad(scaled, model.model.layers[-1].input_layernorm.weight)
    model.eval()
    with torch.no_grad():
        _forward(model, batch, 1.0, precision, chunk_rows)
    if batch.ids.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.monotonic() - begun


def _forward(
    model: Any, batch: Batch, scale: float, precision: torch.dtype, chunk_rows: int | None
) -> tuple[Tensor, Tensor]:
    def pass_through() -> tuple[Tensor, Tensor]:
        with arithmetic(model, precision):
            states = hidden_states(model, batch)
        learned = states.index_select(0, batch.learned_at)
        weight = head_weight(model)
        return linear_cross_entropy(learned, weight, batch.targets, scale=scale, dtype=precision, rows=chunk_rows)

    return gathered(model, pass_through)


class _Sums:
    """Losses summed by part, on the device."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(
            len(Part), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device
        )
        self._counts = torch.zeros(len(Part), dtype=torch.int64, device=device)

    def add(self, each: Tensor, parts: Tensor) -> None:
        self._sums.index_add_(0, parts, each.to(self._sums.dtype))
        self._counts.index_add_(0, parts, torch.ones_like(parts))

    def report(self, world: World) -> LossReport:
        return LossReport(world.total(self._sums)[1:], world.total(self._counts)[1:])
