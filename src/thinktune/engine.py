"""Writing replies with a model in this process: many requests to completions, or one to pieces as they come."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from thinktune.model import arithmetic
from thinktune.render import render_prompt
from thinktune.reply import Piece
from thinktune.request import Completion, Request, Sampling, record
from thinktune.sample import Chooser, choose
from thinktune.writer import Marks, Writer

__all__ = ["Completion", "Engine", "Request", "Sampling", "record"]


@dataclass(frozen=True)
class Engine:
    """A model in this process with its tokenizer, and the arithmetic that it runs in."""

    model: Any
    tokenizer: Any
    precision: torch.dtype = torch.float32

    def complete(self, requests: Sequence[Request], most_at_once: int = 32) -> Iterator[tuple[int, Completion]]:
        """Each request's index and completion, as replies end, in any order; `most_at_once` are written side by side.

        A greedy reply is the same as the one that the request gets alone.
        """
        for start in range(0, len(requests), most_at_once):
            for row, pieces in self._written(requests[start : start + most_at_once]):
                if isinstance(pieces, Completion):
                    yield start + row, pieces

    def stream(self, request: Request) -> Generator[Piece | Completion]:
        """The pieces of one reply as they come, and last its Completion. Closing the iterator cancels it."""
        for _, pieces in self._written([request]):
            if isinstance(pieces, Completion):
                yield pieces
            else:
                yield from pieces

    def close(self) -> None:
        """End every reply; nothing can be asked after it."""

    @cached_property
    def _marks(self) -> Marks:
        return Marks.of(self.tokenizer, self.model.generation_config.eos_token_id)

    def _written(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Piece] | Completion]]:
        """What every request's reply gains, token by token, side by side; a row that has ended leaves the batch."""
        prompts = [render_prompt(request.turns, self.tokenizer, thinking=request.thinking) for request in requests]
        writers = [
            Writer(request.sampling, self._marks, prompt) for request, prompt in zip(requests, prompts, strict=True)
        ]
        choosers = [Chooser(request.sampling) for request in requests]
        rows = list(range(len(requests)))
        ids, mask = _pad_left(prompts, self.tokenizer.pad_token_id or 0, self.model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        self.model.eval()
        while rows:
            with torch.no_grad(), arithmetic(self.model, self.precision):
                output = self.model(
                    ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            chosen = choose(output.logits[:, -1].float(), [choosers[row] for row in rows]).tolist()
            tokens = [writers[row].next(token) for row, token in zip(rows, chosen, strict=True)]
            for row, token in zip(rows, tokens, strict=True):
                yield row, writers[row].take(token)
                if writers[row].finish:
                    yield row, writers[row].completion()
            ids = torch.tensor(tokens, device=self.model.device)[:, None]
            kept = [place for place, row in enumerate(rows) if not writers[row].finish]
            if not kept:
                return
            if len(kept) < len(rows):
                rows = [rows[place] for place in kept]
                cache.batch_select_indices(torch.tensor(kept, device=self.model.device))
                ids, mask, positions = ids[kept], mask[kept], positions[kept]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = positions[:, -1:] + 1


def _pad_left(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask
