"""What is surely no text, taken out of a text: invisible characters, odd spaces, escaped newlines, think tags."""

import re

from thinktune.data.types import Role

_CONTROL_CHARACTER = re.compile(
    # Not U+200C and U+200D, which Persian, Indian scripts and emoji need.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]"
)


REPLACEMENT_CHARACTER = "\ufffd"


# What Windows-1252 makes of the bytes that Latin-1 has no visible character for.
_WINDOWS_1252 = {
    bytes((byte,)).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in b"\x81\x8d\x8f\x90\x9d"
}


_MOJIBAKE = re.compile(f"[\xc2-\xf4][\x80-\xbf{''.join(_WINDOWS_1252)}]")  # a first byte of UTF-8 and a second one


_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85]")  # form feed, vertical tab and NEL end a line as well


_ODD_SPACE = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")


_INDENTED_LINE = re.compile(r"\n[^\S\n]+\S")


# Where a backslash and an n may be LaTeX, code, a path, a quotation, or a sentence about line breaks.
_INTENDED_ESCAPE = re.compile(
    r"[`$]|\\(?!n)|\\n[a-z'\"’”」]|['\"‘“「]\\n|(?<![A-Za-z])[A-Za-z]:\\n|换行|转义|(?i:newline|line break|escape)"
)


# The possessive `*+` and `++` never go back, so that no row however odd takes long.
_GAP = r"(?:\s|\\n)*+"


_OPEN, _CLOSE = rf"<{_GAP}think{_GAP}>", rf"<{_GAP}/{_GAP}think{_GAP}>"


THINK_TAG = re.compile(rf"<{_GAP}(/?){_GAP}think{_GAP}>", re.IGNORECASE)


_TAG_TWICE = re.compile(rf"{_OPEN}{_GAP}{_OPEN}|{_CLOSE}{_GAP}{_CLOSE}", re.IGNORECASE)


_OPENS_AT_START = re.compile(rf"\A(?:{_GAP}{_OPEN})++{_GAP}", re.IGNORECASE)


_CLOSES_AT_START = re.compile(rf"\A(?:{_GAP}{_CLOSE})++{_GAP}", re.IGNORECASE)


_BLOCK_AT_START = re.compile(rf"\A(?:{_GAP}{_OPEN})++(.*?){_CLOSE}(?:{_GAP}{_CLOSE})*{_GAP}", re.IGNORECASE | re.DOTALL)


def fix_mojibake(text: str) -> str:
    """A text whose UTF-8 bytes were read as Windows-1252 or Latin-1, read as UTF-8; any other is unchanged."""
    if text.isascii() or not _MOJIBAKE.search(text):
        return text
    try:
        return bytes(_WINDOWS_1252.get(character, ord(character)) for character in text).decode()
    except ValueError:  # another character, or bytes that are no UTF-8: nobody misread this
        return text


def describe_garbled(text: str) -> str:
    """What `fix_mojibake` mends in a text, or cannot mend."""
    if REPLACEMENT_CHARACTER in text:
        found = next(re.finditer(REPLACEMENT_CHARACTER, text))
        return f"holds U+FFFD, which stands where a character was lost in decoding ({excerpt(text, found)})"
    return f"is UTF-8 that was read as Windows-1252 ({text[:20]!r} is {fix_mojibake(text)[:20]!r})"


def remove_control_characters(text: str) -> str:
    """A text without control and zero-width characters, each of its lines ended by a newline."""
    return _CONTROL_CHARACTER.sub("", _LINE_END.sub("\n", text)) if _CONTROL_CHARACTER.search(text) else text


def describe_control_character(text: str) -> str:
    """What `remove_control_characters` mends in a text."""
    found = next(_CONTROL_CHARACTER.finditer(text))
    return f"holds the invisible character U+{ord(found[0]):04X} ({excerpt(text, found)})"


def unescape_newlines(text: str) -> str:
    """A text with newlines for its escaped ones, unchanged where one of them may be meant."""
    return text.replace("\\n", "\n") if "\\n" in text and not _INTENDED_ESCAPE.search(text) else text


def describe_literal_newline(text: str) -> str:
    """What `unescape_newlines` mends in a text."""
    found = next(re.finditer(r"\\n", text))
    return f"holds a backslash and an n where a line should end ({excerpt(text, found)})"


def normalize_spaces(text: str) -> str:
    """A text with plain spaces, and no white space at its ends; where it begins indented, as code does, that stays.

    A text of nothing else is left to be told as blank.
    """
    core = text.strip()
    if not core:
        return text
    start = text.find(core)
    if text[:start].strip("\r\n") and _INDENTED_LINE.search(core):
        core = text[:start].lstrip("\r\n") + core
    return _ODD_SPACE.sub(" ", core)


def normalize_reasoning_spaces(reasoning: str) -> str:
    """The same of reasoning, where newlines at both ends stay: chat templates strip them."""
    lines = reasoning.strip("\r\n")
    mended = normalize_spaces(lines)
    if mended == lines:
        return reasoning
    start = reasoning.find(lines)
    return reasoning[:start] + mended + reasoning[start + len(lines) :]


def describe_odd_space(text: str) -> str:
    """What `normalize_spaces` mends in a text."""
    if text[:1].isspace():
        return f"begins with white space ({text[:20]!r})"
    if text[-1:].isspace():
        return f"ends with white space ({text[-20:]!r})"
    found = next(_ODD_SPACE.finditer(text))
    return f"holds a space of odd width, U+{ord(found[0]):04X} ({excerpt(text, found)})"


def strip_reasoning_tags(reasoning: str) -> str:
    """Reasoning without the tags around it, and without a stray one at its start or its end."""
    return _strip_trailing_tags(_OPENS_AT_START.sub("", reasoning))


def strip_answer_tags(answer: str, reasoning: str) -> str:
    """An answer without stray tags at its ends, nor a think block that is empty or says the reasoning once more."""
    block = _BLOCK_AT_START.match(answer)
    if block and comparison_key(block[1]) in ("", comparison_key(reasoning)):
        answer = answer[block.end() :]
    return _strip_trailing_tags(_CLOSES_AT_START.sub("", answer))


def _strip_trailing_tags(text: str) -> str:
    end = len(text)
    for tag in reversed(list(THINK_TAG.finditer(text))):
        if text[tag.end() : end].replace("\\n", "").strip():
            break
        end = tag.start()
    return text[:end].rstrip() if end < len(text) else text


def describe_think_tag(text: str, role: Role) -> str:
    """What is wrong with the think tags in a text."""
    tags = list(THINK_TAG.finditer(text))
    kinds = "".join("c" if tag[1] else "o" for tag in tags)
    if role != "assistant":
        word = "stray"
    elif _TAG_TWICE.search(text) or (kinds == "oc" and not text[: tags[0].start()].strip()):
        word = "doubled"  # a whole block as well: the chat template puts its own around the reasoning
    elif "oo" in kinds:
        word = "nested"
    else:
        word = "unclosed" if kinds.endswith("o") else "stray"
    return f"a think tag is {word} ({excerpt(text, tags[0])})"


def comparison_key(text: str) -> str:
    """A text without case and white space."""
    return "".join(text.split()).lower()


def excerpt(text: str, found: re.Match[str]) -> str:
    """A short piece of a text around a match, quoted."""
    return repr(text[max(found.start() - 12, 0) : found.end() + 12])
