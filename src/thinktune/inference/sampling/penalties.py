"""Penalties and biases of logits: what a reply asks for, and the change of a batch's logits by it.

The definitions are OpenAI's for the frequency and the presence penalty and the bias, and that of CTRL for the
repetition penalty (https://arxiv.org/abs/1909.05858), over prompt and reply as in transformers and vLLM.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from thinktune.inference.requests import SamplingParams
from thinktune.model.device import copy_to_device

LARGEST = torch.finfo(torch.float32).max

# Rows of a table of changes: a token, what each of its logits gets, and the penalties of its reply.
TOKEN, BIAS, IS_SEEN, COUNT, REPETITION, FREQUENCY, PRESENCE = range(7)


class LogitChanges:
    """The tokens of one reply whose logits are changed, kept up to date as the reply grows.

    `ids` are the tokens so far, the prompt's first; whoever owns them appends to them.
    """

    def __init__(self, sampling: SamplingParams, ids: Sequence[int], prompt_tokens: int) -> None:
        self._ids, self._prompt_tokens, self._counts = ids, prompt_tokens, sampling.has_penalties
        self._counted = prompt_tokens
        bias = dict(sampling.logit_bias)
        seen = frozenset(ids[:prompt_tokens]) if sampling.repetition_penalty != 1 else frozenset[int]()
        self._columns = {token: column for column, token in enumerate([*bias, *sorted(seen - bias.keys())])}
        penalties = min(sampling.repetition_penalty, LARGEST), sampling.frequency_penalty, sampling.presence_penalty
        self._new = torch.tensor([0.0, 0.0, 0.0, 0.0, *penalties])[:, None]
        self._table = self._new.repeat(1, len(self._columns))
        tokens = list(self._columns)
        self._table[TOKEN] = torch.tensor(tokens, dtype=torch.float32)  # fp32 counts to 16 million
        self._table[BIAS] = torch.tensor([bias.get(token, 0.0) for token in tokens])
        self._table[IS_SEEN] = torch.tensor([float(token in seen) for token in tokens])

    def table(self) -> Tensor:
        """Return the changes of the next token's logits, (7, tokens) fp32 on the host, each token once."""
        if self._counts:
            for token in self._ids[self._counted :]:
                column = self._columns.setdefault(token, len(self._columns))
                if column == self._table.shape[1]:  # as a list grows, by a share of itself
                    self._table = torch.cat([self._table, self._new.repeat(1, 64 + column // 2)], dim=1)
                self._table[TOKEN, column] = token
                self._table[IS_SEEN, column] = 1
                self._table[COUNT, column] += 1
            self._counted = len(self._ids)
        return self._table[:, : len(self._columns)]


def change_logits(logits: Tensor, changes: Sequence[LogitChanges | None]) -> Tensor:
    """Return logits (rows, vocabulary) fp32 with the changes of each row; the same tensor where there are none.

    What is not finite stays as it is, and what is stays finite. The host does not wait for the device.
    """
    tables = [(row, change.table()) for row, change in enumerate(changes) if change]
    rows = torch.cat([torch.full((1, table.shape[1]), float(row)) for row, table in tables], 1) if tables else None
    if rows is None or not rows.numel():
        return logits
    given = torch.cat([rows, torch.cat([table for _, table in tables], dim=1)])
    given = copy_to_device(given, logits.device)
    where = given[0].long(), given[1 + TOKEN].long()
    bias, seen, count, repetition, frequency, presence = given[1 + BIAS :]
    before = logits[where]
    found = before + bias
    repeated = torch.where(found > 0, found / repetition, found * repetition)
    found = torch.where(seen > 0, repeated, found)
    found = found - frequency * count - presence * (count > 0)
    return logits.index_put(where, torch.where(before.isfinite(), found.clamp(-LARGEST, LARGEST), before))
