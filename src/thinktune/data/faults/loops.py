"""Find text that repeats itself: at its end, as a model that never stops writes, or in its middle."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

MIN_LOOP_REPEATS = 4  # of the same text at the end, one after the other


MIN_LOOP_CHARACTERS = 40  # over all repeats; shorter ones are emphasis, or rows of dashes


TAIL_CHARACTERS = 4000  # searched for loops


# In a row, fewer may be a refrain or emphasis.
_MIN_ROW_REPEATS, _MIN_ROW_CHARACTERS = 6, 80


MIN_SURE_REPEATS = 20  # which nobody writes


_MIN_SAME_CHARACTERS = 100  # of one letter or digit in a row, such as a reply of zeros


_MIN_LETTERS_REPEATS = 50  # of a unit of letters or digits alone: sequences of genes, decimals that recur


_ENDING_CHARACTERS = 8  # which a loop has at least twice in its tail


_RULE = frozenset(" \t\n-=_*.·…—─━~#|+:/\\")  # drawn with one character: a line, a row of dots


_SENTENCE_END = re.compile(r"(?<=[.!?。！？\n])(?=[^.!?。！？\n])")


_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Loop:
    """A text `unit` that stands `repeats` times in a row."""

    unit: str
    repeats: int

    @property
    def is_sure(self) -> bool:
        """True for a loop that no writer means."""
        return self.repeats >= MIN_SURE_REPEATS


def ends_in_loop(text: str) -> bool:
    """Return True if a text ends by repeating itself: at least four times, 40 characters in all."""
    return _shortest_loop(text, MIN_LOOP_REPEATS, MIN_LOOP_CHARACTERS) is not None


@lru_cache(maxsize=8)  # a row's texts are asked for by two checks
def find_loop(text: str) -> Loop | None:
    """Find a loop of at least six repeats at the end of a text, or of whole sentences in its middle."""
    stripped = text.rstrip()
    if len(stripped) < _MIN_ROW_CHARACTERS:
        return None
    return _same_characters(stripped) or _loop_at_end(stripped) or _repeated_sentences(stripped)


def _same_characters(text: str) -> Loop | None:
    last = text[-1]
    repeats = len(text) - len(text.rstrip(last))
    return Loop(last, repeats) if repeats >= _MIN_SAME_CHARACTERS and last not in _RULE else None


def _loop_at_end(text: str) -> Loop | None:
    unit = _shortest_loop(text, _MIN_ROW_REPEATS, _MIN_ROW_CHARACTERS)
    if unit is None or not any(map(str.isalnum, unit)):
        return None
    tail = text[-TAIL_CHARACTERS:]
    size = len(unit)
    repeats = next(
        (count for count in range(1, len(tail) // size) if not _stands(tail, unit, count)), len(tail) // size
    )
    sequence = unit.isascii() and (unit.isalnum() or not _LETTER.search(unit))
    return Loop(unit, repeats) if repeats >= (_MIN_LETTERS_REPEATS if sequence else _MIN_ROW_REPEATS) else None


def _stands(tail: str, unit: str, count: int) -> bool:
    """Return True if the unit also stands `count` units before the last one."""
    end = len(tail) - count * len(unit)
    return tail[end - len(unit) : end] == unit


def _repeated_sentences(text: str) -> Loop | None:
    """Find one sentence, or two or three in turn, that stand six times in a row."""
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text)]
    if len(sentences) - len(set(sentences)) < _MIN_ROW_REPEATS - 1:
        return None
    common = [sentence for sentence, count in Counter(sentences).most_common(3) if count >= _MIN_ROW_REPEATS]
    if not any(_LETTER.search(sentence) for sentence in common) or "```" in text:
        return None
    for period in (1, 2, 3):
        same = [later == earlier for later, earlier in zip(sentences[period:], sentences, strict=False)]
        place = 0
        for is_same, run in groupby(same):
            length = len(list(run))
            repeats = length // period + 1
            unit = " ".join(sentences[place : place + period])
            if is_same and repeats >= _MIN_ROW_REPEATS and _is_wordy(unit, repeats):
                return Loop(unit, repeats)
            place += length
    return None


def _is_wordy(unit: str, repeats: int) -> bool:
    return len(unit) * repeats >= _MIN_ROW_CHARACTERS and len(_LETTER.findall(unit)) > 2


def _shortest_loop(text: str, min_repeats: int, min_characters: int) -> str | None:
    """Return the shortest unit that a text's end repeats so often, a last incomplete one counted by its characters.

    One pass of Knuth, Morris and Pratt's failure function over the reversed end gives the shortest period of each of
    its prefixes. Most texts are settled before it: what ends in a loop has its last characters once more.
    """
    tail = text.rstrip()[-TAIL_CHARACTERS:]
    if tail.count(tail[-_ENDING_CHARACTERS:]) < 2:
        return None
    tail = tail[::-1]
    border = [0] * len(tail)
    matched = 0
    for place in range(1, len(tail)):
        while matched and tail[place] != tail[matched]:
            matched = border[matched - 1]
        matched += tail[place] == tail[matched]
        border[place] = matched
        length, period = place + 1, place + 1 - matched
        if length >= max(min_characters, min_repeats * period) and len(set(tail[:period])) > 1:
            return tail[:period][::-1]
    return None
