"""The next token of every row of a batch, each row as its own request asks and by its own random numbers."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from thinktune.inference.requests import SamplingParams


class Sampler:
    """How one request chooses its tokens; its random numbers are its own, so neighbours never change its result."""

    def __init__(self, sampling: SamplingParams) -> None:
        self.sampling = sampling
        self._random = random.Random(sampling.seed)

    @property
    def group_key(self) -> tuple[bool, int, bool]:
        """Rows of one kind are computed together: greedy or not, how many are kept, and whether a share is cut."""
        greedy = self.sampling.temperature == 0
        return greedy, 0 if greedy else self.sampling.top_k, not greedy and self.sampling.top_p < 1

    def next_uniform(self) -> float:
        """A random number of [0, 1) that fp32 holds exactly."""
        return self._random.getrandbits(24) / 2**24


def sample_tokens(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """The next token (rows,) of each row of logits (rows, vocabulary, fp32)."""
    kinds = [chooser.group_key for chooser in samplers]
    chosen = logits.argmax(-1)
    for kind in {kind for kind in kinds if not kind[0]}:
        rows = [row for row, other in enumerate(kinds) if other == kind]
        chosen[rows] = _sample_group(logits[rows], [samplers[row] for row in rows])
    return chosen


def _sample_group(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Tokens by inverting the distribution at one random number a row; what top-k and top-p cut has no share in it."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    _, top_k, cut = samplers[0].group_key
    logits, order = logits / column([chooser.sampling.temperature for chooser in samplers]), None
    if top_k:
        logits, order = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    elif cut:
        logits, order = logits.sort(-1, descending=True)
    shares = logits.softmax(-1)
    if cut:
        before = shares.cumsum(-1) - shares
        beyond = before >= column([chooser.sampling.top_p for chooser in samplers])
        shares = shares.masked_fill(beyond, 0.0)  # the token that crosses the share still counts
    reached = shares.cumsum(-1)
    wanted = column([chooser.next_uniform() for chooser in samplers]) * reached[:, -1:]
    place = torch.searchsorted(reached, wanted, right=True).clamp(max=reached.shape[-1] - 1)
    return (place if order is None else order.gather(-1, place))[:, 0]
