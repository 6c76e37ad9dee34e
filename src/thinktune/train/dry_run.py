"""Dry run of the largest shapes before the first step, and the remedy if memory is full."""

from dataclasses import replace

import numpy as np
import torch

from thinktune.data import Subset
from thinktune.data.packing import balance
from thinktune.errors import UserError, shorten_error
from thinktune.inference.decode_runner import CAPTURED_AFTER, DecodeRunner, decodes_statically
from thinktune.inference.kv_cache import GROW_COLUMNS, KVCache
from thinktune.inference.sampling.sampler import Sampler
from thinktune.model import Batch, evaluate_loss, pack
from thinktune.model.batch import Padding
from thinktune.model.forward import autocast, inference_context
from thinktune.model.loading import count_parameters
from thinktune.optim import TIERS
from thinktune.planner import as_overrides, fallback
from thinktune.planner.hardware import GIB, Card
from thinktune.planner.resolve import (
    CHANGEABLE_SETTINGS,
    UnpredictedModelError,
    local_card,
    make_workload,
    predicting,
    sample_shape,
)
from thinktune.train.context import RunContext
from thinktune.train.samples import any_operations, sampling_modes
from thinktune.train.step import dry_train_step


def dry_run(context: RunContext) -> int | None:
    """Train, evaluate and decode once at the largest shapes, changing neither weights nor state.

    Returns how many samples the device holds side by side, as `replies_that_fit` does. Raises UserError where anything
    else takes more memory than the device has.
    """
    rows = context.prepared.validation
    try:
        batches = [context.share.slice(batch).to(context.device) for batch in largest_batches(context)]
        options = context.chunk_rows, context.objective
        dry_train_step(context.model, batches, context.optimizer, context.precision, *options)
        if len(rows):
            batches = map(context.share.slice, _fullest_batch(context, rows, context.evaluation_capacity))
            evaluate_loss(context.model, batches, context.device, context.precision, context.chunk_rows)
        return replies_that_fit(context)
    except Exception as error:
        if (full := find_out_of_memory(error)) is None:
            raise
        raise out_of_memory_error(context, full, "in a dry run at the run's largest shapes") from error


def largest_batches(context: RunContext) -> list[Batch]:
    """Return a batch with as many trained tokens as any; twice where a step takes several batches.

    Such a step keeps gradients between its batches.
    """
    rows = context.prepared.train
    batches = _fullest_batch(context, rows, context.capacity)
    largest = max(context.steps, key=lambda planned: int(rows.lengths[list(planned.rows)].sum()))
    lengths = rows.lengths[list(largest.rows)].tolist()
    several = len(balance(lengths, context.capacity, context.groups, packed=context.packed)[0]) > 1
    return batches * 2 if several else batches


def replies_that_fit(context: RunContext) -> int | None:
    """Return how many samples of full length the device holds side by side.

    Tries all of them, then half of them, and so on; None where a run writes none. All ranks return the same. Raises
    torch.OutOfMemoryError where a device does not hold one, and where one of many runs out of memory inside a pass,
    which the other ranks cannot leave.
    """
    modes = len(sampling_modes(context.model.generation_config, 1))
    replies, tokens = sample_shape(context.recipe, context.prepared.validation, modes)
    while replies:
        try:
            if _decode_at_full_length(context, replies, min(tokens, context.model.config.max_position_embeddings)):
                break
            if replies == 1:
                raise torch.OutOfMemoryError("no memory on one of the ranks for the KV cache of one sample")
        except torch.OutOfMemoryError:
            if replies == 1 or context.world.size > 1:
                raise
        replies //= 2  # here, where the error no longer holds what its pass made
    return replies or None


def _decode_at_full_length(context: RunContext, replies: int, tokens: int) -> bool:
    """Run the pass that takes most: the cache grows to its full size, and attention sees all of it.

    Where passes are captured, so are these, with the memory that the graphs keep. Returns False, on all ranks, where
    one of them has no memory for the cache.
    """
    context.model.eval()
    runner = DecodeRunner(context.model, is_static=decodes_statically(context.model, context.world))
    modes = list(sampling_modes(context.model.generation_config, tokens).values())
    samplers = [Sampler(modes[row % len(modes)]) for row in range(replies)]
    with any_operations(), inference_context(context.model), autocast(context.model, context.precision):
        cache = KVCache(context.model)
        cache.prefill([[0]] * replies)
        for length in (max(1, tokens - 1 - GROW_COLUMNS), tokens - 1):  # the last growth copies nearly all
            if not cache.reserve(replies, length + 1, context.world):
                return False
            for _ in range(CAPTURED_AFTER + 1):
                cache.lengths = [length] * replies  # what is there was never written, and is finite
                runner.decode(cache, [0] * replies, samplers)
    if isinstance(runner.fault, torch.OutOfMemoryError) and replies > 1:
        raise runner.fault
    return True


def find_out_of_memory(error: BaseException) -> torch.OutOfMemoryError | None:
    """Return the error of a full memory that another one is or wraps; None for any other, and for one of ours.

    The compiler tries its kernels on tensors of its own, and wraps what they raise: its errors have no cause, but an
    `inner_exception`.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, torch.OutOfMemoryError | UserError):
        inner: BaseException | None = getattr(found, "inner_exception", None)
        found = found.__cause__ if inner is None else inner
    return found if isinstance(found, torch.OutOfMemoryError) else None


def out_of_memory_error(context: RunContext, error: BaseException, when: str) -> UserError:
    """Return the error for a full memory, with settings that would fit the card.

    Where there is no card, or nothing is predicted to fit, it lists remedies: first those that change no result, then
    cheaper tiers.
    """
    card = None if context.device.type == "cpu" else local_card(context.device)
    remedy = (card and suggest_plan(context, card)) or f"try in this order: {', '.join(_suggestions(context))}"
    return UserError(
        f"expert.batch_tokens: is {context.capacity}, and the memory of {context.device} is full {when} "
        f"({shorten_error(error, 120)}); {remedy}"
    )


def suggest_plan(context: RunContext, card: Card) -> str | None:
    """Return settings that fit a card on which the run's own did not, or None where nothing fits."""
    workload = make_workload(context.plan_inputs, context.world.size, context.world.per_node)
    # A recipe may name no batch that is smaller than the longest row that it takes.
    workload = replace(workload, longest_row_tokens=context.recipe.max_tokens, compiled=context.compiled)
    try:
        with predicting(context.model.config, context.recipe):
            found = fallback(context.recipe.train, workload, card, context.setting)
    except UnpredictedModelError:
        found = None
    if found is None:
        return None
    option, resumable = found
    need = f"{option.needed_bytes / GIB:.2f} of {card.memory_gib:.2f} GiB by a new plan"
    changed = [
        each for each in CHANGEABLE_SETTINGS if each != "offload_activations" or option.setting.offload_activations
    ]
    if resumable:
        return f"this fits ({need}): {as_overrides(option, changed)}"
    names = ("memory", "update_in_backward", *changed)
    overrides = f"name={context.folder.name}-2 {as_overrides(option, names)}"
    return f"no smaller setting of this tier fits; this does ({need}): {overrides}"


def _suggestions(context: RunContext) -> list[str]:
    settings, remedies = context.recipe.train, list[str]()
    if settings.activation_budget != 0:
        remedies.append("expert.activation_budget=0")
    if context.capacity > context.recipe.max_tokens:
        remedies.append(f"expert.batch_tokens={max(context.recipe.max_tokens, context.capacity // 2)}")
    count, tier = count_parameters(context.model), TIERS[context.optimizer.memory]
    for name, other in TIERS.items():
        saved = count * (tier.bytes_per_parameter - other.bytes_per_parameter) / 2**30
        if saved > 0 and settings.precision != "fp32":
            remedies.append(f"in a new run train.memory={name} ({saved:.2f} GiB less)")
    remedies.append("a smaller data.max_tokens or model in a new run")
    return remedies


def _fullest_batch(context: RunContext, rows: Subset, capacity: int) -> list[Batch]:
    """Return the rows with the most trained tokens, as many as a batch takes, as one batch."""
    chosen = _fill_batch(rows.lengths, rows.label_tokens, capacity, context.pad, packed=context.packed)
    return pack(rows.replies(chosen), capacity, pad=context.pad, packed=context.packed)


def _fill_batch(
    lengths: np.ndarray, label_tokens: np.ndarray, capacity: int, pad: Padding | None = None, *, packed: bool
) -> list[int]:
    """Return the rows with the most trained tokens, as many as a batch takes, padded to the longest if not packed."""
    chosen: list[int] = []
    tokens = longest = 0
    for row in np.argsort(-label_tokens.astype(np.int64), kind="stable").tolist():
        length = int(lengths[row])
        taken = tokens + length if packed else (len(chosen) + 1) * max(longest, length)
        # Many short rows together, which no step has, may be more than the shape of a batch allows.
        rows = len(chosen) + 1 - (tokens + length - capacity) // pad.shapes.longest if pad else 0
        if taken <= capacity and (not pad or rows <= pad.shapes.rows_of(capacity)):
            chosen.append(row)
            tokens, longest = tokens + length, max(longest, length)
    return chosen
