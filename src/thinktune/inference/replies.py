"""A reply's text to reasoning and answer, whole or while it streams: the only parser of think tags."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers.decoders import DecodeStream

from thinktune.data.chat_template import CLOSING, OPENING, closing_ids
from thinktune.inference.requests import Completion, Finish, Sampling

Place = Literal["reasoning", "answer", "moved"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of the reasoning or the answer.

    `moved` (without text) says that all text shown as answer until now was reasoning: its opening tag was missing.
    """

    place: Place
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply taken apart; `closed` says whether the reasoning was opened (or implied) and closed."""

    reasoning: str
    answer: str
    closed: bool


class Splitter:
    """Takes a reply apart while it arrives in pieces of any size.

    The pieces given out, put together, do not depend on how the text was cut. The first closing tag ends the
    reasoning; later tags are text of the answer. Line breaks around the tags belong to them, as in Qwen3's template.
    `opened` says that the prompt has opened the reasoning already.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self.closed = False
        self._opened = opened
        self._place: Literal["start", "reasoning", "answer"] = "start"
        self._held = ""  # text that cannot be given out yet: the beginning of a tag, or line breaks before one
        self._fresh = True  # nothing of the present place was given out, so its leading line breaks are dropped

    @property
    def reasoning(self) -> bool:
        """Whether the reasoning is open: what comes next belongs to it."""
        return self._place == "reasoning" or (self._place == "start" and self._opened)

    def feed(self, text: str) -> Iterator[Piece]:
        """The pieces that are certain after this text."""
        self._held += text
        if self._place == "start":
            begun = self._held.lstrip()
            if OPENING.startswith(begun) and len(begun) < len(OPENING):
                return
            self._place = "reasoning" if self._opened or begun.startswith(OPENING) else "answer"
            self._held = begun.removeprefix(OPENING)
        if not self.closed:
            head, tag, tail = self._held.partition(CLOSING)
            if tag:
                yield from self._close(head)
                self._held = tail
        yield from self._give(len(self._held) if self.closed else _certain(self._held))

    def finish(self) -> Iterator[Piece]:
        """The rest, when no more text will come."""
        if self._place == "start":
            self._place = "reasoning" if self._opened else "answer"
        if self._place == "reasoning":
            self._held = self._held.rstrip("\n")
        yield from self._give(len(self._held))

    def _close(self, head: str) -> Iterator[Piece]:
        if self._place == "answer":
            self._place = "reasoning"
            yield Piece("moved", "")
        self._held = head.rstrip("\n")
        yield from self._give(len(self._held))
        self._place, self._fresh, self.closed = "answer", True, True

    def _give(self, certain: int) -> Iterator[Piece]:
        text, self._held = self._held[:certain], self._held[certain:]
        if self._fresh:
            text = text.lstrip("\n")
        if text:
            self._fresh = False
            yield Piece("answer" if self._place == "answer" else "reasoning", text)


class Draft:
    """A reply's text in the making: pieces as they are certain, up to a stop text in the answer; and what they make.

    After `stopped` or `finish` nothing may be fed.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, opened: bool = False) -> None:
        self.stopped = False
        self._splitter, self._stopper = Splitter(opened=opened), Stopper(stop)
        self._pieces: list[Piece] = []

    @property
    def open(self) -> bool:
        """Whether the reasoning is open."""
        return self._splitter.reasoning

    @property
    def closed(self) -> bool:
        """Whether the reasoning was closed."""
        return self._splitter.closed

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain after this text."""
        return self._keep(self._until_stop(self._splitter.feed(text)))

    def finish(self) -> list[Piece]:
        """The rest, when no more text will come."""
        if self.stopped:
            return []
        pieces = self._keep(self._until_stop(self._splitter.finish()))
        return pieces if self.stopped else pieces + self._keep(self._held())

    def reply(self) -> Reply:
        """What the pieces make so far."""
        return Reply(*gather(self._pieces), self.closed)

    def _keep(self, pieces: Iterable[Piece]) -> list[Piece]:
        new = list(pieces)
        self._pieces += new
        return new

    def _held(self) -> Iterator[Piece]:
        if rest := self._stopper.rest():
            yield Piece("answer", rest)

    def _until_stop(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if piece.place != "answer":
                yield from self._held()  # what looked like a stop's beginning stands before this
                yield piece
                continue
            text, self.stopped = self._stopper.feed(piece.text)
            if text:
                yield Piece("answer", text)
            if self.stopped:
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


def split(text: str) -> Reply:
    """A whole reply taken apart."""
    splitter = Splitter()
    reasoning, answer = gather((*splitter.feed(text), *splitter.finish()))
    return Reply(reasoning, answer, splitter.closed)


def gather(pieces: Iterable[Piece]) -> tuple[str, str]:
    """The reasoning and the answer that pieces put together."""
    reasoning = answer = ""
    for piece in pieces:
        match piece.place:
            case "moved":
                reasoning, answer = answer, ""
            case "reasoning":
                reasoning += piece.text
            case "answer":
                answer += piece.text
    return reasoning, answer


def _certain(text: str) -> int:
    """How many leading characters can be neither part of a closing tag nor of the line breaks before it."""
    cut = next(
        (len(text) - n for n in range(min(len(CLOSING) - 1, len(text)), 0, -1) if CLOSING.startswith(text[-n:])),
        len(text),
    )
    return len(text[:cut].rstrip("\n"))


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
