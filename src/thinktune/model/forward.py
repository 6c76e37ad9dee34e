"""Forward passes and losses: of a batch that trains, and of rows that do not."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from thinktune.distributed import SINGLE, World
from thinktune.errors import UserError
from thinktune.model.batch import Batch, collate
from thinktune.model.loss import CROSS_ENTROPY, LogitChunks, Objective, linear_cross_entropy
from thinktune.model.proof import TOLERANCE, model_traits
from thinktune.model.protocols import CACHE_ARGUMENTS, CausalLM
from thinktune.model.states import batch_states
from thinktune.tokenization import Rendered, TokenKind

Result = TypeVar("Result")


def autocast(model: CausalLM, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return the context in which a model computes in `dtype`; weights of that dtype need none."""
    if dtype in (torch.float32, model.dtype):
        return nullcontext()
    return torch.autocast(model.device.type, dtype)


def inference_context(model: CausalLM) -> AbstractContextManager[Any]:
    """Return the inference context: `inference_mode`, or `no_grad` under FSDP2, whose buffers must stay trainable."""
    return torch.no_grad() if hasattr(model, "with_unsharded_root") else torch.inference_mode()


def hidden_states(model: CausalLM, batch: Batch) -> Tensor:
    """Return the last hidden states (n, hidden) of a batch, run as the class is proved to keep rows apart."""
    return batch_states(model, batch, model_traits(model).rows)


LEAK_ROW_LENGTHS = (17, 11)
# Of the largest state: experts may add what they get in another order, and a state carries that on from token to token.
# A leak moves rows by their size.
LEAK_EPSILONS = 16  # of the arithmetic
LEAK_TOLERANCE = TOLERANCE  # at least: what a proof, in fp32, does not tell apart


@torch.no_grad()
def refuse_leaks(model: CausalLM, precision: torch.dtype) -> None:
    """Raise UserError if a row's states move when only the row before it changes.

    Compares a pass with another of the same shape, so it can ask the loaded model itself, in any precision. Collective
    under FSDP. States that are not finite pass: the first evaluation refuses them, and names the rows.
    """
    was_training = model.training
    model.eval()
    given = [_leak_batch(model, first) for first in (1, 2)]

    def forward() -> list[Tensor]:
        with autocast(model, precision):
            return [hidden_states(model, batch)[LEAK_ROW_LENGTHS[0] :].float() for batch in given]

    before, after = with_unsharded_root(model, forward)
    model.train(was_training)
    moved = float((before - after).abs().max())
    least = max(LEAK_EPSILONS * torch.finfo(precision).eps, LEAK_TOLERANCE) * float(before.abs().max())
    if moved <= least or not bool(before.isfinite().all()):
        return
    raise UserError(
        f"model.name: the loaded {type(model).__name__} cannot be trained: a row changes by {moved:.1g} when the "
        "row before it changes; use another model"
    )


def _leak_batch(model: CausalLM, first: int) -> Batch:
    """Return two rows, of which the first is made of token `first`, on the model's device."""
    vocabulary = len(model.get_input_embeddings().weight)
    rows = [np.full(length, first, np.int32) for length in LEAK_ROW_LENGTHS]
    rows[1] = np.arange(3, 3 + LEAK_ROW_LENGTHS[1], dtype=np.int32) % vocabulary
    kinds = [np.zeros(len(row), np.uint8) for row in rows]
    made = [Rendered(ids, kind, "") for ids, kind in zip(rows, kinds, strict=True)]
    return collate(made, sum(LEAK_ROW_LENGTHS)).to(model.device)


def cache_argument(model: CausalLM) -> str | None:
    """Return the name by which a model's forward pass takes a KV cache, None if it has none that is known.

    The installed release's own signature is asked: a forward pass takes any other name too, and ignores it in silence.
    """
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in parameters), None)


def with_unsharded_root(model: CausalLM, function: Callable[[], Result]) -> Result:
    """Call `function` with the FSDP root (embedding, norm, head) unsharded; without FSDP, just call it."""
    call: Callable[..., Result] | None = getattr(model, "with_unsharded_root", None)  # set by `apply_fsdp`
    return call(function) if call else function()


def set_replica_all_reduce(model: CausalLM, *, enabled: bool) -> None:
    """Turn the all-reduce across replicas on or off: on only for the last micro-batch of a step.

    Until then each replica accumulates its own gradients, so the slowest wire is used once per step.
    """
    set_all_reduce: Callable[..., None] | None = getattr(model, "set_requires_all_reduce", None)  # FSDP2's
    if set_all_reduce:
        set_all_reduce(enabled)


def lm_head_weight(model: CausalLM) -> Tensor:
    """Return the head (vocabulary, hidden) that turns hidden states into logits."""
    return model.get_output_embeddings().weight


TRAINED_KINDS = (TokenKind.REASONING, TokenKind.ANSWER, TokenKind.END)


@dataclass(frozen=True, slots=True)
class LossReport:
    """Sums (3,) of the losses of reasoning, answer and end tokens, and their counts (3,), on the device."""

    sums: Tensor
    counts: Tensor

    def mean_losses(self) -> dict[str, float]:
        """Return the mean losses under the names of metrics.jsonl; this waits for the device."""
        sums, counts = self.sums.tolist(), self.counts.tolist()
        means = {
            f"{part.name.lower()}_loss": total / count
            for part, total, count in zip(TRAINED_KINDS, sums, counts, strict=True)
            if count
        }
        return {"loss": sum(sums) / max(1, sum(counts)), **means}


def evaluate_loss(
    model: CausalLM,
    batches: Iterable[Batch],
    device: torch.device,
    precision: torch.dtype,
    chunk_rows: int | None = None,
    world: World = SINGLE,
) -> LossReport:
    """Return the exact loss over all labels of all ranks' batches; each batch is copied while the last one runs."""
    return _sum_row_losses(model, batches, device, precision, chunk_rows, world)[0]


def evaluate_row_losses(
    model: CausalLM,
    batches: Iterable[Batch],
    device: torch.device,
    precision: torch.dtype,
    chunk_rows: int | None = None,
    world: World = SINGLE,
) -> tuple[LossReport, dict[str, tuple[float, int]]]:
    """Return the same, and the mean loss and label count of each row by its `file:line`, over all its replies.

    Waits for the device once, after the last batch.
    """
    report, rows = _sum_row_losses(model, batches, device, precision, chunk_rows, world)
    local = [(names, sums.tolist(), counts.tolist()) for names, sums, counts in rows]
    found: dict[str, tuple[float, int]] = {}
    for names, sums, counts in chain.from_iterable(world.all_gather(local)):
        for name, total, count in zip(names, sums, counts, strict=True):
            former, tokens = found.get(name, (0.0, 0))
            found[name] = (former + total, tokens + count)
    return report, {name: (total / max(1, count), count) for name, (total, count) in found.items()}


@torch.no_grad()
def _sum_row_losses(
    model: CausalLM,
    batches: Iterable[Batch],
    device: torch.device,
    precision: torch.dtype,
    chunk_rows: int | None,
    world: World,
) -> tuple[LossReport, list[tuple[tuple[str, ...], Tensor, Tensor]]]:
    """Return the losses by token kind and, for each batch, its row sources, their loss sums and label counts."""
    model.eval()
    losses = LossSums(device)
    rows: list[tuple[tuple[str, ...], Tensor, Tensor]] = []
    for batch in batches:
        on_device = batch.to(device)
        _, each = compute_loss(model, on_device, 1.0, precision, chunk_rows)
        losses.add(each, on_device.label_kinds)
        # On the device, where a batch may already be: a number that the host hands over would wait for the card.
        ends = on_device.cu_seqlens[1:].to(device, non_blocking=True).long()
        owners = torch.searchsorted(ends, on_device.label_positions + batch.first_token, right=True)
        sums = each.new_zeros(len(batch.row_sources)).index_add_(0, owners, each)
        counts = owners.new_zeros(len(batch.row_sources)).index_add_(0, owners, torch.ones_like(owners))
        rows.append((batch.row_sources, sums, counts))
    return losses.all_reduce(world), rows


def compute_loss(
    model: CausalLM,
    batch: Batch,
    loss_scale: float,
    precision: torch.dtype,
    chunk_rows: int | None,
    objective: Objective = CROSS_ENTROPY,
) -> tuple[Tensor, Tensor]:
    """Return a batch's summed objective times `loss_scale`, and the cross entropies (m,) of its labels, detached."""

    def forward() -> tuple[Tensor, Tensor]:
        with autocast(model, precision):
            states = hidden_states(model, batch)
        labelled = states.index_select(0, batch.label_positions)
        weight = lm_head_weight(model)
        return linear_cross_entropy(
            labelled,
            weight,
            batch.labels,
            scale=loss_scale,
            dtype=precision,
            chunks=LogitChunks(chunk_rows),
            transform=model_traits(model).logits,
            weights=objective.label_weights(batch.label_kinds),
        )

    return with_unsharded_root(model, forward)


class LossSums:
    """Losses summed by group on the device: by token kind, or by the source of the row."""

    def __init__(self, device: torch.device, groups: int = len(TokenKind)) -> None:
        self._sums = torch.zeros(groups, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        self._counts = torch.zeros(groups, dtype=torch.int64, device=device)

    def add(self, losses: Tensor, label_groups: Tensor) -> None:
        """Add the losses of labels to the sums of their groups."""
        self._sums.index_add_(0, label_groups, losses.to(self._sums.dtype))
        self._counts.index_add_(0, label_groups, torch.ones_like(label_groups))

    def all_reduce(self, world: World) -> LossReport:
        """Sum over all ranks, by the kinds that are trained."""
        return LossReport(world.all_reduce(self._sums)[1:], world.all_reduce(self._counts)[1:])

    def all_reduce_groups(self, world: World) -> LossReport:
        """Sum over all ranks, by every group."""
        return LossReport(world.all_reduce(self._sums), world.all_reduce(self._counts))
