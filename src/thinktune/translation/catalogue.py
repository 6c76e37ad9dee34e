"""The catalogue of messages: one JSON file for each package of ours, a line for each template."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

CATALOGUE_FOLDER = Path(__file__).parent / "zh"
COMPOSED = "composed"  # the file of single words, and of texts whose words the source joins; written by hand
# `{}` in an English template, `{!r}` where the source quotes what it fills in.
PLACE = re.compile(r"\{(?:!r)?\}")
# `{0}` in a Chinese template; `{0!w}`, where a single word, too, is translated; `{0!s}`, where only a text of the
# catalogue stands; `{0!d}`, which is dropped: an English plural.
NUMBERED_PLACE = re.compile(r"\{(\d+)(![wsd])?\}")

_WORD = re.compile(r"[a-z]{3,}")
# A text in quotes as Python and JSON write it; an apostrophe follows a letter.
_QUOTED = re.compile(r"""(?<![^\s(\[{:=,（：，；])(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")(?![\w'"])""")
_COUNT = re.compile(r"\{\} [a-z]+")  # as in `{} rows`
_HIDDEN = "\ue000"


def hide_quoted(text: str) -> str:
    """Return a text of the same length in which what stands in quotes, as a user wrote it, is hidden."""
    return _QUOTED.sub(lambda found: f"{found[0][0]}{_HIDDEN * (len(found[0]) - 2)}{found[0][-1]}", text)


@dataclass(frozen=True, slots=True)
class Template:
    """A template with places, and its translation.

    `literals` are the texts around the places, one more than there are places. What fills a `quoted` place is the
    user's own; a single word in a place of `words` is ours, and in one of `strict` there is nothing else. What is
    `bracketed` may be another library's sentence, and what `counts` begins with a number.
    """

    literals: tuple[str, ...]
    translation: str
    quoted: frozenset[int]
    words: frozenset[int]
    strict: frozenset[int]
    bracketed: frozenset[int]
    has_quotes: bool
    counts: bool
    letters: int

    @classmethod
    def parse(cls, english: str, translation: str) -> "Template":
        """Parse an English template and its translation."""
        places = [found.group() for found in PLACE.finditer(english)]
        marks = [(int(found[1]), found[2]) for found in NUMBERED_PLACE.finditer(translation)]
        literals = tuple(PLACE.split(english))
        around = enumerate(pairwise(literals))
        return cls(
            literals,
            translation,
            quoted=frozenset(number for number, place in enumerate(places) if place == "{!r}"),
            words=frozenset(number for number, mark in marks if mark in ("!w", "!s")),
            strict=frozenset(number for number, mark in marks if mark == "!s"),
            bracketed=frozenset(n for n, (left, right) in around if left.endswith("(") and right.startswith(")")),
            has_quotes=hide_quoted(english) != english,
            counts=_COUNT.fullmatch(english) is not None,
            letters=sum(each.isalpha() for each in english),
        )

    def key_word(self) -> str:
        """Return the longest word of the template that stands between spaces or marks; empty where there is none."""
        ends = len(self.literals) - 1
        words = (
            found.group()
            for number, literal in enumerate(self.literals)
            for found in _WORD.finditer(literal.lower())
            if (found.start() or not number) and (found.end() < len(literal) or number == ends)
        )
        return max(words, key=len, default="")

    def match(self, text: str) -> list[str] | None:
        """Return what fills the places of a text that this template made, or None.

        Each place takes as little as it can. Where two stand side by side, the second begins at a mark. No word of the
        template stands in a text that somebody quoted.
        """
        first, last = self.literals[0], self.literals[-1]
        end = len(text) - len(last)
        seen = text if self.has_quotes else hide_quoted(text)
        if not seen.startswith(first) or not seen.endswith(last) or end < len(first):
            return None
        values: list[str] = []
        start = position = len(first)
        waiting = 1  # places that share the text up to the next literal
        for literal in self.literals[1:-1]:
            if not literal:
                waiting += 1
                continue
            found = seen.find(literal, position, end)
            if found < 0:
                return None
            values += _share(text[start:found], waiting)
            start = position = found + len(literal)
            waiting = 1
        return values + _share(text[start:end], waiting)

    def fill(self, values: Sequence[str]) -> str:
        """Fill the translation's places."""
        return NUMBERED_PLACE.sub(lambda found: "" if found[2] == "!d" else values[int(found[1])], self.translation)


def _share(text: str, places: int) -> list[str]:
    """Share a text among places that stand side by side: each but the first begins at a mark or a bracket."""
    if places == 1:
        return [text]
    mark = re.search(r"[,;:.] | \(|\.$", hide_quoted(text))
    cut = mark.start() if mark else len(text)
    return [text[:cut], *_share(text[cut:], places - 1)]


class Catalogue:
    """Texts without places, and templates, found by a word of theirs."""

    def __init__(self, entries: Iterable[tuple[str, str]]) -> None:
        self.exact: dict[str, str] = {}
        self._templates: dict[str, list[Template]] = {}
        for english, translation in entries:
            if PLACE.search(english):
                template = Template.parse(english, translation)
                self._templates.setdefault(template.key_word(), []).append(template)
            else:
                self.exact[english] = translation

    def templates_for(self, text: str) -> Iterator[Template]:
        """Yield the templates that a text may come from."""
        for word in {"", *_WORD.findall(text.lower())}:
            yield from self._templates.get(word, ())


def read_catalogue() -> dict[str, dict[str, str]]:
    """Read the catalogue's files: by package, English to Chinese."""
    files = sorted(CATALOGUE_FOLDER.glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
