"""Prose of a text: what stands outside code and formulas, where marks and escapes are not meant to be read."""

import re
from itertools import islice

_CODE_SPAN = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*+`", re.DOTALL)


# A closing mark is looked for up to the next opening one at most, so that no text takes long.
_FORMULA = re.compile(
    r"\$\$[^$]*+\$\$|(?<!\$)\$(?![\s{])[^$\n]{1,300}\$"
    r"|\\\((?:[^\\]|\\(?![()]))*+\\\)|\\\[(?:[^\\]|\\(?![\[\]]))*+\\\]"
)


_CODE_LINE = re.compile(
    r"^[^\S\n]*+(?:(?:def|class|import|from|public|private|static|function|const|let|var|return|print|elif|package)\b"
    r"(?=[\w \t.,:;=(){}\"'*\[\]<>+-]*$)|#include\b|(?:if|for|while|switch) ?\(|</?\w+[ >]|<!DOCTYPE|(?:SELECT|INSERT|"
    r"UPDATE|CREATE) |//|/\*|[{}]\s*$).*$|[;{]\s*$",
    re.MULTILINE,
)


_MIN_CODE_LINES = 2


def mask_code(text: str) -> str:
    """Return a text of the same length whose fenced and inline code is blank."""
    return _CODE_SPAN.sub(_blank, text) if "`" in text or "~~~" in text else text


def mask_code_and_formulas(text: str) -> str:
    """Return a text of the same length whose code and formulas are blank."""
    masked = mask_code(text)
    return _FORMULA.sub(_blank, masked) if "$" in masked or "\\" in masked else masked


def is_code(text: str) -> bool:
    """Return True if several lines look like code that no fence marks."""
    return next(islice(_CODE_LINE.finditer(text), _MIN_CODE_LINES - 1, None), None) is not None


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])
