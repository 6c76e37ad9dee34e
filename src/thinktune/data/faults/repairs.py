"""Repair texts where that is safe: invisible characters, odd spaces, escaped newlines."""

import re

from thinktune.data.faults.prose import is_code, mask_code_and_formulas

_CONTROL_CHARACTER = re.compile(
    # Not U+200C and U+200D, which Persian, Indian scripts and emoji need.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff\u2028-\u202e\u2066-\u2069]"
)


_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")  # all of these end a line


_ODD_SPACE = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")


_INDENTED_LINE = re.compile(r"\n[^\S\n]+\S")


_ESCAPED_BREAK = re.compile(r"(?<!\\)((?:\\r)?\\n(?:[^\S\n]*+(?:\\r)?\\n)*+)([^\S\n]*+)")


# Where a backslash and an n are read as such: a quotation that is one escape, a path, a word about line breaks.
_QUOTED = re.compile(r"""['"‘“「](?:\\n|[^'"‘’“”「」\n])*+['"’”」]""")


_PATH = re.compile(r"(?<![A-Za-z])[A-Za-z]:\\[^\s，。；、]*|\\\\\w[^\s，。；、]*")


_ABOUT_BREAKS = re.compile(r"换行|转义|(?i:newline|line[ -]?break|line[ -]?feed|escape)")


# What begins with \n in LaTeX, as far as a whole word shows it.
_LATEX_WORD = re.compile(
    r"n(?:u|e|eq|eg|i|ot|otin|abla|atural|mid|earrow|warrow|exists|leq|geq|less|gtr|leqslant|geqslant|sim|cong|prec|succ|"
    r"parallel|subseteq|supseteq|ewline|ewcommand|ewenvironment|oindent|onumber|olimits|obreak|ormalsize|ull|um|"
    r"(?:long)?(?:left)?(?:right)?arrow|(?:Left|Right|Leftright)arrow|[Vv][Dd]ash|triangle(?:left|right)(?:eq)?|ewpage)(?![A-Za-z])"
)


_SENTENCE_ENDS, _BULLETS = frozenset(".!?:;。！？：；"), frozenset("-*•·+#>|（(【[<$")


def remove_control_characters(text: str) -> str:
    """Remove control and zero-width characters, and end every line with a newline."""
    return _CONTROL_CHARACTER.sub("", _LINE_END.sub("\n", text)) if _CONTROL_CHARACTER.search(text) else text


def describe_control_character(text: str) -> str:
    """Describe what `remove_control_characters` repairs in a text."""
    found = next(_CONTROL_CHARACTER.finditer(text))
    return f"contains the invisible character U+{ord(found[0]):04X} ({excerpt(text, found)})"


def unescape_newlines(text: str) -> str:
    """Replace escaped newlines by newlines where they are sure to be meant as such.

    One that is doubled, or stands before a capital, a digit, a bullet or a letter that is not Latin, is sure, unless it
    belongs to code, a formula, a path or a quotation; with one of them in a text, the others are, too.
    """
    found = _escaped_breaks(text)
    if not any(sure for _, sure in found):
        return text
    pieces, end = list[str](), 0
    for place, _ in found:
        pieces += text[end : place.start()], "\n" * place[1].count("\\n")
        end = place.end(1)
    return "".join((*pieces, text[end:]))


def find_doubtful_newline(text: str) -> re.Match[str] | None:
    """Return the first escaped newline that may be meant as one and is not sure, in a text that has no sure one."""
    found = _escaped_breaks(text)
    return None if not found or any(sure for _, sure in found) else found[0][0]


def _escaped_breaks(text: str) -> list[tuple[re.Match[str], bool]]:
    """List the escaped newlines that may be meant as such, and whether each is sure."""
    if "\\n" not in text or is_code(text):
        return []
    masked = mask_code_and_formulas(text)
    for pattern in (_QUOTED, _PATH):
        masked = pattern.sub(lambda found: " " * len(found[0]) if "\\n" in found[0] else found[0], masked)
    about = bool(_ABOUT_BREAKS.search(text))
    return [
        (found, _is_sure(text, found) and not (about and found[1].count("\\n") == 1))
        for found in _ESCAPED_BREAK.finditer(masked)
        if not (about and found[1].count("\\n") == 1) and not _LATEX_WORD.match(text, found.end(1) - 1)
    ]


def _is_sure(text: str, found: re.Match[str]) -> bool:
    if found[1].count("\\n") > 1:
        return True
    following = text[found.end() : found.end() + 1]
    if not following or following == "\n":
        return text[: found.start()].rstrip()[-1:] in _SENTENCE_ENDS
    return following.isupper() or following.isdigit() or following in _BULLETS or following > "\u024f"


def describe_literal_newline(text: str) -> str:
    """Describe what `unescape_newlines` repairs in a text, or leaves as doubtful."""
    found = _escaped_breaks(text)[0][0]
    doubt = "" if unescape_newlines(text) != text else "; it stays, since it may be meant"
    return f"contains a backslash and an n where a line should end ({excerpt(text, found)}){doubt}"


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


def comparison_key(text: str) -> str:
    """Return a text in lower case without white space."""
    return "".join(text.split()).lower()


def excerpt(text: str, found: re.Match[str]) -> str:
    """Quote a short piece of a text around a match."""
    return repr(text[max(found.start() - 12, 0) : found.end() + 12])
