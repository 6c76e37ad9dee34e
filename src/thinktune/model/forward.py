"""Forward passes and losses: of a batch that trains, and of rows that do not."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from thinktune.data.chat_template import Part
from thinktune.distributed.world import ALONE, World
from thinktune.model.attention import reads_boundaries_on_device
from thinktune.model.batch import Batch
from thinktune.model.loss import linear_cross_entropy

Made = TypeVar("Made")


def arithmetic(model: Any, precision: torch.dtype) -> AbstractContextManager[Any]:
    """The context in which a model computes in `precision`; weights of that type need none."""
    if precision in (torch.float32, model.dtype):
        return nullcontext()
    return torch.autocast(model.device.type, precision)


def no_gradients(model: Any) -> AbstractContextManager[Any]:
    """The context in which a model only answers; FSDP2 cannot train on with what it made in inference mode."""
    return torch.no_grad() if hasattr(model, "gathered") else torch.inference_mode()


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """The last hidden states (n, hidden) of a packed batch; a row sees only itself."""
    boundaries = batch.boundaries
    if reads_boundaries_on_device(model.config._attn_implementation):
        boundaries = boundaries.to(batch.ids.device, non_blocking=True)
    output = model.model(
        input_ids=batch.ids,
        position_ids=batch.positions,
        attention_mask={"full_attention": None},  # the boundaries say it all; transformers builds no mask
        use_cache=False,
        boundaries=boundaries,
        longest=batch.longest,
    )
    return output.last_hidden_state[0]


def gathered(model: Any, function: Callable[[], Made]) -> Made:
    """What a function gives that uses parts of the model by themselves; where its weights are cut over ranks, those
    that belong to no layer are put together for it."""
    return model.gathered(function) if hasattr(model, "gathered") else function()


def sum_over_copies(model: Any, *, now: bool) -> None:
    """Whether the coming backward pass is a step's last, after which copies of the model sum their gradients.

    Until then each adds up its own: the wire between copies, the slowest, is used once a step.
    """
    if hasattr(model, "set_requires_all_reduce"):
        model.set_requires_all_reduce(now)


def head_weight(model: Any) -> Tensor:
    """The matrix (vocabulary, hidden) that turns hidden states into logits."""
    return model.get_output_embeddings().weight


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
    losses = Sums(device)
    rows: list[tuple[tuple[str, ...], Tensor, Tensor]] = []
    for batch in batches:
        on_device = batch.to(device)
        _, each = forward(model, on_device, 1.0, precision, chunk_rows)
        losses.add(each, on_device.parts)
        owners = torch.searchsorted(batch.boundaries[1:].long(), batch.learned_at, right=True)
        sums = each.new_zeros(len(batch.rows)).index_add_(0, owners.to(device), each)
        counts = owners.new_zeros(len(batch.rows)).index_add_(0, owners, torch.ones_like(owners))
        rows.append((batch.rows, sums, counts))
    return losses.report(world), rows


def forward(
    model: Any, batch: Batch, scale: float, precision: torch.dtype, chunk_rows: int | None
) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch, its sum times `scale`, and the loss of each label, detached."""

    def pass_through() -> tuple[Tensor, Tensor]:
        with arithmetic(model, precision):
            states = hidden_states(model, batch)
        learned = states.index_select(0, batch.learned_at)
        weight = head_weight(model)
        return linear_cross_entropy(learned, weight, batch.targets, scale=scale, dtype=precision, rows=chunk_rows)

    return gathered(model, pass_through)


class Sums:
    """Losses summed by part, on the device."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(
            len(Part), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device
        )
        self._counts = torch.zeros(len(Part), dtype=torch.int64, device=device)

    def add(self, each: Tensor, parts: Tensor) -> None:
        """Add the losses of labels to the sums of their kinds."""
        self._sums.index_add_(0, parts, each.to(self._sums.dtype))
        self._counts.index_add_(0, parts, torch.ones_like(parts))

    def report(self, world: World) -> LossReport:
        """Sum over all ranks."""
        return LossReport(world.total(self._sums)[1:], world.total(self._counts)[1:])
