"""Lists and objects that a cell holds as text, written as JSON or as Python prints them."""

import ast
import io
import json
import tokenize
from typing import Any

MAX_LITERAL_CHARACTERS = 2**22  # a Python text takes some hundred times its size while it is read


_IN_BRACKETS = ("[]", "{}", "a)")


def read_literal(text: str) -> list[Any] | dict[str, Any] | None:
    """Read a whole text as the list or object that it spells, in JSON or Python; None for any other text.

    Tables hold such texts where a program wrote its lists into cells. NumPy's arrays, which are printed without
    commas, are read as lists; one that was printed shortened (`...`) is not.
    """
    text = text.strip()
    if len(text) < 2 or f"{text[0]}{text[-1]}" not in _IN_BRACKETS:
        return None
    if text[0] != "a":
        try:
            value = json.loads(text)
            return value if isinstance(value, list | dict) else None
        except (ValueError, RecursionError):
            pass
    if len(text) > MAX_LITERAL_CHARACTERS or not _looks_like_python(text):
        return None
    try:
        value = _plain(ast.literal_eval(_with_commas(text)))
    # Any of these, by what is wrong and how deep it is nested.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    return value if isinstance(value, list | dict) else None


def _looks_like_python(text: str) -> bool:
    """Return True if a text begins as a list of texts, lists or objects does; others need not be parsed."""
    return text.startswith("array(") or text[1:].lstrip()[:1] in ("'", '"', "{", "[", "(")


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, with lists in place of tuples; raises ValueError where there is no such form."""
    match value:
        case list() | tuple():
            return [_plain(element) for element in value]
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case None | str() | bool() | int() | float():
            return value
        case _:
            raise ValueError


def _with_commas(text: str) -> str:
    """Return a printed list with the commas that NumPy leaves out, and without the `array(…)` around its lists.

    Python joins two texts side by side into one, so this comes before any evaluation.
    """
    written: list[str] = []
    arrays: list[bool] = []  # for each open parenthesis, whether it is an array's
    before = ""  # the token before, "text" for a text
    skips = False  # over a `, dtype=…` at the end of an array
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.string.strip()]
    for token, following in zip(tokens, [*(token.string for token in tokens[1:]), ""], strict=True):
        word, is_text = token.string, token.type == tokenize.STRING
        if token.type == tokenize.ERRORTOKEN:
            raise ValueError
        skips = (skips or (word == "," and following == "dtype")) and word != ")"
        if skips or (word == "array" and following == "("):
            before = word
            continue
        if word == "(":
            arrays.append(before == "array")
        if (word == "(" and arrays[-1]) or (word == ")" and arrays and arrays.pop()):
            continue
        if before in ("text", "}", "]") and (is_text or word in ("{", "[")):
            written.append(",")
        written.append(word)
        before = "text" if is_text else word
    return " ".join(written)
