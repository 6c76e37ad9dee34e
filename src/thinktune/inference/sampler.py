"""Batched sampling of the next token, each row by its own parameters and its own random numbers."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from thinktune.inference.requests import SamplingParams


class Sampler:
    """Sampling state of one request; its random numbers are its own, so neighbours never change its result."""

    def __init__(self, sampling: SamplingParams) -> None:
        self.sampling = sampling
        self._random = random.Random(sampling.seed)

    @property
    def group_key(self) -> tuple[bool, int, bool]:
        """Key of the rows that are sampled together: (greedy, top-k, whether top-p cuts)."""
        greedy = self.sampling.is_greedy
        return greedy, 0 if greedy else self.sampling.top_k, not greedy and self.sampling.top_p < 1

    def next_uniform(self) -> float:
        """Draw a random number in [0, 1) that fp32 represents exactly."""
        return self._random.getrandbits(24) / 2**24


NO_TOKEN = -1  # in place of a token that cannot be sampled


def sample_tokens(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Sample the next token (rows,) int64 of each row of logits (rows, vocabulary) fp32.

    It is `NO_TOKEN` where a row holds NaN or has no largest finite logit. The host does not wait for the device.
    """
    keys = [sampler.group_key for sampler in samplers]
    largest, tokens = logits.max(-1)  # NaN if any is
    for key in {key for key in keys if not key[0]}:
        rows = [row for row, other in enumerate(keys) if other == key]
        tokens[rows] = _sample_group(logits[rows], [samplers[row] for row in rows])
    return tokens.masked_fill(~largest.isfinite(), NO_TOKEN)


def _sample_group(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Sample by inverse CDF after top-k and top-p filtering, with one random number a row."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    _, top_k, cut = samplers[0].group_key
    # Differences to the largest: these cannot overflow upwards, however low the temperature.
    logits = (logits - logits.amax(-1, keepdim=True)) / column([sampler.sampling.temperature for sampler in samplers])
    order = None
    if top_k:
        logits, order = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    elif cut:
        logits, order = logits.sort(-1, descending=True)
    probabilities = logits.softmax(-1)
    if cut:
        before = probabilities.cumsum(-1) - probabilities
        dropped = before >= column([sampler.sampling.top_p for sampler in samplers])
        probabilities = probabilities.masked_fill(dropped, 0.0)  # the token that crosses top-p is kept
    cumulative = probabilities.cumsum(-1)
    targets = column([sampler.next_uniform() for sampler in samplers]) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, targets, right=True).clamp(max=cumulative.shape[-1] - 1)
    return (index if order is None else order.gather(-1, index))[:, 0]
