"""Ends of texts: whether a text ends in a stop, breaks off, or is only one character."""

import re
import unicodedata

MIN_PROSE_CHARACTERS = 10  # a shorter text needs no stop


MIN_CUT_CHARACTERS = 20


_CLOSERS = " \t\n\"'”’」』）)】]》>*_`~$}"


_STOPS = "。！？.!?…；;．｡؟।"


_LINE_STOPS = (*_STOPS, "：", ":")


_COMMAS = ",，、"


_OPENERS = "(（[【《“‘"


# No `;`, which ends SQL and C; a hyphen may be an ion's charge (Cl-), so it counts only after a word.
_CUT_WORD = re.compile(r"[a-z]{4}-\Z")


_PAUSE = re.compile(r"(?:[–—]|(?:^|\s)-)\Z")


_INNER_MARK = re.compile(r"[，。；：！？、]|[,.;:!?]\s")


# Words that no sentence ends with.
_OPEN_WORD = re.compile(
    r"\b(?:the|an?|and|or|because|whose|into|between|among|their|your|its|our|every|such as|due to|as well as)\Z|"
    r"(?:以及|或者|并且|而且|但是|因为|由于|例如|比如|包括|对于|关于|为了|从而|以便|[和与及或])\Z",
    re.IGNORECASE,
)


# `皇上——` pauses; what Chinese writes with 和 or 与 at its end is also a name (共和, 参与), so these need a habit too.
_NAMES_AT_END = re.compile(r"(?:共和|温和|缓和|饱和|平和|柔和|中和|随和|总和|参与|给与|赋与|普及|涉及|顾及|危及)\Z")


_ONE_CHARACTER_ANSWERS = frozenset("ABCDEabcde是否对错有无")


def is_prose(text: str) -> bool:
    """Return True for a text so long that one would end it with a stop."""
    return len(text) >= MIN_PROSE_CHARACTERS


def stops(text: str) -> bool:
    """Return True if a text ends in a stop, in a mark that is no letter, or with code or a formula."""
    if text.endswith(("```", "$$", "\\]", "\\)")):
        return True
    last = text.rstrip(_CLOSERS)[-1:]
    return bool(last) and (last in _STOPS or unicodedata.category(last) in ("So", "Sk", "Sm"))


def breaks_off(answer: str) -> str | None:
    """Say how an answer surely breaks off, or None."""
    if answer.count("```") % 2 == 1:
        return "opens code and does not close it"
    if answer.endswith((*_COMMAS, *_OPENERS)) or _CUT_WORD.search(answer[-6:]):
        return "breaks off"
    return None


def pauses(answer: str) -> bool:
    """Return True if an answer ends in a colon or a dash, which may be its form or its manner."""
    return answer.endswith((":", "：")) or bool(_PAUSE.search(answer[-2:]))


def is_form(answer: str) -> bool:
    """Return True if a colon at the end is an empty field of a form, such as another line has."""
    lines = answer.splitlines()
    return len(lines) > 1 and any(":" in line or "：" in line for line in lines[:-1])


def ends_in_open_word(text: str) -> bool:
    """Return True if the last word asks for another one, such as `the` and `以及`."""
    return len(text) > MIN_PROSE_CHARACTERS and bool(_OPEN_WORD.search(text[-12:])) and not _NAMES_AT_END.search(text)


def is_cut(text: str) -> bool:
    """Return True if prose ends in a letter or a comma, although its earlier sentences and lines end in stops."""
    if len(text) < MIN_CUT_CHARACTERS or stops(text) or not (text[-1].isalnum() or text[-1] in _COMMAS):
        return False
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "://" in lines[-1] or lines[-1].startswith(("#", "|", "$", "\\")) or lines[-1].split()[-1][0] in "#@":
        return False
    if len(lines) > 1:
        before = lines[-2].rstrip(_CLOSERS)
        return bool(before) and before[-1] in _STOPS and len(lines[-1]) > MIN_PROSE_CHARACTERS
    return bool(_INNER_MARK.search(text))


def is_whole_character(answer: str, question: str) -> bool:
    """Return True for an answer of one character that the question names, or that is a usual answer."""
    return answer.isnumeric() or answer in _ONE_CHARACTER_ANSWERS or answer in question


def is_mark(answer: str) -> bool:
    """Return True for a lone punctuation mark."""
    return unicodedata.category(answer).startswith("P")
