"""Batched sampling of the next token, each row by its own parameters and its own random numbers."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thinktune.inference.requests import SamplingParams
from thinktune.inference.sampling.logprobs import rank_tokens
from thinktune.inference.sampling.masks import Mask, mask_rows
from thinktune.inference.sampling.penalties import LogitChanges, change_logits
from thinktune.model.device import copy_to_device


class SamplingGroup(NamedTuple):
    """What rows that are sampled together have in common, beside that they are not greedy."""

    top_k: int
    cuts: bool  # whether top-p is below 1
    has_floor: bool = False  # whether min-p is above 0


class Drawn(NamedTuple):
    """The next token (rows,) int64 of each row, and the log probabilities of the rows that want them (`rank_tokens`).

    Both are on the device.
    """

    tokens: Tensor
    ranks: Tensor | None = None


class Sampler:
    """Sampling state of one request; its random numbers are its own, so neighbours never change its result.

    `ids` are the tokens of the prompt and of the reply so far, the list to which the reply's are appended.
    """

    def __init__(self, sampling: SamplingParams, ids: Sequence[int] = (), prompt_tokens: int = 0) -> None:
        self.sampling = sampling
        changed = sampling.has_penalties or sampling.logit_bias
        self.changes = LogitChanges(sampling, ids, prompt_tokens) if changed else None
        self._random = random.Random(sampling.seed)
        self._uniform: float | None = None
        self.mask: Mask | None = None
        """Which tokens may come next, one bit for each (`sampling.masks`); None if any may."""

    @property
    def group(self) -> SamplingGroup | None:
        """The rows that this one is sampled with; None for a greedy one."""
        if self.sampling.is_greedy:
            return None
        return SamplingGroup(self.sampling.top_k, self.sampling.top_p < 1, self.sampling.min_p > 0)

    @property
    def is_plain(self) -> bool:
        """True if the next token follows from the logits, a group's parameters and a random number, and is all."""
        return self.changes is None and self.sampling.top_logprobs is None

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


def draw(logits: Tensor, samplers: Sequence[Sampler]) -> Drawn:
    """Draw the next token of each row of logits (rows, vocabulary) fp32, and rank it where that is wanted.

    It is `NO_TOKEN` where a row holds NaN or has no largest finite logit. The host does not wait for the device. Where
    it fails, no sampler has changed.
    """
    changed = change_logits(logits, [sampler.changes for sampler in samplers])
    changed = mask_rows(changed, [sampler.mask for sampler in samplers])
    largest, likeliest = changed.max(-1)  # NaN if any is
    tokens = likeliest.clone()
    for group in {sampler.group for sampler in samplers} - {None}:
        assert group
        rows = [row for row, sampler in enumerate(samplers) if sampler.group == group]
        settings = torch.tensor([sampling_numbers(samplers[row]) for row in rows], dtype=torch.float32)
        indices = copy_to_device(torch.tensor(rows), logits.device)
        tokens[indices] = _sample_group(changed[indices], group, copy_to_device(settings, logits.device).unbind(-1))
    tokens = _possible(tokens, changed, likeliest).masked_fill(~largest.isfinite(), NO_TOKEN)
    ranks = rank_tokens(logits, tokens, [sampler.sampling.top_logprobs for sampler in samplers])
    draw_again(samplers)
    return Drawn(tokens, ranks)


def draw_again(samplers: Sequence[Sampler]) -> None:
    """Let the next token of each row that is not greedy have another random number, once this one is sampled."""
    for sampler in samplers:
        if sampler.group:
            sampler.next_uniform()


# Temperature, top-p, min-p and random number, which mean nothing for a greedy row.
GREEDY_NUMBERS = (1.0, 1.0, 0.0, 0.0)


def sampling_numbers(sampler: Sampler) -> tuple[float, float, float, float]:
    """Return the temperature, top-p, min-p and random number of a row's next token."""
    if sampler.group is None:
        return GREEDY_NUMBERS
    sampling = sampler.sampling
    return sampling.temperature, sampling.top_p, sampling.min_p, sampler.peek_uniform()


def sample_slots(
    logits: Tensor, groups: Sequence[SamplingGroup], group_numbers: Tensor, numbers: Sequence[Tensor]
) -> Tensor:
    """Sample as `draw` does plain rows, by tensors on the device alone and in shapes that follow from no row.

    Args:
        logits: (slots, vocabulary) fp32.
        groups: those that any row belongs to.
        group_numbers: (slots,) int64, from 1, of each row's in `groups`; 0 for a greedy row.
        numbers: temperature, top-p, min-p and random number, each (slots,) fp32.
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
    """Sample by inverse CDF after min-p, top-k and top-p filtering, with one random number a row."""
    temperature, top_p, min_p, uniform = (column[:, None] for column in numbers)
    # Differences to the largest: these cannot overflow upwards, however low the temperature.
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if group.has_floor:
        logits = logits.masked_fill(logits.exp() < min_p, float("-inf"))  # the likeliest has 1
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
