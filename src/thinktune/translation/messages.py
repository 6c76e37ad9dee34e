"""Translation of a finished message: the template that it was made from is found by its words.

A message is an f-string somewhere in the source. The catalogue has the template of each (its words, with `{}` for what
is filled in) and the Chinese one, whose places are numbered. A message that is no template as a whole may be several,
joined by colons, semicolons or line ends. What is in no template stays as it is: numbers, paths, names and rows.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache

from thinktune.translation.catalogue import Catalogue, Template, hide_quoted, read_catalogue
from thinktune.translation.language import Language, find_language

MAX_MESSAGE_CHARACTERS = 20_000  # a longer text is no message of ours
_MAX_DEPTH = 8  # of messages in messages
_PROSE = re.compile(r"[A-Za-z]+(?: [a-z]+){3}")  # words of a sentence, not a name, a path or a list
_MIN_LETTERS = 20  # of a template's own, where what fills it is a sentence that nothing translates

# English and Chinese marks between two messages; a Chinese mark stands only between two Chinese ones.
_JOINS = (("; ", "；"), (": ", "："), (". ", "。"), (", ", "，"), (" and ", "和"), (" or ", "或"))


def translate(text: str, language: Language | None = None) -> str:
    """Translate a message into a language, the terminal's if none is named; what is not known stays English."""
    if (language or find_language()) == "en" or not text or len(text) > MAX_MESSAGE_CHARACTERS:
        return text
    return _lookup(text, 0, True)


@cache
def _catalogue() -> Catalogue:
    return Catalogue(entry for entries in read_catalogue().values() for entry in entries.items())


@lru_cache(maxsize=4096)
def _lookup(text: str, depth: int, whole: bool) -> str:
    """Translate a text; one that is part of another is translated only if it has more than one word."""
    body = text.strip()
    if depth > _MAX_DEPTH or not body or not (whole or _may_be_message(body)):
        return text
    if body != text:
        start = text.index(body)
        return f"{text[:start]}{_lookup(body, depth, whole)}{text[start + len(body) :]}"
    exact = _catalogue().exact
    if (found := exact.get(body) or exact.get(_swap_first(body))) is not None:
        return found
    made = _fill(body, depth)
    if made is not None and not _english_letters(made):
        return made
    ways = [way for way in (made, _compose(body, depth)) if way is not None]
    return min(ways, key=_english_letters, default=body)  # whichever leaves less English


def _may_be_message(text: str) -> bool:
    return " " in text and _english_letters(hide_quoted(text)) > 0


def _english_letters(text: str) -> int:
    return sum(letter.isascii() and letter.isalpha() for letter in text)


def _swap_first(text: str) -> str:
    """Return a text with its first letter in the other case: a sentence's start, or its middle."""
    return text[0].swapcase() + text[1:]


def _fill(text: str, depth: int) -> str | None:
    """Translate a text that one template as a whole makes: that which leaves least English, then begins soonest."""
    swapped = _swap_first(text)
    ways: list[tuple[int, int, str]] = []
    for template in _catalogue().templates_for(text):
        values = template.match(text)
        if values is None and template.literals[0]:
            values = template.match(swapped)
        if values is not None and (filled := _fill_places(template, values, depth)) is not None:
            ways.append((_english_letters(filled), len(values[0]), filled))
    return min(ways)[2] if ways else None


def _fill_places(template: Template, values: Sequence[str], depth: int) -> str | None:
    """Fill a template, or return None where its few words could be another sentence's."""
    filled: list[str] = []
    for number, value in enumerate(values):
        known = value if number in template.quoted else _lookup(value, depth + 1, number in template.words)
        if number in template.strict and value not in _catalogue().exact:
            return None
        if template.letters < _MIN_LETTERS and _is_sentence(known):
            return None
        filled.append(known)
    return template.fill(filled)


def _is_sentence(text: str) -> bool:
    """Return whether a text, but for what it quotes, is a sentence that stayed English."""
    return _PROSE.search(hide_quoted(text)) is not None


def _compose(text: str, depth: int) -> str | None:
    """Translate a text whose parts are messages; None where no part is one."""
    if "\n" in text:
        made = "\n".join(_lookup(line, depth + 1, True) for line in text.split("\n"))
        return made if made != text else None
    if text.endswith(".") and (made := _lookup(text[:-1], depth + 1, False)) != text[:-1]:
        return f"{made.removesuffix('。')}。"
    return _compose_at_bracket(text, depth) or _compose_at_joins(text, depth)


def _compose_at_joins(text: str, depth: int) -> str | None:
    seen = hide_quoted(text)
    for english, chinese in _JOINS:
        best = None
        start = seen.find(english)
        while start >= 0:
            left, right = text[: start + (english == ". ")], text[start + len(english) :]  # a sentence has its stop
            before, after = _lookup(left, depth + 1, False), _lookup(right, depth + 1, False)
            if before != left and after != right:
                return f"{before.removesuffix(chinese)}{chinese}{after}"
            if best is None and (before != left or after != right) and not _is_sentence(before + english + after):
                best = f"{before.removesuffix('.') if english == '. ' else before}{english}{after}"
            start = seen.find(english, start + 1)
        if best is not None:
            return best
    return None


def _compose_at_bracket(text: str, depth: int) -> str | None:
    """Translate `words (more words)`, whose parts are messages."""
    start = hide_quoted(text).rfind(" (")
    if start < 0 or not text.endswith(")"):
        return None
    left, right = text[:start], text[start + 2 : -1]
    before, after = _lookup(left, depth + 1, False), _lookup(right, depth + 1, False)
    if before != left and after != right:
        return f"{before}（{after}）"
    if (before != left or after != right) and not _is_sentence(f"{before} ({after}"):
        return f"{before} ({after})"
    return None
