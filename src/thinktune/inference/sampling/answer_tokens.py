"""Log probabilities of a reply's tokens, and which of these tokens belong to its answer (no torch)."""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

SMALLEST_LOGPROB = -9999.0  # in place of minus infinity, which JSON has not; OpenAI's and vLLM's number


class RankedToken(NamedTuple):
    """A sampled token's log probability, and the likeliest tokens in its place with theirs, the likeliest first."""

    logprob: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's text, its log probability, its bytes (None if unknown), and the likeliest tokens in its place."""

    text: str
    logprob: float
    bytes: bytes | None
    likeliest: tuple["TokenLogprob", ...] = ()


class AnswerTokens:
    """Which tokens of a reply have text in what is shown of its answer, given out once that is shown.

    Places are those of characters in the reply's whole text. A token that has text on both sides of a border belongs to
    the answer; one that ends within a character has the place of this character.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int, TokenLogprob]] = deque()

    def add(self, start: int, end: int, token: TokenLogprob) -> None:
        """Add the next token, whose text begins at `start` and ends before `end`."""
        self._waiting.append((start, end, token))

    def take(self, answer_start: int | None, shown_end: int) -> list[TokenLogprob]:
        """Return the tokens of the answer that are new, and forget those before them.

        Args:
            answer_start: where the answer begins; None while there is none.
            shown_end: where the text ends that is known to be reasoning or answer.
        """
        found: list[TokenLogprob] = []
        while self._waiting and max(self._waiting[0][0], answer_start or 0) < shown_end:
            start, end, token = self._waiting.popleft()
            if answer_start is not None and (start >= answer_start or end > answer_start):
                found.append(token)
        return found
