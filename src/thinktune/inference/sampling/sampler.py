"""Batched sampling of the next token, each row by its own parameters and its own random numbers."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thinktune.inference.requests import SamplingParams
from thinktune.inference.sampling.masks import Mask, mask_rows
from thinktune.model.device import copy_to_device


class SamplingGroup(NamedTuple):
    """What rows that are sampled together have in common, beside that they are not greedy."""

    top_k: int
    cuts: bool  # whether top-p is below 1


class Sampler:
    """Sampling state of one request; its random numbers are its own, so neighbours never change its result."""

    def __init__(self, sampling: SamplingParams) -> None:
        self.sampling = sampling
        self._random = random.Random(sampling.seed)
        self._uniform: float | None = None
        self.mask: Mask | None = None
        """Which tokens may come next, one bit for each (`sampling.masks`); None if any may."""

    @property
    def group(self) -> SamplingGroup | None:
        """The rows that this one is sampled with; None for a greedy one."""
        return None if self.sampling.is_greedy else SamplingGroup(self.sampling.top_k, self.sampling.top_p < 1)

    def peek_uniform(self) -> float:
        """Return the random number that `next_uniform` takes next: a pass that fails has taken none."""
        if self._uniform is None:
            self._uniform = self._random.getrandbits(24) / 2**24
        return self._uniform

    def next_uniform(self) -> float:
        """Draw a random number in [0, 1) that fp32 represents exactly."""
        drawn, self._uniform = self.peek_uniform(), None
        return drawn


NO_TOKEN = -1  # in place of a token that cannot be sampled


def sample_tokens(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Sample the next token (rows,) int64 of each row of logits (rows, vocabulary) fp32.

    It is `NO_TOKEN` where a row holds NaN or has no largest finite logit. The host does not wait for the device.
    """
    logits = mask_rows(logits, [sampler.mask for sampler in samplers])
    largest, likeliest = logits.max(-1)  # NaN if any is
    tokens = likeliest.clone()
    for group in {sampler.group for sampler in samplers} - {None}:
        assert group
        rows = [row for row, sampler in enumerate(samplers) if sampler.group == group]
        settings = torch.tensor([sampling_numbers(samplers[row]) for row in rows], dtype=torch.float32)
        indices = copy_to_device(torch.tensor(rows), logits.device)
        tokens[indices] = _sample_group(logits[indices], group, copy_to_device(settings, logits.device).unbind(-1))
    draw_again(samplers)
    return _possible(tokens, logits, likeliest).masked_fill(~largest.isfinite(), NO_TOKEN)


def draw_again(samplers: Sequence[Sampler]) -> None:
    """Let the next token of each row that is not greedy have another random number, once this one is sampled."""
    for sampler in samplers:
        if sampler.group:
            sampler.next_uniform()


def sampling_numbers(sampler: Sampler) -> tuple[float, float, float]:
    """Return the temperature, top-p and random number of a row's next token; of a greedy row they mean nothing."""
    if sampler.group is None:
        return 1.0, 1.0, 0.0
    return sampler.sampling.temperature, sampler.sampling.top_p, sampler.peek_uniform()


def sample_slots(
    logits: Tensor, groups: Sequence[SamplingGroup], group_numbers: Tensor, numbers: Sequence[Tensor]
) -> Tensor:
    """Sample as `sample_tokens` does, by tensors on the device alone and in shapes that do not follow from the rows.

    Args:
        logits: (slots, vocabulary) fp32.
        groups: those that any row belongs to.
        group_numbers: (slots,) int64, from 1, of each row's in `groups`; 0 for a greedy row.
        numbers: temperature, top-p and random number, each (slots,) fp32.
    """
    largest, likeliest = logits.max(-1)
    tokens = likeliest
    for number, group in enumerate(groups, 1):
        tokens = torch.where(group_numbers == number, _sample_group(logits, group, numbers), tokens)
    return _possible(tokens, logits, likeliest).masked_fill(~largest.isfinite(), NO_TOKEN)


def _possible(tokens: Tensor, logits: Tensor, likeliest: Tensor) -> Tensor:
    """Return the tokens (rows,), with the likeliest one in place of one whose logit is -inf.

    A sum on a card is rounded otherwise from one column to the next, so that the search may hit one with probability 0.
    """
    return torch.where(logits.gather(-1, tokens[:, None])[:, 0] == float("-inf"), likeliest, tokens)


def _sample_group(logits: Tensor, group: SamplingGroup, numbers: Sequence[Tensor]) -> Tensor:
    """Sample by inverse CDF after top-k and top-p filtering, with one random number a row."""
    temperature, top_p, uniform = (column[:, None] for column in numbers)
    # Differences to the largest: these cannot overflow upwards, however low the temperature.
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    order = None
    if group.top_k:
        logits, order = logits.topk(min(group.top_k, logits.shape[-1]), dim=-1)
    elif group.cuts:
        logits, order = logits.sort(-1, descending=True)
    probabilities = logits.softmax(-1)
    if group.cuts:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)  # the token that crosses top-p is kept
    cumulative = probabilities.cumsum(-1)
    targets = uniform * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, targets, right=True).clamp(max=cumulative.shape[-1] - 1)
    return (index if order is None else order.gather(-1, index))[:, 0]
