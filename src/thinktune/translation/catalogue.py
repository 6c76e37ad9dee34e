"""The catalogue of messages: one JSON file for each package of ours, a line for each template."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

COMPOSED = "composed"  # the file of single words, and of texts whose words the source joins; written by hand
# `{}` in an English template, `{!r}` where the source quotes what it fills in.
PLACE = re.compile(r"\{(?:!r)?\}")
# `{0}` in a Chinese template; `{0!w}`, where a single word, too, is translated; `{0!s}`, where only a text of the
# catalogue stands; `{0!d}`, which is dropped: an English plural.
NUMBERED_PLACE = re.compile(r"\{(\d+)(![wsd])?\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A template with places, and its translation.

    `literals` are the texts around the places, one more than there are places. What fills a `quoted` place is the
    user's own; a single word in a place of `words` is ours, and in one of `strict` there is nothing else.
    """

    literals: tuple[str, ...]
    translation: str
    quoted: frozenset[int]
    words: frozenset[int]
    strict: frozenset[int]
    longest: str
    letters: int

    @classmethod
    def parse(cls, english: str, translation: str) -> "Template":
        """Parse an English template and its translation."""
        literals = tuple(PLACE.split(english))
        places = [found.group() for found in PLACE.finditer(english)]
        quoted = (
            number
            for number, place in enumerate(places)
            if place == "{!r}"
            or (literals[number][-1:] in ("'", '"', "`") and literals[number + 1][:1] in ("'", '"', "`"))
        )
        marks = [(int(found[1]), found[2]) for found in NUMBERED_PLACE.finditer(translation)]
        return cls(
            literals,
            translation,
            quoted=frozenset(quoted),
            words=frozenset(number for number, mark in marks if mark in ("!w", "!s")),
            strict=frozenset(number for number, mark in marks if mark == "!s"),
            longest=max(literals, key=len),
            letters=sum(each.isalpha() for each in english),
        )

    @property
    def starts_with_words(self) -> bool:
        """Whether the template begins with words of its own."""
        return bool(self.literals[0])

    def match(self, text: str) -> list[str] | None:
        """Return what fills the places of a text that this template made, or None.

        Each place takes as little as it can. Where two stand side by side, the second begins at a mark.
        """
        first, last = self.literals[0], self.literals[-1]
        end = len(text) - len(last)
        if not text.startswith(first) or not text.endswith(last) or end < len(first):
            return None
        values: list[str] = []
        start = position = len(first)
        waiting = 1  # places that share the text up to the next literal
        for literal in self.literals[1:-1]:
            if not literal:
                waiting += 1
                continue
            found = text.find(literal, position, end)
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
    marks = [found.start() for found in re.finditer(r"[,;:.] | \(|\.$", text)]
    cut = marks[0] if marks else len(text)
    return [text[:cut], *_share(text[cut:], places - 1)]


def read_catalogue() -> dict[str, dict[str, str]]:
    """Read the catalogue's files: by package, English to Chinese."""
    folder = resources.files("thinktune.translation") / "zh"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return {file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8")) for file in files}


def load_catalogue() -> tuple[dict[str, str], tuple[Template, ...]]:
    """Load texts without places, and templates, those with the most words of their own first."""
    exact: dict[str, str] = {}
    templates: list[Template] = []
    for entries in read_catalogue().values():
        for english, chinese in entries.items():
            if PLACE.search(english):
                templates.append(Template.parse(english, chinese))
            else:
                exact[english] = chinese
    return exact, tuple(sorted(templates, key=lambda each: -sum(map(len, each.literals))))
