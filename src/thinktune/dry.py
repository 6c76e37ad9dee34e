"""A dry step: a run's largest shapes once through everything before its first step, and what to do if they fail."""

import numpy as np
import torch

from thinktune.balance import balance
from thinktune.errors import UserError, brief
from thinktune.model import count_parameters
from thinktune.pack import Batch, pack
from thinktune.run import Run
from thinktune.settle import batch_capacity
from thinktune.step import evaluate, rehearse
from thinktune.tiers import TIERS


def dry_step(run: Run) -> None:
    """Train and evaluate once at the largest shapes, changing neither weights nor state.

    Raises UserError where that takes more memory than the device has.
    """
    try:
        batches = [batch.to(run.device) for batch in largest_batches(run)]
        rehearse(run.model, batches, run.update, run.precision, run.chunk_rows)
        if len(run.prepared.validation):
            rows = run.prepared.validation
            capacity = batch_capacity(run.recipe, rows, run.device, run.capacity)
            chosen = rows.replies(_filling(rows.lengths, rows.learned, capacity))
            evaluate(run.model, pack(chosen, capacity, pad=run.pad), run.device, run.precision, run.chunk_rows)
    except torch.OutOfMemoryError as error:
        raise too_large(run, error, "in a dry step at the run's largest shapes") from error


def largest_batches(run: Run) -> list[Batch]:
    """A batch as full of learned tokens as any; twice where some step takes several, as gradients are kept then."""
    rows = run.prepared.train
    chosen = rows.replies(_filling(rows.lengths, rows.learned, run.capacity))
    packed = pack(chosen, run.capacity, pad=run.pad)
    largest = max(run.steps, key=lambda dealt: int(rows.lengths[list(dealt.rows)].sum()))
    several = len(balance(rows.lengths[list(largest.rows)].tolist(), run.capacity, run.world.size)[0]) > 1
    return packed * 2 if several else packed


def too_large(run: Run, error: BaseException, when: str) -> UserError:
    """The error for a full memory, naming what would fit: first what changes no result, then cheaper tiers."""
    settings, ways = run.recipe.train, list[str]()
    if settings.activation_budget != 0:
        ways.append("train.activation_budget=0")
    if run.capacity > run.recipe.data.max_tokens:
        ways.append(f"train.batch_tokens={max(run.recipe.data.max_tokens, run.capacity // 2)}")
    count, tier = count_parameters(run.model), TIERS[run.update.memory]
    for name, other in TIERS.items():
        saved = count * (tier.bytes_per_parameter - other.bytes_per_parameter) / 2**30
        if saved > 0 and settings.precision != "fp32":
            ways.append(f"in a new run train.memory={name} ({saved:.2f} GiB less)")
    ways.append("a smaller data.max_tokens or model in a new run")
    return UserError(
        f"train.batch_tokens: is {run.capacity}, and the memory of {run.device} is full {when} ({brief(error, 120)}); "
        f"in this order try {', '.join(ways)}"
    )


def _filling(lengths: np.ndarray, learned: np.ndarray, capacity: int) -> list[int]:
    """Rows with the most learned tokens first, as many as a batch takes."""
    chosen: list[int] = []
    room = capacity
    for row in np.argsort(-learned.astype(np.int64), kind="stable").tolist():
        if lengths[row] <= room:
            chosen.append(row)
            room -= int(lengths[row])
    return chosen
