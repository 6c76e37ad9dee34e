"""One reply in the making: tokens in, one by one; pieces out, as soon as they are certain; and where it ends."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers.decoders import DecodeStream

from thinktune.render import OPENING, closing_ids
from thinktune.reply import Piece, Splitter, gather
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
        self._splitter = Splitter(opened=marks.opened(prompt))
        self._stopper = Stopper(sampling.stop)
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._decoded = 0  # characters of the text that were handed on; the rest are bytes of half a character
        self._pieces: list[Piece] = []
        self._reasoning_tokens: int | None = None
        self._forced: list[int] | None = None

    def next(self, chosen: int) -> int:
        """The next token: the one that was chosen, or where the reasoning's budget is spent, what closes it."""
        budget = self._sampling.reasoning_tokens
        if self._forced is None and budget is not None and self.tokens >= budget and self._splitter.reasoning:
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
        pieces = list(self._until_stop(self._splitter.feed(text)))
        if self._splitter.closed and self._reasoning_tokens is None:
            self._reasoning_tokens = self.tokens
        self._pieces += pieces
        if self.finish:
            return pieces
        if self.tokens >= self._sampling.max_new_tokens:
            self.finish = "length"
            return pieces + self._end()
        return pieces

    def completion(self) -> Completion:
        """The reply, taken apart, once it is over."""
        assert self.finish is not None
        reasoning, answer = gather(self._pieces)
        spent = self._reasoning_tokens
        if spent is None:
            spent = self.tokens - (self.finish == "end") if self._splitter.reasoning else 0
        return Completion(
            reasoning, answer, self.tokens, spent, self.finish, self._splitter.closed, self._prompt_tokens
        )

    def _end(self) -> list[Piece]:
        """What was held back: half a character, a tag or a stop text that never came whole."""
        finish = self.finish
        whole = self._marks.tokenizer.backend_tokenizer.decode(self._ids, skip_special_tokens=True)
        pieces = list(self._until_stop(self._splitter.feed(whole[self._decoded :])))
        if self.finish == finish:
            pieces += self._until_stop(self._splitter.finish())
        if self.finish == finish and (rest := self._stopper.rest()):
            pieces.append(Piece("answer", rest))
        self._pieces += pieces
        return pieces

    def _until_stop(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Pieces up to a stop text in the answer, which ends the reply."""
        for piece in pieces:
            if piece.place != "answer":
                # Text held back as a stop's beginning stands before the tag that says it was no answer.
                if rest := self._stopper.rest():
                    yield Piece("answer", rest)
                yield piece
                continue
            text, hit = self._stopper.feed(piece.text)
            if text:
                yield Piece("answer", text)
            if hit:
                self.finish = "stop"
                return


class Stopper:
    """Gives text out up to the first stop text in it; what may be the beginning of one is held back.

    The stop that is whole first wins, and of two that end together the longer: so it does not matter how the text was
    cut into pieces.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop came after it."""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            return self._held[: min(found)[1]], True
        keep = next(
            (n for n in range(len(self._held), 0, -1) if any(stop.startswith(self._held[-n:]) for stop in self._stops)),
            0,
        )
        certain = len(self._held) - keep
        given, self._held = self._held[:certain], self._held[certain:]
        return given, False

    def rest(self) -> str:
        """What is held back, when no stop came of it."""
        held, self._held = self._held, ""
        return held
