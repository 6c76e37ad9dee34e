"""Repair texts where that is safe: mojibake, invisible characters, odd spaces, escaped newlines, think tags."""

import re

from thinktune.tokenization.conversation import Role

_CONTROL_CHARACTER = re.compile(
    # Not U+200C and U+200D, which Persian, Indian scripts and emoji need.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]"
)


REPLACEMENT_CHARACTER = "\ufffd"


# Characters that Windows-1252 gives to bytes for which Latin-1 has no visible one.
_WINDOWS_1252 = {
    bytes((byte,)).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in b"\x81\x8d\x8f\x90\x9d"
}


_MOJIBAKE = re.compile(f"[\xc2-\xf4][\x80-\xbf{''.join(_WINDOWS_1252)}]")  # the first two bytes of a character in UTF-8


_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85]")  # form feed, vertical tab and NEL also end a line


_ODD_SPACE = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")


_INDENTED_LINE = re.compile(r"\n[^\S\n]+\S")


# Where a backslash and an n may belong to LaTeX, code, a path, a quotation, or a sentence about line breaks.
_INTENDED_ESCAPE = re.compile(
    r"[`$]|\\(?!n)|\\n[a-z'\"’”」]|['\"‘“「]\\n|(?<![A-Za-z])[A-Za-z]:\\n|换行|转义|(?i:newline|line break|escape)"
)


# The possessive `*+` and `++` never backtrack, so no row takes long, however odd.
_GAP = r"(?:\s|\\n)*+"


_OPEN, _CLOSE = rf"<{_GAP}think{_GAP}>", rf"<{_GAP}/{_GAP}think{_GAP}>"


THINK_TAG = re.compile(rf"<{_GAP}(/?){_GAP}think{_GAP}>", re.IGNORECASE)


_TAG_TWICE = re.compile(rf"{_OPEN}{_GAP}{_OPEN}|{_CLOSE}{_GAP}{_CLOSE}", re.IGNORECASE)


_OPENS_AT_START = re.compile(rf"\A(?:{_GAP}{_OPEN})++{_GAP}", re.IGNORECASE)


_CLOSES_AT_START = re.compile(rf"\A(?:{_GAP}{_CLOSE})++{_GAP}", re.IGNORECASE)


_BLOCK_AT_START = re.compile(rf"\A(?:{_GAP}{_OPEN})++(.*?){_CLOSE}(?:{_GAP}{_CLOSE})*{_GAP}", re.IGNORECASE | re.DOTALL)


def fix_mojibake(text: str) -> str:
    """Decode UTF-8 that was read as Windows-1252 or Latin-1; other texts are returned unchanged."""
    if text.isascii() or not _MOJIBAKE.search(text):
        return text
    try:
        return bytes(_WINDOWS_1252.get(character, ord(character)) for character in text).decode()
    except ValueError:  # another character, or bytes that are not UTF-8: this was not misread
        return text


def describe_garbled(text: str) -> str:
    """Describe what `fix_mojibake` repairs in a text, or cannot repair."""
    if REPLACEMENT_CHARACTER in text:
        found = next(re.finditer(REPLACEMENT_CHARACTER, text))
        return f"contains U+FFFD, where a character was lost in decoding ({excerpt(text, found)})"
    return f"is UTF-8 that was read as Windows-1252 ({text[:20]!r} should be {fix_mojibake(text)[:20]!r})"


def remove_control_characters(text: str) -> str:
    """Remove control and zero-width characters, and end every line with a newline."""
    return _CONTROL_CHARACTER.sub("", _LINE_END.sub("\n", text)) if _CONTROL_CHARACTER.search(text) else text


def describe_control_character(text: str) -> str:
    """Describe what `remove_control_characters` repairs in a text."""
    found = next(_CONTROL_CHARACTER.finditer(text))
    return f"contains the invisible character U+{ord(found[0]):04X} ({excerpt(text, found)})"


def unescape_newlines(text: str) -> str:
    """Replace escaped newlines by newlines; a text where one of them may be intended is returned unchanged."""
    return text.replace("\\n", "\n") if "\\n" in text and not _INTENDED_ESCAPE.search(text) else text


def describe_literal_newline(text: str) -> str:
    """Describe what `unescape_newlines` repairs in a text."""
    found = next(re.finditer(r"\\n", text))
    return f"contains a backslash and an n where a line should end ({excerpt(text, found)})"


def normalize_spaces(text: str) -> str:
    """Make odd spaces plain and strip both ends, except for the indentation of a first line, as in code.

    A text of white space alone is returned unchanged, for the check for blanks.
    """
    core = text.strip()
    if not core:
        return text
    start = text.find(core)
    if text[:start].strip("\r\n") and _INDENTED_LINE.search(core):
        core = text[:start].lstrip("\r\n") + core
    return _ODD_SPACE.sub(" ", core)


def normalize_reasoning_spaces(reasoning: str) -> str:
    """Normalize the spaces of reasoning; newlines at both ends stay, since chat templates strip them."""
    lines = reasoning.strip("\r\n")
    normalized = normalize_spaces(lines)
    if normalized == lines:
        return reasoning
    start = reasoning.find(lines)
    return reasoning[:start] + normalized + reasoning[start + len(lines) :]


def describe_odd_space(text: str) -> str:
    """Describe what `normalize_spaces` repairs in a text."""
    if text[:1].isspace():
        return f"begins with white space ({text[:20]!r})"
    if text[-1:].isspace():
        return f"ends with white space ({text[-20:]!r})"
    found = next(_ODD_SPACE.finditer(text))
    return f"contains a space of unusual width, U+{ord(found[0]):04X} ({excerpt(text, found)})"


def strip_reasoning_tags(reasoning: str) -> str:
    """Remove the think tags around reasoning, and stray ones at its start and end."""
    return _strip_trailing_tags(_OPENS_AT_START.sub("", reasoning))


def strip_answer_tags(answer: str, reasoning: str) -> str:
    """Remove stray think tags at an answer's ends, and a block that is empty or repeats the reasoning."""
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
    """Describe what is wrong with the think tags in a text."""
    tags = list(THINK_TAG.finditer(text))
    kinds = "".join("c" if tag[1] else "o" for tag in tags)
    if role != "assistant":
        word = "stray"
    elif _TAG_TWICE.search(text) or (kinds == "oc" and not text[: tags[0].start()].strip()):
        word = "doubled"  # also a complete block: the chat template puts its own tags around the reasoning
    elif "oo" in kinds:
        word = "nested"
    else:
        word = "unclosed" if kinds.endswith("o") else "stray"
    return f"a think tag is {word} ({excerpt(text, tags[0])})"


def comparison_key(text: str) -> str:
    """Return a text in lower case without white space."""
    return "".join(text.split()).lower()


def excerpt(text: str, found: re.Match[str]) -> str:
    """Quote a short piece of a text around a match."""
    return repr(text[max(found.start() - 12, 0) : found.end() + 12])
