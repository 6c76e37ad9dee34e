"""Log probabilities of tokens, as the model gave them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from thinktune.inference.sampling.answer_tokens import SMALLEST_LOGPROB, RankedToken
from thinktune.model.device import copy_to_device


def rank_tokens(logits: Tensor, tokens: Tensor, wanted: Sequence[int | None]) -> Tensor | None:
    """Return log probabilities on the device, (rows that want any, 1 + 2 x most) fp32; None where no row does.

    A row holds that of its token, then those of the likeliest tokens, then these tokens, which fp32 holds exactly below
    2^24 (Apple's GPUs have no float64). The host does not wait.

    Args:
        logits: (rows, vocabulary) fp32, as the model gave them.
        tokens: (rows,) int64: what was sampled; a negative one is none, and its row means nothing.
        wanted: for each row how many of the likeliest tokens it wants; None for a row that wants no log probabilities.
    """
    rows = [row for row, count in enumerate(wanted) if count is not None]
    if not rows:
        return None
    most = min(max(count or 0 for count in wanted), logits.shape[-1])
    indices = copy_to_device(torch.tensor(rows), logits.device)
    logprobs = logits[indices].log_softmax(-1)
    own = logprobs.gather(-1, tokens[indices, None].clamp(min=0))
    values, likeliest = logprobs.topk(most, dim=-1)
    return torch.cat([own, values, likeliest.float()], dim=-1)


def read_ranks(ranks: Tensor | None, wanted: Sequence[int | None]) -> list[RankedToken | None]:
    """Read what `rank_tokens` returned for the same rows; the host waits for the device if any row wants something."""
    found: list[list[float]] = [] if ranks is None else ranks.clamp(min=SMALLEST_LOGPROB).tolist()
    left = iter(found)
    return [None if count is None else _read_row(next(left), count) for count in wanted]


def _read_row(row: Sequence[float], count: int) -> RankedToken:
    most = len(row) // 2
    pairs = zip(row[1 + most :], row[1 : 1 + min(count, most)], strict=False)
    return RankedToken(row[0], tuple((int(token), logprob) for token, logprob in pairs))
