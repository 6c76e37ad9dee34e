"""A reply's text to reasoning and answer, whole or while it streams: the only parser of think tags."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers.decoders import DecodeStream

from thinktune.data.chat_template import THINK_CLOSE, THINK_OPEN, reasoning_end_ids
from thinktune.inference.requests import Completion, FinishReason, SamplingParams

PieceKind = Literal["reasoning", "answer", "moved"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of the reasoning or the answer.

    `step_count` (without text) says that all text shown as answer until now was reasoning: its opening tag was missing.
    """

    kind: PieceKind
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply taken apart; `closed` says whether the reasoning was opened (or implied) and closed."""

    reasoning: str
    answer: str
    closed: bool


class ReasoningParser:
    """Takes a reply apart while it arrives in pieces of any size.

    The pieces given out, put together, do not depend on how the text was cut. The first closing tag ends the
    reasoning; later tags are text of the answer. Line breaks around the tags belong to them, as in Qwen3's template.
    `starts_in_reasoning` says that the prompt has opened the reasoning already.
    """

    def __init__(self, *, starts_in_reasoning: bool = False) -> None:
        self.closed = False
        self._starts_in_reasoning = starts_in_reasoning
        self._state: Literal["start", "reasoning", "answer"] = "start"
        self._held = ""  # text that cannot be given out yet: the beginning of a tag, or line breaks before one
        self._at_start = True  # nothing of the present place was given out, so its leading line breaks are dropped

    @property
    def in_reasoning(self) -> bool:
        """Whether the reasoning is open: what comes next belongs to it."""
        return self._state == "reasoning" or (self._state == "start" and self._starts_in_reasoning)

    def feed(self, text: str) -> Iterator[Piece]:
        """The pieces that are certain after this text."""
        self._held += text
        if self._state == "start":
            begun = self._held.lstrip()
            if THINK_OPEN.startswith(begun) and len(begun) < len(THINK_OPEN):
                return
            self._state = "reasoning" if self._starts_in_reasoning or begun.startswith(THINK_OPEN) else "answer"
            self._held = begun.removeprefix(THINK_OPEN)
        if not self.closed:
            head, tag, tail = self._held.partition(THINK_CLOSE)
            if tag:
                yield from self._end_reasoning(head)
                self._held = tail
        yield from self._emit(len(self._held) if self.closed else _safe_length(self._held))

    def flush(self) -> Iterator[Piece]:
        """The rest, when no more text will come."""
        if self._state == "start":
            self._state = "reasoning" if self._starts_in_reasoning else "answer"
        if self._state == "reasoning":
            self._held = self._held.rstrip("\n")
        yield from self._emit(len(self._held))

    def _end_reasoning(self, head: str) -> Iterator[Piece]:
        if self._state == "answer":
            self._state = "reasoning"
            yield Piece("moved", "")
        self._held = head.rstrip("\n")
        yield from self._emit(len(self._held))
        self._state, self._at_start, self.closed = "answer", True, True

    def _emit(self, certain: int) -> Iterator[Piece]:
        text, self._held = self._held[:certain], self._held[certain:]
        if self._at_start:
            text = text.lstrip("\n")
        if text:
            self._at_start = False
            yield Piece("answer" if self._state == "answer" else "reasoning", text)


class ReplyParser:
    """A reply's text in the making: pieces as they are certain, up to a stop text in the answer; and what they make.

    After `stopped` or `flush` nothing may be fed.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, starts_in_reasoning: bool = False) -> None:
        self.stopped = False
        self._reasoning_parser, self._stop_strings = (
            ReasoningParser(starts_in_reasoning=starts_in_reasoning),
            StopStrings(stop),
        )
        self._pieces: list[Piece] = []

    @property
    def in_reasoning(self) -> bool:
        """Whether the reasoning is open."""
        return self._reasoning_parser.in_reasoning

    @property
    def closed(self) -> bool:
        """Whether the reasoning was closed."""
        return self._reasoning_parser.closed

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain after this text."""
        return self._keep(self._until_stop(self._reasoning_parser.feed(text)))

    def flush(self) -> list[Piece]:
        """The rest, when no more text will come."""
        if self.stopped:
            return []
        pieces = self._keep(self._until_stop(self._reasoning_parser.flush()))
        return pieces if self.stopped else pieces + self._keep(self._flush_stop_strings())

    def reply(self) -> Reply:
        """What the pieces make so far."""
        return Reply(*join_pieces(self._pieces), self.closed)

    def _keep(self, pieces: Iterable[Piece]) -> list[Piece]:
        new = list(pieces)
        self._pieces += new
        return new

    def _flush_stop_strings(self) -> Iterator[Piece]:
        if rest := self._stop_strings.flush():
            yield Piece("answer", rest)

    def _until_stop(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if piece.kind != "answer":
                yield from self._flush_stop_strings()  # what looked like a stop's beginning stands before this
                yield piece
                continue
            text, self.stopped = self._stop_strings.feed(piece.text)
            if text:
                yield Piece("answer", text)
            if self.stopped:
                return


class StopStrings:
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

    def flush(self) -> str:
        """What is held back, when no stop came of it."""
        held, self._held = self._held, ""
        return held


def parse_reply(text: str) -> Reply:
    """A whole reply taken apart."""
    splitter = ReasoningParser()
    reasoning, answer = join_pieces((*splitter.feed(text), *splitter.flush()))
    return Reply(reasoning, answer, splitter.closed)


def join_pieces(pieces: Iterable[Piece]) -> tuple[str, str]:
    """The reasoning and the answer that pieces put together."""
    reasoning = answer = ""
    for piece in pieces:
        match piece.kind:
            case "moved":
                reasoning, answer = answer, ""
            case "reasoning":
                reasoning += piece.text
            case "answer":
                answer += piece.text
    return reasoning, answer


def _safe_length(text: str) -> int:
    """How many leading characters can be neither part of a closing tag nor of the line breaks before it."""
    cut = next(
        (
            len(text) - n
            for n in range(min(len(THINK_CLOSE) - 1, len(text)), 0, -1)
            if THINK_CLOSE.startswith(text[-n:])
        ),
        len(text),
    )
    return len(text[:cut].rstrip("\n"))


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What a model's tokens mean: its tokenizer, the tokens that end a turn, and those that close the reasoning."""

    tokenizer: Any
    eos_token_ids: frozenset[int]
    reasoning_end_ids: tuple[int, ...]

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, eos_token_id: int | list[int] | None) -> "SpecialTokens":
        """The marks of a tokenizer, with the end tokens that the model's generation settings name beside its own."""
        named = [] if eos_token_id is None else eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
        return cls(tokenizer, frozenset([tokenizer.eos_token_id, *named]), reasoning_end_ids(tokenizer))

    def opens_reasoning(self, prompt: list[int]) -> bool:
        """Whether a prompt's last words open the reasoning, as some templates do."""
        tail = self.tokenizer.backend_tokenizer.decode(prompt[-8:], skip_special_tokens=False)
        return tail.rstrip().endswith(THINK_OPEN)


class Detokenizer:
    """Takes the tokens of one reply; `finish_reason` is set once it is over, and no token may come after."""

    def __init__(self, sampling: SamplingParams, special_tokens: SpecialTokens, prompt: list[int]) -> None:
        self.finish_reason: FinishReason | None = None
        self.tokens = 0
        self._sampling, self._special_tokens, self._prompt_tokens = sampling, special_tokens, len(prompt)
        self._parser = ReplyParser(sampling.stop, starts_in_reasoning=special_tokens.opens_reasoning(prompt))
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._emitted_characters = (
            0  # characters of the text that were handed on; the rest are bytes of half a character
        )
        self._reasoning_tokens: int | None = None
        self._forced_ids: list[int] | None = None

    def next_token(self, sampled: int) -> int:
        """The next token: the one that was chosen, or where the reasoning's budget is spent, what closes it."""
        budget = self._sampling.max_reasoning_tokens
        if self._forced_ids is None and budget is not None and self.tokens >= budget and self._parser.in_reasoning:
            self._forced_ids = list(self._special_tokens.reasoning_end_ids)
        return self._forced_ids.pop(0) if self._forced_ids else sampled

    def append(self, token: int) -> list[Piece]:
        """The pieces that are certain after one more token."""
        self.tokens += 1
        if token in self._special_tokens.eos_token_ids:
            self.finish_reason = "end"
            return self._flush()
        self._ids.append(token)
        text = self._decoder.step(self._special_tokens.tokenizer.backend_tokenizer, token) or ""
        self._emitted_characters += len(text)
        pieces = self._parser.feed(text)
        if self._parser.closed and self._reasoning_tokens is None:
            self._reasoning_tokens = self.tokens
        if self._parser.stopped:
            self.finish_reason = "stop"
            return pieces
        if self.tokens >= self._sampling.max_new_tokens:
            self.finish_reason = "length"
            return pieces + self._flush()
        return pieces

    def completion(self) -> Completion:
        """The reply, taken apart, once it is over."""
        assert self.finish_reason is not None
        reply, spent = self._parser.reply(), self._reasoning_tokens
        if spent is None:
            spent = self.tokens - (self.finish_reason == "end") if self._parser.in_reasoning else 0
        return Completion(
            reply.reasoning, reply.answer, self.tokens, spent, self.finish_reason, reply.closed, self._prompt_tokens
        )

    def _flush(self) -> list[Piece]:
        """What was held back: half a character, a tag or a stop text that never came whole."""
        whole = self._special_tokens.tokenizer.backend_tokenizer.decode(self._ids, skip_special_tokens=True)
        pieces = [*self._parser.feed(whole[self._emitted_characters :]), *self._parser.flush()]
        if self._parser.stopped:
            self.finish_reason = "stop"
        return pieces
