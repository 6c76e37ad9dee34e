"""Kinds of content in a column: what its values are, how many rows have one, and how much text is in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from thinktune.data.columns.messages import is_blank, normalize_key

TEXT_HEAVY_CHARACTERS = 20  # a column longer than this on average is prose that someone may have meant to train


MAX_PARTS, MAX_DEPTH = 200, 5  # of a list or an object; enough to say what is in it, whatever its size


MAX_DISTINCT = 32


MAX_EXAMPLE_CHARACTERS = 40


LABEL_REPEATS = 3  # a short value that comes back so often, on average, is a label


MEDIA_SUFFIXES = {
    **dict.fromkeys(("jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "svg", "heic"), "image"),
    **dict.fromkeys(("mp3", "wav", "flac", "ogg", "m4a", "opus"), "audio"),
    **dict.fromkeys(("mp4", "avi", "mov", "mkv", "webm"), "video"),
}


# What a file of that kind begins with.
_MEDIA_BYTES = (
    *((b"\xff\xd8\xff", "image"), (b"\x89PNG", "image"), (b"GIF8", "image"), (b"BM", "image")),
    *((b"fLaC", "audio"), (b"ID3", "audio"), (b"OggS", "audio"), (b"\x1aE\xdf\xa3", "video")),
)


_DATE = re.compile(
    r"(?:\d{4}[-/.年]\d{1,2}(?:[-/.月]\d{1,2}日?)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})"
    r"(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?\s?(?:Z|UTC|[-+]\d{2}:?\d{2})?)?"
)


_NUMBER = re.compile(r"[-+]?\d{1,30}(?:[.,]\d{1,30})*(?:[eE][-+]?\d{1,4})?%?")


_MEDIA_KEYS = {"bytes", "path", "url", "image_url", "sampling_rate"}


_TOOL_KEYS = {"parameters", "function", "input_schema", "arguments"}


def media_kind(value: Any) -> str | None:
    """Return "image", "audio" or "video" for what is one by its bytes, its name or its keys; None for anything else."""
    match value:
        case str():
            if value.startswith("data:"):
                return next((kind for kind in ("image", "audio", "video") if value.startswith(f"data:{kind}/")), None)
            if len(value) > 1000 or "." not in value or len(value.split()) > 3:
                return None
            suffix = value.partition("?")[0].rpartition(".")[2].strip().lower()
            return MEDIA_SUFFIXES.get(suffix)
        case bytes():
            if value[:4] == b"RIFF":
                return "image" if value[8:12] == b"WEBP" else "audio" if value[8:12] == b"WAVE" else "video"
            return "video" if value[4:8] == b"ftyp" else _media_of_bytes(value)
        case dict():
            found = [media_kind(value[key]) for key in value if key in _MEDIA_KEYS]
            return next((kind for kind in found if kind), None) or ("audio" if "sampling_rate" in value else None)
        case list():
            found = [media_kind(part) for part in value[:3]]
            return found[0] if found and None not in found else None
        case _:
            return None


def _media_of_bytes(value: bytes) -> str | None:
    return next((kind for start, kind in _MEDIA_BYTES if value.startswith(start)), None)


def kind_of(value: Any) -> str:
    """Name the kind of one value for people."""
    if (kind := media_kind(value)) is not None:
        return kind
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "number"
        case str():
            return _kind_of_text(value.strip())
        case bytes():
            return "text as bytes" if decode_text(value) is not None else "bytes"
        case list():
            return _kind_of_list(value)
        case dict():
            return "tool" if _TOOL_KEYS & value.keys() and "role" not in value else "object"
        case _:
            return type(value).__name__


def _kind_of_text(text: str) -> str:
    if text.lower() in ("true", "false"):
        return "true or false"
    if _NUMBER.fullmatch(text[:100]):
        return "number"
    if _DATE.fullmatch(text[:60]):
        return "date"
    if text.startswith(("http://", "https://", "s3://", "/", "./")) and len(text.split(None, 1)) == 1:
        return "link or path"
    if text[:1] in "[{" and text[-1:] in "]}":
        return "tools" if '"parameters"' in text or '"description"' in text else "JSON as text"
    return "word" if is_word(text) else "text"


def _kind_of_list(value: list[Any]) -> str:
    parts = [part for part in value[:20] if not is_blank(part)]
    if parts and all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts):
        return "list of numbers"
    if parts and all(isinstance(part, str) for part in parts):
        return "list of texts"
    if parts and all(isinstance(part, dict) for part in parts):
        keys = {normalize_key(str(key)) for part in parts for key in part}
        if {"role", "from"} & keys or {"user", "assistant"} <= keys or {"human", "assistant"} <= keys:
            return "messages"
        return "tools" if _TOOL_KEYS & keys else "list of objects"
    return "list"


def decode_text(value: bytes) -> str | None:
    """Decode bytes that are UTF-8 text, the first 64 KiB of them; None for other bytes."""
    head = value[: 2**16]
    if b"\0" in head:
        return None
    try:
        return head.decode()
    except UnicodeDecodeError as error:  # cut in the middle of a character
        return head[: error.start].decode() if error.start > len(head) - 4 and len(value) > len(head) else None


def is_word(text: str) -> bool:
    """Return True for a single ASCII word: a label or an identifier, no text."""
    return text.isascii() and len(text.split(None, 1)) < 2


def texts_in(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the texts in a value, also in lists, objects and bytes, without single words and without media."""
    match value:
        case str():
            if not is_blank(value) and not is_word(value) and media_kind(value) is None:
                yield value
        case bytes():
            if media_kind(value) is None and (text := decode_text(value)) is not None:
                yield from texts_in(text, depth)
        case list() if depth < MAX_DEPTH:
            for part in value[:MAX_PARTS]:
                yield from texts_in(part, depth + 1)
        case dict() if depth < MAX_DEPTH and media_kind(value) is None:
            for part in list(value.values())[:MAX_PARTS]:
                yield from texts_in(part, depth + 1)
        case _:
            return


def describe_value(value: Any) -> str:
    """Show the beginning of a value, on one line and printable."""
    if isinstance(value, bytes):
        value = decode_text(value) or value[:MAX_EXAMPLE_CHARACTERS]
    if isinstance(value, list) and value and isinstance(value[0], str | bytes):
        value = value[0]
    if isinstance(value, str) and len(value) > MAX_EXAMPLE_CHARACTERS:
        value = value[: MAX_EXAMPLE_CHARACTERS - 1] + "…"
    text = printable(repr(_cut(value)))
    return text if len(text) <= 2 * MAX_EXAMPLE_CHARACTERS else f"{text[: 2 * MAX_EXAMPLE_CHARACTERS]}…"


def printable(text: str) -> str:
    """Write half characters (lone surrogates), which no terminal can show, as their escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _cut(value: Any, depth: int = 0) -> Any:
    """Cut a value short before it is written out, which would take time by its size."""
    match value:
        case str() | bytes():
            return value[:MAX_EXAMPLE_CHARACTERS]
        case list() if depth < 3:
            return [_cut(part, depth + 1) for part in value[:3]]
        case dict() if depth < 3:
            return {key: _cut(value[key], depth + 1) for key in list(value)[:3]}
        case list() | dict():
            return "…"
        case _:
            return value


@dataclass(slots=True)
class ColumnContent:
    """Sums over the values of a column; blank values count as none.

    `filled`: rows with a value; `text_rows` and `characters`: rows with text and the characters of it; `copies`: rows
    whose text stands in a used column as well; `kinds`: values of each kind; `distinct`: values, up to MAX_DISTINCT.
    """

    filled: int = 0
    text_rows: int = 0
    characters: int = 0
    copies: int = 0
    kinds: dict[str, int] = field(default_factory=dict[str, int])
    distinct: set[str] = field(default_factory=set[str])
    example: str = ""

    def add(self, value: Any, used_text: str | None = None) -> None:
        """Count a row's value that is not blank; `used_text` holds the texts of the row that are trained."""
        kind = kind_of(value)
        texts = list(texts_in(value)) if kind not in ("date", "link or path", "number", "tools", "messages") else []
        self._add_kind(kind, describe_value(value) if self.filled < MAX_DISTINCT else "")
        if not texts:
            return
        self.text_rows += 1
        self.characters += sum(map(len, texts))
        self.copies += used_text is not None and all(text.strip() in used_text for text in texts)

    def _add_kind(self, kind: str, shown: str) -> None:
        self.filled += 1
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if shown and len(self.distinct) < MAX_DISTINCT:
            self.distinct.add(shown)
        self.example = self.example or shown

    def merge(self, other: "ColumnContent") -> None:
        """Add the sums of other rows of the same column."""
        self.filled += other.filled
        self.text_rows += other.text_rows
        self.characters += other.characters
        self.copies += other.copies
        for kind, count in other.kinds.items():
            self.kinds[kind] = self.kinds.get(kind, 0) + count
        self.distinct |= other.distinct
        self.example = self.example or other.example

    @property
    def is_prose(self) -> bool:
        """True where the rows with text have more of it than a label or a name has."""
        return self.characters > TEXT_HEAVY_CHARACTERS * self.text_rows

    @property
    def is_copy(self) -> bool:
        """True where every text stands in a column that is used, so that none is lost."""
        return 0 < self.text_rows == self.copies

    @property
    def characters_per_row(self) -> int:
        """Characters of text in a row that has some, on average."""
        return round(self.characters / max(1, self.text_rows))

    @property
    def kind(self) -> str:
        """The kind of most values, or the two most frequent ones."""
        most = sorted(self.kinds, key=lambda kind: -self.kinds[kind])[:2]
        kind = " or ".join(most) if len(most) == 2 and self.kinds[most[1]] * 20 > self.filled else most[0]
        short = kind in ("word", "text") and not self.is_prose
        seen = min(self.filled, MAX_DISTINCT)
        if short and len(self.distinct) * LABEL_REPEATS <= seen:
            return "label"
        return "label or id" if kind == "word" else kind
