"""One reply in the making: tokens in, one by one; pieces out, as soon as they are certain; and where it ends."""

from dataclasses import dataclass
from typing import Any

from tokenizers.decoders import DecodeStream

from thinktune.render import OPENING, closing_ids
from thinktune.reply import Draft, Piece
from thinktune.request import Completion, Finish, Sampling


@dataclass(frozen=True, slots=True)
class Marks:
    """What a model's tokens mean: its tokenizer, the tokens that end a turn, and those that close the reasoning."""

    tokenizer: Any
    ends: frozenset[int]
    closing: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Any, ends: int | list[int] | None) -> "Marks":
        """The marks of a tokenizer, with the end tokens that the model's generation settings name beside its own."""
        named = [] if ends is None else ends if isinstance(ends, list) else [ends]
        return cls(tokenizer, frozenset([tokenizer.eos_token_id, *named]), closing_ids(tokenizer))

    def opened(self, prompt: list[int]) -> bool:
        """Whether a prompt's last words open the reasoning, as some templates do."""
        tail = self.tokenizer.backend_tokenizer.decode(prompt[-8:], skip_special_tokens=False)
        return tail.rstrip().endswith(OPENING)


class Writer:
    """Takes the tokens of one reply; `finish` is set once it is over, and no token may come after."""

    def __init__(self, sampling: Sampling, marks: Marks, prompt: list[int]) -> None:
        self.finish: Finish | None = None
        self.tokens = 0
        self._sampling, self._marks, self._prompt_tokens = sampling, marks, len(prompt)
        self._draft = Draft(sampling.stop, opened=marks.opened(prompt))
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = 0  # characters of the text that were handed on; the rest are bytes of half a character
        self._reasoning_tokens: int | None = None
        self._forced: list[int] | None = None

    def next(self, chosen: int) -> int:
        """The next token: the one that was chosen, or where the reasoning's budget is spent, what closes it."""
        budget = self._sampling.reasoning_tokens
        if self._forced is None and budget is not None and self.tokens >= budget and self._draft.open:
            self._forced = list(self._marks.closing)
        return self._forced.pop(0) if self._forced else chosen

    def take(self, token: int) -> list[Piece]:
        """The pieces that are certain after one more token."""
        self.tokens += 1
        if token in self._marks.ends:
            self.finish = "end"
            return self._end()
        self._ids.append(token)
        text = self._decoder.step(self._marks.tokenizer.backend_tokenizer, token) or ""
        self._decoded += len(text)
        pieces = self._draft.feed(text)
        if self._draft.closed and self._reasoning_tokens is None:
            self._reasoning_tokens = self.tokens
        if self._draft.stopped:
            self.finish = "stop"
            return pieces
        if self.tokens >= self._sampling.max_new_tokens:
            self.finish = "length"
            return pieces + self._end()
        return pieces

    def completion(self) -> Completion:
        """The reply, taken apart, once it is over."""
        assert self.finish is not None
        reply, spent = self._draft.reply(), self._reasoning_tokens
        if spent is None:
            spent = self.tokens - (self.finish == "end") if self._draft.open else 0
        return Completion(
            reply.reasoning, reply.answer, self.tokens, spent, self.finish, reply.closed, self._prompt_tokens
        )

    def _end(self) -> list[Piece]:
        """What was held back: half a character, a tag or a stop text that never came whole."""
        whole = self._marks.tokenizer.backend_tokenizer.decode(self._ids, skip_special_tokens=True)
        pieces = [*self._draft.feed(whole[self._decoded :]), *self._draft.finish()]
        if self._draft.stopped:
            self.finish = "stop"
        return pieces
