"""Read what is nearly JSON where its meaning is certain: commas too many, and Python's way of writing values."""

import ast
import math
import re
import warnings
from typing import Any

from thinktune.data.reading.raw_rows import DECODER

MAX_PYTHON_CHARACTERS = 2**20  # Python's own parser needs some hundred times a text's size


# A string of JSON, to its end or to the end of the text; or a comma before a closing bracket.
_TRAILING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*+(?:"|\\?\Z))|,(?=\s*[}\]])', re.DOTALL)


# What can hide or make a bracket: strings with either quote, and brackets.
_BRACKET = re.compile(
    r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)' + "|" + r"'(?:[^'\\]|\\.)*+(?:'|\\?\Z)" + r"|[\[\]{}()]", re.DOTALL
)


_NAMED_VALUES = {"null": None, "true": True, "false": False, "nan": math.nan, "NaN": math.nan, "inf": math.inf}


def decode_loosely(text: str) -> tuple[Any, str]:
    """Read a text that is not JSON; returns its value and what it is, as the end of a sentence.

    Read are JSON with a comma after the last value of a list or object, and a Python dict or list of plain values.
    Raises ValueError for anything else, or where two keys are equal.
    """
    bare = text.strip()
    if "'" not in bare[:64]:
        without = _TRAILING_COMMA.sub(lambda found: found[1] or " ", bare.removesuffix(","))
        if without != bare:
            try:
                return DECODER.decode(without), _comma_sentence(bare)
            except RecursionError:
                raise ValueError("is nested too deeply") from None
            except ValueError:
                pass
    return _python_value(
        bare.removesuffix(",").rstrip()
    ), "is written as Python does, not as JSON, and was read as that"


def _comma_sentence(text: str) -> str:
    where = "ends in a comma" if text.endswith(",") else "has a comma after its last value"
    return f"{where}, which is not JSON, and was read without it"


def find_end(text: str, start: int) -> int:
    """Return where the list or object that begins at a position ends; raises ValueError if it does not."""
    depth = 0
    for found in _BRACKET.finditer(text, start):
        if found[0] in "[{(":
            depth += 1
        elif found[0] in "]})":
            depth -= 1
            if not depth:
                return found.end()
    raise ValueError("breaks off")


def _python_value(text: str) -> Any:
    """Read a Python literal of plain values; raises ValueError where it is none."""
    if not text.startswith(("{", "[")) or len(text) > MAX_PYTHON_CHARACTERS or "\0" in text:
        raise ValueError("is not a Python value")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an unknown escape, which Python itself never writes
            return _plain_value(ast.parse(text, mode="eval").body)
    except (SyntaxError, SyntaxWarning, DeprecationWarning, MemoryError, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a Python value ({type(error).__name__})") from None


def _plain_value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_plain_value(element) for element in elements]
        case ast.Name(id=name) if name in _NAMED_VALUES:
            return _NAMED_VALUES[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -math.inf
        case ast.Dict(keys=keys, values=values):
            return _plain_object(keys, values)
        case _:
            raise ValueError("holds more than plain values")


def _plain_object(keys: list[ast.expr | None], values: list[ast.expr]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            raise ValueError("has a key that is not text")
        if key.value in columns:
            raise ValueError(f"the key {key.value[:40]!r} appears twice in one object")
        columns[key.value] = _plain_value(value)
    return columns
