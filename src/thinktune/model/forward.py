"""Forward passes and losses: of a batch that trains, and of rows that do not."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from thinktune.data import TokenKind
from thinktune.distributed import SINGLE, World
from thinktune.model.attention import reads_cu_seqlens_on_device
from thinktune.model.batch import Batch
from thinktune.model.loss import linear_cross_entropy

Result = TypeVar("Result")


def autocast(model: Any, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """The context in which a model computes in `dtype`; weights of that type need none."""
    if dtype in (torch.float32, model.dtype):
        return nullcontext()
    return torch.autocast(model.device.type, dtype)


def inference_context(model: Any) -> AbstractContextManager[Any]:
    """The context in which a model only answers; FSDP2 cannot train on with what it made in inference mode."""
    return torch.no_grad() if hasattr(model, "with_unsharded_root") else torch.inference_mode()


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """The last hidden states (n, hidden) of a packed batch; a row sees only itself."""
    cu_seqlens = batch.cu_seqlens
    if reads_cu_seqlens_on_device(model.config._attn_implementation):
        cu_seqlens = cu_seqlens.to(batch.ids.device, non_blocking=True)
    output = model.model(
        input_ids=batch.ids,
        position_ids=batch.position_ids,
        attention_mask={"full_attention": None},  # the boundaries say it all; transformers builds no mask
        use_cache=False,
        cu_seqlens=cu_seqlens,
        max_seqlen=batch.max_seqlen,
    )
    return output.last_hidden_state[0]


def with_unsharded_root(model: Any, function: Callable[[], Result]) -> Result:
    """What a function gives that uses parts of the model by themselves; where its weights are cut over ranks, those
    that belong to no layer are put together for it."""
    return model.with_unsharded_root(function) if hasattr(model, "with_unsharded_root") else function()


def set_replica_all_reduce(model: Any, *, enabled: bool) -> None:
    """Whether the coming backward pass is a step's last, after which copies of the model sum their gradients.

    Until then each adds up its own: the wire between copies, the slowest, is used once a step.
    """
    if hasattr(model, "set_requires_all_reduce"):
        model.set_requires_all_reduce(enabled)


def lm_head_weight(model: Any) -> Tensor:
    """The matrix (vocabulary, hidden) that turns hidden states into logits."""
    return model.get_output_embeddings().weight


TRAINED_KINDS = (TokenKind.REASONING, TokenKind.ANSWER, TokenKind.END)


@dataclass(frozen=True, slots=True)
class LossReport:
    """Summed losses of reasoning, answer and end tokens, and how many of each there were: (3,) each."""

    sums: Tensor
    counts: Tensor

    def mean_losses(self) -> dict[str, float]:
        """Mean losses under the names that metrics.jsonl uses; reading them waits for the device."""
        sums, counts = self.sums.tolist(), self.counts.tolist()
        means = {
            f"{part.name.lower()}_loss": total / count
            for part, total, count in zip(TRAINED_KINDS, sums, counts, strict=True)
            if count
        }
        return {"loss": sum(sums) / max(1, sum(counts)), **means}


def evaluate_loss(
    model: Any,
    batches: Iterable[Batch],
    device: torch.device,
    precision: torch.dtype,
    chunk_rows: int | None = None,
    world: World = SINGLE,
) -> LossReport:
    """The exact loss over all learned tokens of all ranks' batches, each copied while the device works on the last."""
    return _sum_row_losses(model, batches, device, precision, chunk_rows, world)[0]


def evaluate_row_losses(
    model: Any,
    batches: Iterable[Batch],
    device: torch.device,
    precision: torch.dtype,
    chunk_rows: int | None = None,
    world: World = SINGLE,
) -> tuple[LossReport, dict[str, tuple[float, int]]]:
    """The same, and of each row (by its `file:line`) the mean loss and the learned tokens, over all its replies.

    Reading the rows' losses waits for the device, once, when all is done.
    """
    report, rows = _sum_row_losses(model, batches, device, precision, chunk_rows, world)
    mine = [(names, sums.tolist(), counts.tolist()) for names, sums, counts in rows]
    found: dict[str, tuple[float, int]] = {}
    for names, sums, counts in chain.from_iterable(world.all_gather(mine)):
        for name, total, count in zip(names, sums, counts, strict=True):
            former, tokens = found.get(name, (0.0, 0))
            found[name] = (former + total, tokens + count)
    return report, {name: (total / max(1, count), count) for name, (total, count) in found.items()}


@torch.no_grad()
def _sum_row_losses(
    model: Any,
    batches: Iterable[Batch],
    device: torch.device,
    precision: torch.dtype,
    chunk_rows: int | None,
    world: World,
) -> tuple[LossReport, list[tuple[tuple[str, ...], Tensor, Tensor]]]:
    """The losses by part, and of each batch its rows, the sums of their losses and their learned tokens."""
    model.eval()
    losses = LossSums(device)
    rows: list[tuple[tuple[str, ...], Tensor, Tensor]] = []
    for batch in batches:
        on_device = batch.to(device)
        _, each = compute_loss(model, on_device, 1.0, precision, chunk_rows)
        losses.add(each, on_device.label_kinds)
        owners = torch.searchsorted(batch.cu_seqlens[1:].long(), batch.label_positions, right=True)
        sums = each.new_zeros(len(batch.row_sources)).index_add_(0, owners.to(device), each)
        counts = owners.new_zeros(len(batch.row_sources)).index_add_(0, owners, torch.ones_like(owners))
        rows.append((batch.row_sources, sums, counts))
    return losses.all_reduce(world), rows


def compute_loss(
    model: Any, batch: Batch, loss_scale: float, precision: torch.dtype, chunk_rows: int | None
) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch, its sum times `loss_scale`, and the loss of each label, detached."""

    def pass_through() -> tuple[Tensor, Tensor]:
        with autocast(model, precision):
            states = hidden_states(model, batch)
        learned = states.index_select(0, batch.label_positions)
        weight = lm_head_weight(model)
        return linear_cross_entropy(
            learned, weight, batch.labels, scale=loss_scale, dtype=precision, chunk_rows=chunk_rows
        )

    return with_unsharded_root(model, pass_through)


class LossSums:
    """Losses summed by part, on the device."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(
            len(TokenKind), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device
        )
        self._counts = torch.zeros(len(TokenKind), dtype=torch.int64, device=device)

    def add(self, losses: Tensor, label_kinds: Tensor) -> None:
        """Add the losses of labels to the sums of their kinds."""
        self._sums.index_add_(0, label_kinds, losses.to(self._sums.dtype))
        self._counts.index_add_(0, label_kinds, torch.ones_like(label_kinds))

    def all_reduce(self, world: World) -> LossReport:
        """Sum over all ranks."""
        return LossReport(world.all_reduce(self._sums)[1:], world.all_reduce(self._counts)[1:])
