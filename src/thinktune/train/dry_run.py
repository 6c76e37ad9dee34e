"""A dry step: a run's largest shapes once through everything before its first step, and what to do if they fail."""

from dataclasses import replace

import numpy as np
import torch

from thinktune.data.packing import balance
from thinktune.errors import UserError, shorten_error
from thinktune.inference.kv_cache import GROW_COLUMNS, KVCache
from thinktune.model import Batch, evaluate_loss, pack
from thinktune.model.forward import autocast
from thinktune.model.loading import count_parameters
from thinktune.optim import TIERS
from thinktune.planner import as_overrides, fallback
from thinktune.planner.hardware import GIB, Card
from thinktune.planner.resolve import evaluation_batch_tokens, local_card, make_workload, sample_shape
from thinktune.train.samples import sampling_modes
from thinktune.train.state import Run
from thinktune.train.step import dry_train_step

RESUMABLE_SETTINGS = ("activation_budget", "batch_tokens")  # of a setting, what may change while a run goes on


def dry_run(run: Run) -> None:
    """Train, evaluate and write a token of samples once at the largest shapes, changing neither weights nor state.

    Where the samples do not all fit side by side, the run writes fewer at a time. Raises UserError where anything else
    takes more memory than the device has.
    """
    try:
        batches = [batch.to(run.device) for batch in largest_batches(run)]
        dry_train_step(run.model, batches, run.optimizer, run.precision, run.chunk_rows)
        if len(run.prepared.validation):
            rows = run.prepared.validation
            capacity = evaluation_batch_tokens(run.recipe, rows, run.device, run.capacity)
            chosen = rows.replies(_fill_batch(rows.lengths, rows.label_tokens, capacity))
            evaluate_loss(run.model, pack(chosen, capacity, pad=run.pad), run.device, run.precision, run.chunk_rows)
        run.replies_at_once = replies_that_fit(run)
    except torch.OutOfMemoryError as error:
        raise out_of_memory_error(run, error, "in a dry step at the run's largest shapes") from error


def largest_batches(run: Run) -> list[Batch]:
    """A batch as full of learned tokens as any; twice where some step takes several, as gradients are kept then."""
    rows = run.prepared.train
    chosen = rows.replies(_fill_batch(rows.lengths, rows.label_tokens, run.capacity))
    packed = pack(chosen, run.capacity, pad=run.pad)
    largest = max(run.steps, key=lambda dealt: int(rows.lengths[list(dealt.rows)].sum()))
    several = len(balance(rows.lengths[list(largest.rows)].tolist(), run.capacity, run.world.size)[0]) > 1
    return packed * 2 if several else packed


def replies_that_fit(run: Run) -> int | None:
    """How many samples the device holds side by side at their full length: all, or half of them, and so on.

    None where a run writes none. Raises torch.OutOfMemoryError where it does not hold one.
    """
    kinds = len(sampling_modes(run.model.generation_config, 1))
    replies, tokens = sample_shape(run.recipe, run.prepared.validation, kinds)
    while replies:
        try:
            _decode_at_full_length(run, replies, min(tokens, run.model.config.max_position_embeddings))
            break
        except torch.OutOfMemoryError:
            if replies == 1:
                raise
        replies //= 2  # here, where the error no longer holds what its pass made
    return replies or None


def _decode_at_full_length(run: Run, replies: int, tokens: int) -> None:
    """The pass that takes most: the caches grow to their full size, and attention sees all of them."""
    run.model.eval()
    with torch.inference_mode(), autocast(run.model, run.precision):
        slots = KVCache(run.model)
        slots.prefill([[0]] * replies)
        for length in (max(1, tokens - 1 - GROW_COLUMNS), tokens - 1):  # the last growth copies nearly all
            slots.lengths = [length] * replies  # what stands there was never written, and is finite
            slots.extend([[0]] * replies)


def out_of_memory_error(run: Run, error: BaseException, when: str) -> UserError:
    """The error for a full memory, naming what would fit: by a new plan for the room that the card really has.

    Where there is no card or nothing is predicted to fit, it names ways: what changes no result, then cheaper tiers.
    """
    card = None if run.device.type == "cpu" else local_card(run.device)
    way = (card and suggest_plan(run, card)) or f"in this order try {', '.join(_suggestions(run))}"
    return UserError(
        f"train.batch_tokens: is {run.capacity}, and the memory of {run.device} is full {when} ({shorten_error(error, 120)}); "
        f"{way}"
    )


def suggest_plan(run: Run, card: Card) -> str | None:
    """What to set so that the run fits a card on which its own setting did not, or none where nothing does."""
    job = make_workload(run.recipe, run.prepared, run.steps, run.model.config, run.device)
    # A recipe may name no batch that is smaller than the longest row that it takes.
    job = replace(job, longest_row_tokens=run.recipe.data.max_tokens, compiled=run.compiled)
    found = fallback(run.recipe.train, job, card, run.setting)
    if found is None:
        return None
    option, goes_on = found
    said = f"{option.needed_bytes / GIB:.2f} of {card.memory_gib:.2f} GiB by a new plan"
    if goes_on:
        return f"this fits ({said}): {as_overrides(option, RESUMABLE_SETTINGS)}"
    names = ("memory", "update_in_backward", *RESUMABLE_SETTINGS)
    return (
        f"in this tier nothing smaller fits; this does ({said}): name={run.folder.name}-2 {as_overrides(option, names)}"
    )


def _suggestions(run: Run) -> list[str]:
    settings, ways = run.recipe.train, list[str]()
    if settings.activation_budget != 0:
        ways.append("train.activation_budget=0")
    if run.capacity > run.recipe.data.max_tokens:
        ways.append(f"train.batch_tokens={max(run.recipe.data.max_tokens, run.capacity // 2)}")
    count, tier = count_parameters(run.model), TIERS[run.optimizer.memory]
    for name, other in TIERS.items():
        saved = count * (tier.bytes_per_parameter - other.bytes_per_parameter) / 2**30
        if saved > 0 and settings.precision != "fp32":
            ways.append(f"in a new run train.memory={name} ({saved:.2f} GiB less)")
    ways.append("a smaller data.max_tokens or model in a new run")
    return ways


def _fill_batch(lengths: np.ndarray, label_tokens: np.ndarray, capacity: int) -> list[int]:
    """Rows with the most learned tokens first, as many as a batch takes."""
    chosen: list[int] = []
    room = capacity
    for row in np.argsort(-label_tokens.astype(np.int64), kind="stable").tolist():
        if lengths[row] <= room:
            chosen.append(row)
            room -= int(lengths[row])
    return chosen
