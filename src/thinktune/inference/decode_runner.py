"""Decode passes: with static shapes and, on a card, as one captured graph where that is proved, or else plain."""

import warnings
from collections import deque
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from thinktune.distributed import World
from thinktune.errors import shorten_error
from thinktune.inference import kv_cache
from thinktune.inference.cuda_graphs import Capture, CudaGraphs, Step
from thinktune.inference.kv_cache import KVCache
from thinktune.inference.sampling.masks import ANY_TOKEN, mask_logits
from thinktune.inference.sampling.sampler import (
    GREEDY_NUMBERS,
    Drawn,
    Sampler,
    SamplingGroup,
    draw,
    draw_again,
    sample_slots,
    sampling_numbers,
)
from thinktune.inference.static_proof import static_problem
from thinktune.model import CausalLM

DecodeMode = Literal["auto", "plain", "static"]
CAPTURED_AFTER = 1  # passes of a size, in which torch loads kernels: it cannot do so within a capture
MAX_GRAPHS = 32  # kept at a time; each holds a few megabytes of launches
EMPTY_SLOT = (0, 0, 0, *GREEDY_NUMBERS)  # token, length, number of its group, and numbers of a slot without a row

# Slots, columns, how their tokens are sampled within the pass, and how many bytes the masks of tokens have, 0 where no
# row has one. Sampling is None if it is after the pass, because a row asks for more than a group's parameters: the pass
# then gives the logits.
Shape = tuple[int, int, tuple[SamplingGroup, ...] | None, int]


def decodes_statically(model: CausalLM, world: World, mode: DecodeMode = "auto") -> bool:
    """Return True if decode passes of a model have static shapes.

    With `auto` they have on a CUDA device, where launching a pass takes the host longer than the device needs for it;
    with `static` on the CPU too. Never with `plain`, on many ranks, or where `static_problem` says why.
    """
    wanted = mode == "static" or (mode == "auto" and model.device.type == "cuda")
    return wanted and world.size == 1 and static_problem(model) is None


class DecodeRunner:
    """Runs the pass that appends a token to every row of a cache and samples the one after it.

    A static pass is one function of tensors with fixed addresses, for a few sizes: of the rows the next power of two,
    of the columns the next step in which a cache grows. The first pass of a size runs as it is, which loads the
    kernels; the second is captured. What a token then costs the host is a copy to the device, a launch, and the wait
    for the token.
    """

    def __init__(self, model: CausalLM, *, is_static: bool, capture: Capture | None = None) -> None:
        self.is_static = is_static
        self.fault: Exception | None = None  # for which passes are no longer captured
        self._capture = capture or (CudaGraphs(model.device) if model.device.type == "cuda" else None)
        self._device = model.device
        self._name = type(model).__name__
        self._layout: object = None  # of the cache whose addresses are in the graphs
        self._inputs: dict[int, tuple[Tensor, Tensor]] = {}  # by slots: (7, slots) float64 on the device and the host
        self._masks: dict[int, tuple[Tensor, Tensor]] = {}  # by slots: (slots, tokens / 8) uint8, in the same way
        self._graphs: dict[Shape, Step] = {}
        self._met: deque[Shape] = deque(maxlen=MAX_GRAPHS)  # sizes of passes that ran as they are

    def decode(self, cache: KVCache, last_tokens: Sequence[int], samplers: Sequence[Sampler]) -> Drawn:
        """Append the last token of every row to the cache; returns the next ones, on the device.

        The host does not wait for the device. The result is overwritten by the next pass. A pass that fails changes
        neither a row nor a sampler.
        """
        if not self.is_static:
            return _decode_plainly(cache, last_tokens, samplers)
        shape = self._fit(cache, samplers)
        inputs = self._stage(shape, cache, last_tokens, samplers)
        step = self._step(cache, shape, inputs)
        if step is None:
            return _decode_plainly(cache, last_tokens, samplers)
        found = step()[: len(last_tokens)]
        if shape[2] is None:
            drawn = draw(found, samplers)
            cache.end_repeat()
            return drawn
        cache.end_repeat()
        draw_again(samplers)
        return Drawn(found)

    def _fit(self, cache: KVCache, samplers: Sequence[Sampler]) -> Shape:
        """Return the size of a pass, for which the cache has room, and forget graphs of other addresses."""
        rows, needed = len(samplers), max(cache.lengths) + 1
        columns = -(-needed // kv_cache.GROW_COLUMNS) * kv_cache.GROW_COLUMNS
        if cache.size[0] < rows or cache.size[1] < columns:
            self._graphs.clear()  # before the cache grows: they need memory too
            cache.grow(rows, columns)
        if cache.layout is not self._layout:
            self._graphs.clear()
            self._layout = cache.layout
        slots = min(1 << (rows - 1).bit_length(), cache.size[0])
        if not all(sampler.is_plain for sampler in samplers):
            return slots, columns, None, 0
        groups = tuple(sorted({sampler.group for sampler in samplers if sampler.group}))
        return slots, columns, groups, next((sampler.mask.size for sampler in samplers if sampler.mask is not None), 0)

    def _stage(self, shape: Shape, cache: KVCache, last_tokens: Sequence[int], samplers: Sequence[Sampler]) -> Tensor:
        """Copy what the host knows to the device, by one copy; returns the tensor (7, slots) float64 that holds it.

        Float64 holds all of it exactly: tokens, lengths, numbers of groups, and four numbers of fp32.
        """
        slots, _, inside, mask_bytes = shape
        groups = inside or ()
        if mask_bytes:
            self._stage_masks(slots, mask_bytes, samplers)
        if slots not in self._inputs:
            on_host = torch.zeros(7, slots, dtype=torch.float64, pin_memory=self._device.type == "cuda")
            self._inputs[slots] = torch.zeros_like(on_host, device=self._device), on_host
        on_device, on_host = self._inputs[slots]
        numbers = [1 + groups.index(sampler.group) if sampler.group in groups else 0 for sampler in samplers]
        rows = [
            (token, length, number, *sampling_numbers(sampler))
            for token, length, number, sampler in zip(last_tokens, cache.lengths, numbers, samplers, strict=True)
        ]
        given = [*rows, *[EMPTY_SLOT] * (slots - len(samplers))]
        on_host.copy_(torch.tensor(given, dtype=torch.float64).T)
        # The last pass has read `on_host` long ago: the host has waited for its tokens.
        return on_device.copy_(on_host, non_blocking=True)

    def _stage_masks(self, slots: int, mask_bytes: int, samplers: Sequence[Sampler]) -> None:
        """Copy the masks of a pass to the device, by one more copy."""
        if slots not in self._masks:
            on_host = torch.empty(slots, mask_bytes, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            self._masks[slots] = torch.empty_like(on_host, device=self._device), on_host
        on_device, on_host = self._masks[slots]
        on_host.fill_(ANY_TOKEN)
        for row, sampler in enumerate(samplers):
            if sampler.mask is not None:
                on_host[row] = torch.from_numpy(sampler.mask)
        on_device.copy_(on_host, non_blocking=True)

    def _step(self, cache: KVCache, shape: Shape, inputs: Tensor) -> Step | None:
        """Return what runs a pass of a size: its graph, or the function; None where passes are plain from now on."""
        if shape in self._graphs:
            return self._graphs[shape]
        slots, columns, groups, mask_bytes = shape

        def step() -> Tensor:
            ids, lengths, numbers = inputs[:3].long().unbind()
            logits = cache.extend_slots(ids, lengths, columns)
            if groups is None:
                return logits
            if mask_bytes:
                logits = mask_logits(logits, self._masks[slots][0])
            return sample_slots(logits, groups, numbers, inputs[3:].float().unbind())

        if not self._capture or self._met.count(shape) < CAPTURED_AFTER:
            self._met.append(shape)
            return step
        try:
            captured = self._capture(step)
        except Exception as error:
            self._give_up(error)
            return None
        if len(self._graphs) == MAX_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        self._graphs[shape] = captured
        return captured

    def _give_up(self, error: Exception) -> None:
        self._graphs.clear()
        self.is_static, self.fault = False, error
        warnings.warn(
            f"{self._name}: a token of a reply could not be captured as a CUDA graph "
            f"({shorten_error(error, 160)}); replies are slower without one",
            stacklevel=2,
        )


def _decode_plainly(cache: KVCache, last_tokens: Sequence[int], samplers: Sequence[Sampler]) -> Drawn:
    logits = cache.extend([[token] for token in last_tokens])
    try:
        return draw(logits, samplers)
    except Exception:
        cache.take_back()
        raise
