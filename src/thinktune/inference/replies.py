"""Reply parsing: tokens to text (detokenizer), text to reasoning and answer, whole or streamed, and stop strings."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tokenizers.decoders import DecodeStream

from thinktune.inference.requests import Completion, FinishReason, OpenTurn, SamplingParams
from thinktune.inference.sampling.answer_tokens import AnswerTokens, RankedToken, TokenLogprob
from thinktune.tokenization import ChatTokenizer
from thinktune.tokenization.chat_template import reasoning_end_ids
from thinktune.tokenization.tags import Tags, read_tags
from thinktune.tokenization.token_bytes import TokenBytes, token_text

DEFAULT_TAGS = Tags()
TAIL_TOKENS = 32  # of a prompt, in which an opening tag that ends it is found

PieceKind = Literal["reasoning", "answer", "moved"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of the reasoning or the answer; of the answer with its tokens' log probabilities, where asked for.

    "moved" (without text) means that all text shown as answer so far was reasoning: its opening tag was missing.
    """

    kind: PieceKind
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A parsed reply; `closed` is true if the reasoning was opened (or implied) and closed."""

    reasoning: str
    answer: str
    closed: bool


class ReasoningParser:
    """Incremental parser of a model's think tags; the joined output does not depend on how the text was cut.

    The first closing tag ends the reasoning; later tags are text of the answer. Line breaks around the tags belong to
    them, as in Qwen3's template. `starts_in_reasoning` means that the prompt has already opened the reasoning. A text
    that goes on with an open turn begins in that part, and keeps the line breaks that follow the part's own text.
    """

    def __init__(
        self, tags: Tags = DEFAULT_TAGS, *, starts_in_reasoning: bool = False, open_turn: OpenTurn | None = None
    ) -> None:
        self.closed = False
        self.answer_start: int | None = None  # character of the whole text; None while there is no answer
        self.fed = 0  # characters
        self._tags = tags
        self._starts_in_reasoning = starts_in_reasoning
        self._state: Literal["start", "reasoning", "answer"] = "start"
        self._held = ""  # text that is not final yet: the start of a tag, or line breaks before one
        self._at_start = True  # no text of the present part was emitted, so its leading line breaks are dropped
        self._answers = False  # what comes is known to be the answer
        if open_turn:
            self._state, self._at_start = open_turn.part, not open_turn.has_text
            self.closed = open_turn.part == "answer"
            self.answer_start = 0 if self.closed and open_turn.has_text else None

    @property
    def final_end(self) -> int:
        """The character of the whole text before which nothing is held back."""
        return self.fed - len(self._held)

    @property
    def in_reasoning(self) -> bool:
        """True while the reasoning is open: what comes next belongs to it."""
        return self._state == "reasoning" or (self._state == "start" and self._starts_in_reasoning)

    def begin_answer(self) -> None:
        """Take all that comes as the answer, whatever it looks like; to be called before the reasoning is open."""
        self._answers = True
        self._state = "answer"

    def feed(self, text: str) -> Iterator[Piece]:
        """Yield the pieces that are final after this text."""
        self._held += text
        self.fed += len(text)
        if self._state == "start":
            start = self._held.lstrip()
            if self._tags.opening.startswith(start) and len(start) < len(self._tags.opening):
                return
            self._state = "reasoning" if self._starts_in_reasoning or start.startswith(self._tags.opening) else "answer"
            self._held = start.removeprefix(self._tags.opening)
        is_final = self.closed or self._answers
        if not is_final:
            head, tag, tail = self._held.partition(self._tags.closing)
            if tag:
                yield from self._end_reasoning(head)
                self._held, is_final = tail, True
        yield from self._emit(len(self._held) if is_final else _safe_length(self._held, self._tags.closing))

    def flush(self) -> Iterator[Piece]:
        """Yield the rest, at the end of the text."""
        if self._state == "start":
            self._state = "reasoning" if self._starts_in_reasoning else "answer"
        if self._state == "reasoning":
            self._held = self._held.rstrip("\n")
        yield from self._emit(len(self._held))

    def _end_reasoning(self, head: str) -> Iterator[Piece]:
        if self._state == "answer":
            self._state, self.answer_start = "reasoning", None
            yield Piece("moved", "")
        self._held = head.rstrip("\n")
        yield from self._emit(len(self._held))
        self._state, self._at_start, self.closed = "answer", True, True

    def _emit(self, length: int) -> Iterator[Piece]:
        text, self._held = self._held[:length], self._held[length:]
        if self._at_start:
            text = text.lstrip("\n")
        if text:
            if self._at_start and self._state == "answer":
                self.answer_start = self.fed - len(self._held) - len(text)
            self._at_start = False
            yield Piece("reasoning" if self._state == "reasoning" else "answer", text)


class ReplyParser:
    """Incremental parser of a reply: think tags, and stop strings in the answer. Keeps all pieces it has given out.

    After `stopped` or `flush` nothing may be fed.
    """

    def __init__(
        self,
        stop: tuple[str, ...] = (),
        tags: Tags = DEFAULT_TAGS,
        *,
        starts_in_reasoning: bool = False,
        open_turn: OpenTurn | None = None,
    ) -> None:
        self.stopped = False
        self._reasoning_parser = ReasoningParser(tags, starts_in_reasoning=starts_in_reasoning, open_turn=open_turn)
        self._stop_strings = StopStrings(stop)
        self._pieces: list[Piece] = []
        self._answer_characters = 0
        self._tokens = AnswerTokens()

    @property
    def in_reasoning(self) -> bool:
        """True while the reasoning is open."""
        return self._reasoning_parser.in_reasoning

    @property
    def closed(self) -> bool:
        """True once the reasoning was closed."""
        return self._reasoning_parser.closed

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stop_strings.found

    def begin_answer(self) -> None:
        """Take all that comes as the answer."""
        if not self.closed:
            self._reasoning_parser.begin_answer()

    def feed(self, text: str, tokens: Sequence[tuple[int, TokenLogprob]] = ()) -> list[Piece]:
        """Return the pieces that are final after this text; `tokens` are its last ones, each with its characters."""
        start = self._reasoning_parser.fed + len(text) - sum(characters for characters, _ in tokens)
        for characters, logprob in tokens:
            self._tokens.add(start, start + characters, logprob)
            start += characters
        return self._with_logprobs(self._keep(self._until_stop(self._reasoning_parser.feed(text))))

    def flush(self) -> list[Piece]:
        """Return the rest, at the end of the text."""
        if self.stopped:
            return []
        pieces = self._keep(self._until_stop(self._reasoning_parser.flush()))
        if not self.stopped:
            pieces += self._keep(self._flush_stop_strings())
        return self._with_logprobs(pieces)

    def reply(self) -> Reply:
        """Join the pieces so far."""
        return Reply(*join_pieces(self._pieces), self.closed)

    def _keep(self, pieces: Iterable[Piece]) -> list[Piece]:
        new = list(pieces)
        self._pieces += new
        for piece in new:
            if piece.kind != "reasoning":
                self._answer_characters = self._answer_characters + len(piece.text) if piece.kind == "answer" else 0
        return new

    def _with_logprobs(self, pieces: list[Piece]) -> list[Piece]:
        """Put the log probabilities of the tokens that are shown now with the last piece of the answer."""
        start, shown = self._reasoning_parser.answer_start, self._reasoning_parser.final_end
        if start is not None:
            shown = start + self._answer_characters  # from its start on, the answer is the text as it came
        if found := tuple(self._tokens.take(start, shown)):
            last = next((index for index in reversed(range(len(pieces))) if pieces[index].kind == "answer"), None)
            if last is None:  # of a server whose tokens are not those of its text
                return [*pieces, Piece("answer", "", found)]
            pieces[last] = replace(pieces[last], logprobs=found)
        return pieces

    def _flush_stop_strings(self) -> Iterator[Piece]:
        if rest := self._stop_strings.flush():
            yield Piece("answer", rest)

    def _until_stop(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if piece.kind != "answer":
                yield from self._flush_stop_strings()  # what looked like the start of a stop string comes first
                yield piece
                continue
            text, self.stopped = self._stop_strings.feed(piece.text)
            if text:
                yield Piece("answer", text)
            if self.stopped:
                return


class StopStrings:
    """Passes text through up to the first stop string; text that may be the start of one is held back.

    The stop string that is complete first wins, and of two that end together the longer: so it does not matter how the
    text was cut into pieces.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.found: str | None = None
        self._stops = stops
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that is final now, and whether a stop string follows it."""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            end, start = min(found)
            self.found = self._held[start:end]
            return self._held[:start], True
        keep = next(
            (n for n in range(len(self._held), 0, -1) if any(stop.startswith(self._held[-n:]) for stop in self._stops)),
            0,
        )
        final = len(self._held) - keep
        text, self._held = self._held[:final], self._held[final:]
        return text, False

    def flush(self) -> str:
        """Return the text held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


def parse_reply(text: str, tags: Tags = DEFAULT_TAGS) -> Reply:
    """Parse a whole reply into reasoning and answer."""
    parser = ReasoningParser(tags)
    reasoning, answer = join_pieces((*parser.feed(text), *parser.flush()))
    return Reply(reasoning, answer, parser.closed)


def join_pieces(pieces: Iterable[Piece]) -> tuple[str, str]:
    """Join pieces into the reasoning and the answer."""
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


def _safe_length(text: str, closing: str) -> int:
    """Count the leading characters that cannot belong to a closing tag or to the line breaks before it."""
    cut = next(
        (len(text) - n for n in range(min(len(closing) - 1, len(text)), 0, -1) if closing.startswith(text[-n:])),
        len(text),
    )
    return len(text[:cut].rstrip("\n"))


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """A model's tokenizer, its end-of-turn tokens, its think tags, and the tokens that close the reasoning.

    `skipped_ids` are the special tokens that are no part of a reply's text: all but those that are think tags.
    `token_bytes` says what bytes a token stands for.
    """

    tokenizer: ChatTokenizer
    eos_token_ids: frozenset[int]
    reasoning_end_ids: tuple[int, ...]
    tags: Tags
    skipped_ids: frozenset[int]
    token_bytes: TokenBytes

    @classmethod
    def from_tokenizer(cls, tokenizer: ChatTokenizer, eos_token_id: int | list[int] | None) -> "SpecialTokens":
        """Read a tokenizer's; `eos_token_id` is that of the model's generation configuration."""
        more = [] if eos_token_id is None else eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
        tags = read_tags(tokenizer)
        special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        skipped = frozenset(
            number for number, text in special.items() if text not in tags.opening and text not in tags.closing
        )
        ends = frozenset([tokenizer.eos_token_id, *more])
        return cls(tokenizer, ends, reasoning_end_ids(tokenizer), tags, skipped, TokenBytes(tokenizer))

    def describe(self, token: int, ranks: RankedToken) -> TokenLogprob:
        """Return a token's log probability with its text, and those of the likeliest in its place."""

        def spell(token: int, logprob: float, likeliest: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
            spelled = self.token_bytes.of(token)
            return TokenLogprob(token_text(spelled), logprob, spelled, likeliest)

        return spell(token, ranks.logprob, tuple(spell(*pair) for pair in ranks.likeliest))

    def opens_reasoning(self, prompt: Sequence[int]) -> bool:
        """Return True if the end of the prompt opens the reasoning, as some templates do."""
        tail = self.tokenizer.backend_tokenizer.decode(list(prompt[-TAIL_TOKENS:]), skip_special_tokens=False)
        return tail.rstrip().endswith(self.tags.opening)


class Detokenizer:
    """Incremental detokenizer of one reply; once `finish_reason` is set, no more tokens may be appended."""

    def __init__(
        self,
        sampling: SamplingParams,
        special_tokens: SpecialTokens,
        prompt: Sequence[int],
        open_turn: OpenTurn | None = None,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.tokens = 0
        self.sampling, self._special_tokens, self._prompt_tokens = sampling, special_tokens, len(prompt)
        self._parser = ReplyParser(
            sampling.stop,
            special_tokens.tags,
            starts_in_reasoning=special_tokens.opens_reasoning(prompt),
            open_turn=open_turn,
        )
        self._decoder = DecodeStream(skip_special_tokens=False)
        self._ids: list[int] = []
        self._decoded_characters = 0  # given to the parser; beyond them are only bytes of an incomplete character
        self._reasoning_tokens: int | None = 0 if self._parser.closed else None
        self._forced_ids: list[int] | None = None
        self.must_answer = False
        """The reasoning is closed for a model that would end its reply in it, and by its closing tag alone."""

    @property
    def in_reasoning(self) -> bool:
        """True while the reasoning is open."""
        return self._parser.in_reasoning

    def begin_answer(self) -> None:
        """Take all that comes as the answer."""
        self._parser.begin_answer()

    def next_token(self, sampled: int) -> int:
        """Return the token to append: the sampled one, or once the reasoning budget is spent, those that close it."""
        if self._forced_ids is None and self._parser.in_reasoning:
            budget = self.sampling.max_reasoning_tokens
            is_spent = budget is not None and self.tokens >= budget
            if is_spent or (self.must_answer and sampled in self._special_tokens.eos_token_ids):
                self._forced_ids = list(self._special_tokens.reasoning_end_ids)
        if self.must_answer and self._parser.closed:
            self._forced_ids = []
        return self._forced_ids.pop(0) if self._forced_ids else sampled

    def append(self, token: int, ranks: RankedToken | None = None) -> list[Piece]:
        """Append a token, with its log probability if that is wanted; returns the pieces that are final after it."""
        self.tokens += 1
        if token in self._special_tokens.eos_token_ids:
            self.finish_reason = "end"
            return self._flush()
        text, tokens = "", list[tuple[int, TokenLogprob]]()
        if token not in self._special_tokens.skipped_ids:
            self._ids.append(token)
            text = self._decoder.step(self._special_tokens.tokenizer.backend_tokenizer, token) or ""
            if ranks:
                tokens.append((len(text), self._special_tokens.describe(token, ranks)))
        self._decoded_characters += len(text)
        pieces = self._parser.feed(text, tokens)
        if self._parser.closed and self._reasoning_tokens is None:
            self._reasoning_tokens = self.tokens
        if self._parser.stopped:
            self.finish_reason = "stop"
            return pieces
        if self.tokens >= self.sampling.max_new_tokens:
            self.finish_reason = "length"
            return pieces + self._flush()
        return pieces

    def completion(self) -> Completion:
        """Return the parsed reply, once it is finished."""
        assert self.finish_reason is not None
        reply, reasoning_tokens = self._parser.reply(), self._reasoning_tokens
        if reasoning_tokens is None:
            reasoning_tokens = self.tokens - (self.finish_reason == "end") if self._parser.in_reasoning else 0
        return Completion(
            reply.reasoning,
            reply.answer,
            self.tokens,
            reasoning_tokens,
            self.finish_reason,
            reply.closed,
            self._prompt_tokens,
            self._parser.stop_string,
        )

    def _flush(self) -> list[Piece]:
        """Return the text held back: part of a character, of a tag or of a stop string that was never completed."""
        whole = self._special_tokens.tokenizer.backend_tokenizer.decode(self._ids, skip_special_tokens=False)
        pieces = [*self._parser.feed(whole[self._decoded_characters :]), *self._parser.flush()]
        if self._parser.stopped:
            self.finish_reason = "stop"
        return pieces
