"""Translation of a finished message: the template that it was made from is found by its words.

A message is an f-string somewhere in the source. The catalogue has the template of each (its words, with `{}` for what
is filled in) and the Chinese one, whose places are numbered. A message that is no template as a whole may be several,
joined by colons, semicolons or line ends. What is in no template stays as it is: numbers, paths, names and rows.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

from thinktune.translation.catalogue import Catalogue, Template, hide_quoted, read_catalogue
from thinktune.translation.language import Language, find_language

MAX_MESSAGE_CHARACTERS = 4_000  # a longer text is no message of ours
MAX_LOOKUPS = 400  # for one message: what would take more stays English
_PROSE = re.compile(r"[A-Za-z]+(?: [a-z]+){3}")  # words of a sentence, not a name, a path or a list
_MIN_LETTERS = 20  # of a template's own, where what fills it is a sentence that nothing translates
_OPEN_ENDS = (":", ",", ";")
_MAX_SUBJECT_WORDS = 3  # before a message that begins with a verb

# English and Chinese marks between two messages; a Chinese mark stands only between two Chinese ones.
_JOINS = {"; ": "；", ": ": "：", ". ": "。", ", or ": "，或", ", ": "，", " and ": "和", " or ": "或"}
_JOIN = re.compile("|".join(map(re.escape, _JOINS)))


def translate(text: str, language: Language | None = None) -> str:
    """Translate a message into a language, the terminal's if none is named; what is not known stays English."""
    if (language or find_language()) == "en" or not text or len(text) > MAX_MESSAGE_CHARACTERS:
        return text
    return _translate(text)


@lru_cache(maxsize=1024)
def _translate(text: str) -> str:
    return "\n".join(_Translation(_catalogue()).translate(line, whole=True) for line in _messages_of(text))


def _messages_of(text: str) -> list[str]:
    """Return a text as one message if the catalogue has it with its lines, and line by line otherwise."""
    whole = (
        "\n" in text
        and _Translation(_catalogue()).fill(text.strip()) is None
        and text.strip() not in _catalogue().exact
    )
    return text.split("\n") if whole else [text]


@cache
def _catalogue() -> Catalogue:
    return Catalogue(entry for entries in read_catalogue().values() for entry in entries.items())


class _Translation:
    """Translation of one message, which remembers its parts and stops looking after so many."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._known: dict[tuple[str, bool], str] = {}
        self._left = MAX_LOOKUPS

    def translate(self, text: str, *, whole: bool = False) -> str:
        """Translate a text; one that is part of another is translated only if it has more than one word."""
        body = text.strip()
        if not body or not (whole or _may_be_message(body)):
            return text
        key = (body, whole)
        if key not in self._known:
            self._left -= 1
            self._known[key] = self._translate(body) if self._left > 0 else body
        start = text.index(body)
        return f"{text[:start]}{self._known[key]}{text[start + len(body) :]}"

    def _translate(self, text: str) -> str:
        if (found := self._find(text)) is not None:
            return found
        made = self.fill(text)
        if made is not None and not _english_letters(made):
            return made
        ways = [*([made] if made else []), *self._at_joins(text), *self._at_bracket(text), *self._after_subject(text)]
        if text.endswith(".") and (sentence := self.translate(text[:-1])) != text[:-1]:
            ways.append(f"{sentence.removesuffix('。')}。")
        return min(ways, key=_english_then_length, default=text)  # whichever leaves least English

    def _find(self, text: str) -> str | None:
        return self._catalogue.exact.get(text) or self._catalogue.exact.get(_swap_first(text))

    def fill(self, text: str) -> str | None:
        """Translate a text that one template as a whole makes: that which leaves least English, or begins soonest."""
        swapped = _swap_first(text)
        ways: list[tuple[int, int, str]] = []
        for template in self._catalogue.templates_for(text):
            values = template.match(text)
            if values is None and template.literals[0]:
                values = template.match(swapped)
            if values is not None and (filled := self._fill_places(template, values)) is not None:
                ways.append((_english_letters(filled), len(values[0]), filled))
        return min(ways)[2] if ways else None

    def _fill_places(self, template: Template, values: Sequence[str]) -> str | None:
        """Fill a template, or return None where its few words could be another sentence's."""
        filled: list[str] = []
        for number, value in enumerate(values):
            if value.endswith(_OPEN_ENDS) or (number in template.strict and value not in self._catalogue.exact):
                return None
            if _is_part_of_name(template.literals[number], value) or (template.counts and not value[:1].isdigit()):
                return None
            known = value if number in template.quoted else self.translate(value, whole=number in template.words)
            if template.letters < _MIN_LETTERS and number not in template.bracketed and _is_sentence(known):
                return None
            filled.append(known)
        return template.fill(filled)

    def _at_joins(self, text: str) -> Iterator[str]:
        """Yield translations of a text of two parts with a mark between them, of which at least one is a message."""
        for found in _JOIN.finditer(hide_quoted(text)):
            english, chinese = found.group(), _JOINS[found.group()]
            left, right = text[: found.start() + (english == ". ")], text[found.end() :]  # a sentence has its stop
            before, after = self.translate(left), self.translate(right)
            if before != left and after != right and not (english == ": " and before[-1].isascii()):
                yield f"{before.removesuffix(chinese)}{chinese}{after}"
            elif (before != left or after != right) and not _is_sentence(before + english + after):
                yield f"{before.removesuffix('.') if english == '. ' else before}{english}{after}"

    def _at_bracket(self, text: str) -> Iterator[str]:
        """Yield the translation of `words (more words)`, of which at least one part is a message."""
        start = hide_quoted(text).rfind(" (")
        if start < 0 or not text.endswith(")"):
            return
        left, right = text[:start], text[start + 2 : -1]
        before, after = self.translate(left), self.translate(right)
        if before != left and after != right:
            yield f"{before}（{after}）"
        elif (before != left or after != right) and not _is_sentence(f"{before} ({after}"):
            yield f"{before} ({after})"

    def _after_subject(self, text: str) -> Iterator[str]:
        """Yield translations of a value or a name that is followed by what is said of it, a message as a whole."""
        spaces = [found.start() for found in re.finditer(" ", hide_quoted(text))]
        for start in spaces[:_MAX_SUBJECT_WORDS]:
            said = text[start + 1 :]
            if not text[:start].endswith(_OPEN_ENDS) and (made := self._find(said) or self.fill(said)):
                yield f"{text[:start]} {made}"


def _is_part_of_name(before: str, value: str) -> bool:
    """Return whether a template's word, and the text after it, are a name, as in rows.jsonl."""
    return before[-1:].isalpha() and value[:1] in (".", "_", "-", "/") and value[1:2].isalnum()


def _may_be_message(text: str) -> bool:
    return " " in text and _english_letters(hide_quoted(text)) > 0


def _english_letters(text: str) -> int:
    return sum(letter.isascii() and letter.isalpha() for letter in text)


def _english_then_length(text: str) -> tuple[int, int]:
    return _english_letters(text), len(text)


def _swap_first(text: str) -> str:
    """Return a text with its first letter in the other case: a sentence's start, or its middle."""
    return text[:1].swapcase() + text[1:]


def _is_sentence(text: str) -> bool:
    """Return whether a text, but for what it quotes, is a sentence that stayed English."""
    return _PROSE.search(hide_quoted(text)) is not None
