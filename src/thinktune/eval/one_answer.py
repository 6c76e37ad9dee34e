"""Patterns of an answer that names its key and offers no other: neither denied nor one of several to choose from.

A key found anywhere in an answer is not enough: "Ash, Bell or Cress" holds every hen. Each pattern matches a whole
answer of at most `LONGEST` characters, so a reply that loops is wrong at once and takes no time.
"""

import re
from collections.abc import Sequence

LONGEST = 600  # characters

_FLAGS = re.compile(r"(?:\(\?[ais]+\))?")
_DENIED = (
    r"(?:(?:\b(?:not|never|neither|nor)|n['’]t)\s+[*`\"]*(?:(?!but\b)[a-z'’]+\s+){0,2}"
    r"|(?:不是|并非|而非|绝非)\s*[^\W是而]{0,3})[*`\"“]*"
)
_NOT_DENIED = r"(?<!not )(?<!not the )(?<!not a )(?<!rather than )(?<!不是)(?<!而非)(?<!并非)"
_BESIDE = (
    r"\w?[\s*`]*(?:(?:\bor\b|或者|或|还是)\s*(?:[a-z]+ ){0,2}\w{0,2}"
    r"|(?:\band\b|[,，/&])\s*(?:the |a )?|[和与、]\s*\w{0,2})[*`]*"
)
_CHOICE_OF_NUMBERS = r"(?!.*\d[^\d.]{0,5}(?:\bor\b|或|还是)\s*\d)(?!\W*\d+(?:[\s,，、和]+(?:and\s+)?\d+)+\W*$)"


def one_answer_pattern(keys: Sequence[str], rivals: Sequence[str]) -> str:
    """Return the pattern of an answer that may name a rival only where it denies it, or later and apart from the key.

    "Ivory, not grey" matches with the key ivory and the rival grey; "ivory or grey", "not ivory" and "grey; ivory" do
    not. That the answer holds the key is not part of it.
    """
    key = _any_of(keys)
    pattern = f"(?!.*{_DENIED}{key})"
    if rivals:
        rival = _NOT_DENIED + _any_of(rivals)
        pattern += f"(?!(?:(?!{key}|{rival}).)*+{rival})(?!.*{key}{_BESIDE}{rival})"
    return limit_length(f"(?is){pattern}.*")


def one_number_pattern(number: str) -> str:
    """Return the pattern of an answer that does not deny its number and gives no choice of several."""
    digits = re.sub(r"[^\d.]", "", number)
    return limit_length(f"(?is)(?!.*{_DENIED}{_any_of([digits])}){_CHOICE_OF_NUMBERS}.*")


def limit_length(pattern: str) -> str:
    """Return a pattern that also refuses texts of more than `LONGEST` characters, before it looks at anything else."""
    flags = _FLAGS.match(pattern)
    end = flags.end() if flags else 0
    return rf"{pattern[:end]}(?=(?s:.{{1,{LONGEST}}})\Z){pattern[end:]}"


def _any_of(words: Sequence[str]) -> str:
    """Return a pattern of any of some texts; Latin words and numbers only as a whole."""
    return "(?:" + "|".join(rf"(?<![0-9A-Za-z]){re.escape(word)}(?![0-9A-Za-z])" for word in words) + ")"
