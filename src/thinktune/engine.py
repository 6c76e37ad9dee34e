"""Writing replies: prompts of any number to completions, or one prompt to pieces as they come. The only door to it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import DynamicCache

from thinktune.data import Example
from thinktune.model import arithmetic
from thinktune.reply import Piece, Splitter, split


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the likeliest one."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply taken apart. `finish` says whether the model ended it or the budget did; `closed`, its reasoning."""

    reasoning: str
    answer: str
    tokens: int
    finish: Literal["end", "length"]
    closed: bool


@dataclass(frozen=True, slots=True)
class Engine:
    """A model in this process with its tokenizer, and the arithmetic that it runs in."""

    model: Any
    tokenizer: Any
    precision: torch.dtype = torch.float32

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        batch_rows: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Completions of all prompts in their order, `batch_rows` side by side; `progress` hears how many are done."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))  # alike lengths need little padding
        done: dict[int, Completion] = {}
        for start in range(0, len(order), batch_rows):
            chosen = order[start : start + batch_rows]
            replies: list[list[int]] = [[] for _ in chosen]
            for row, token in self._tokens([prompts[index] for index in chosen], sampling):
                replies[row].append(token)
            done |= {index: self._completion(reply) for index, reply in zip(chosen, replies, strict=True)}
            if progress:
                progress(len(done))
        return [done[index] for index in range(len(prompts))]

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece | Completion]:
        """The pieces of one reply as they come, and last its Completion. Closing the iterator cancels it."""
        splitter, decoder = Splitter(), DecodeStream(skip_special_tokens=True)
        ids: list[int] = []
        for _, token in self._tokens([prompt], sampling):
            ids.append(token)
            text = None if token in self._stops else decoder.step(self.tokenizer.backend_tokenizer, token)
            yield from splitter.feed(text or "")
        yield from splitter.finish()
        yield self._completion(ids)

    @property
    def _stops(self) -> set[int]:
        stops = self.model.generation_config.eos_token_id
        return {
            self.tokenizer.eos_token_id,
            *(stops if isinstance(stops, list) else [stops] if stops is not None else []),
        }

    def _completion(self, ids: Sequence[int]) -> Completion:
        ended = bool(ids) and ids[-1] in self._stops
        reply = split(self.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True))
        return Completion(reply.reasoning, reply.answer, len(ids), "end" if ended else "length", reply.closed)

    def _tokens(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[tuple[int, int]]:
        """New tokens as (prompt, token), each prompt's through its stop token or the budget.

        The prompts stand in one batch, padded on the left; a row that has ended leaves the batch and its cache.
        """
        device, stops = self.model.device, torch.tensor(sorted(self._stops), device=self.model.device)
        generator = torch.Generator(device).manual_seed(sampling.seed)
        ids, mask = _pad_left(prompts, self.tokenizer.pad_token_id or 0, device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache, rows = DynamicCache(config=self.model.config), torch.arange(len(prompts), device=device)
        self.model.eval()
        for _ in range(sampling.max_new_tokens):
            with torch.no_grad(), arithmetic(self.model, self.precision):
                output = self.model(
                    ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            ids = choose(output.logits[:, -1].float(), sampling, generator)
            yield from zip(rows.tolist(), ids[:, 0].tolist(), strict=True)
            going = ~torch.isin(ids[:, 0], stops)
            if not going.all():
                if not going.any():
                    return
                kept = going.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                ids, mask, positions, rows = ids[kept], mask[kept], positions[kept], rows[kept]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = positions[:, -1:] + 1


def record(example: Example, reply: Completion) -> dict[str, Any]:
    """A reply beside what was asked and expected, as samples and evaluations keep it."""
    return {
        "row": example.source,
        "question": example.question,
        "reference_answer": example.turns[-1].content,
        "reasoning": reply.reasoning,
        "answer": reply.answer,
        "tokens": reply.tokens,
        "finish": reply.finish,
        "reasoning_closed": reply.closed,
    }


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """The next token (rows, 1) of each row of logits (rows, vocabulary), as the sampling asks."""
    if sampling.temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = logits / sampling.temperature
    if sampling.top_k:
        floor = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p  # the token that crosses the share still counts
        logits = logits.masked_fill(beyond.gather(-1, order.argsort(-1)), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)


def _pad_left(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask
