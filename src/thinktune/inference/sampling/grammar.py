"""Grammar of an answer: a JSON schema, a regular expression or some texts, as a value and as llguidance reads it."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import regex

from thinktune.errors import UserError, shorten_error

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MISSING_PACKAGE = 'needs the package llguidance, which is not installed; run pip install "thinktune[structured]"'

ANY_OBJECT = {"type": "object"}

# Blanks between the parts of a JSON text, as people write them: none, a space, or a new line with its indent. JSON
# allows any number, and a model that has begun to write blanks may never stop.
JSON_BLANKS = r" ?|\r?\n[ \t]{0,64}"
# Else bytes of which there is no choice would be tokenized for the model: a text that is spelled like a control token
# would become that token.
FREE_TOKENS = '%llguidance {"no_forcing": true}\n'


EXACT_INTEGERS = 2**53  # up to which a double holds each


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must be: JSON of a schema, a whole match of a regular expression, or one of some texts.

    `source` is the schema as a JSON object, the expression, or a JSON list of the texts. A keyword of a schema that
    cannot be enforced is left out, unless the grammar `is_strict`. `field` is the request's name of it, for errors.
    """

    kind: Literal["json", "regex", "choice"]
    source: str
    is_strict: bool = False
    field: str = field(default="response_format", compare=False)


def json_grammar(schema: dict[str, Any] | None, *, is_strict: bool = False, field: str = "response_format") -> Grammar:
    """Return the grammar of a JSON schema; None is that of any JSON object."""
    source = json.dumps(ANY_OBJECT if schema is None else schema, ensure_ascii=False)
    return Grammar("json", source, is_strict, field)


def _refuse_inexact_values(grammar: Grammar) -> None:
    """Raise UserError where a schema offers an integer that a double does not hold: another one would be written."""
    places: list[tuple[Any, bool]] = [(json.loads(grammar.source), False)]
    while places:
        place, offered = places.pop()
        if offered and isinstance(place, int) and not isinstance(place, bool) and abs(place) > EXACT_INTEGERS:
            raise UserError(f"{grammar.field}: holds {place}, beyond the exact integers; give it as text")
        if isinstance(place, dict):
            places += [(value, offered or key in ("enum", "const")) for key, value in place.items()]
        elif isinstance(place, list):
            places += [(value, offered) for value in place]


def check_grammar(grammar: Grammar) -> list[str]:
    """Return a sentence for each keyword of a schema that cannot be enforced and is left out.

    Raises UserError where the package is missing, where the grammar has a fault, and where it is strict and a keyword
    would have to be left out.
    """
    try:
        from llguidance import LLMatcher  # imported late: it is an extra
    except ImportError:
        raise UserError(f"{grammar.field}: {MISSING_PACKAGE}") from None
    if grammar.kind == "regex":
        _require_expression(grammar)
    text = grammar.source if grammar.kind == "json" else grammar_text(grammar)
    if grammar.kind == "json":
        _refuse_inexact_values(grammar)
        text = LLMatcher.grammar_from_json_schema(text, overrides=_json_options(grammar))
    is_wrong, found = LLMatcher.validate_grammar_with_warnings(text)
    if is_wrong:
        raise UserError(f"{grammar.field}: cannot be enforced ({_in_one_line(found[0])}); leave that out")
    return [f"{grammar.field}: not all of the schema can be enforced ({_in_one_line(each)})" for each in found]


def grammar_text(grammar: Grammar) -> str:
    """Return a grammar in llguidance's own language."""
    match grammar.kind:
        case "json":
            schema = json.loads(grammar.source) | {"x-guidance": _json_options(grammar)}
            return f"{FREE_TOKENS}start: %json {json.dumps(schema)}"
        case "regex":
            expression = regex.sub(r"(\\.)|/", lambda found: found[1] or r"\/", grammar.source, flags=regex.DOTALL)
            return f"{FREE_TOKENS}start: /{expression}/"
        case "choice":
            return FREE_TOKENS + "start: " + " | ".join(json.dumps(text) for text in json.loads(grammar.source))


def grammar_fields(grammar: Grammar) -> dict[str, Any]:
    """Return the fields of a request that ask another server for the same: OpenAI's, or vLLM's names, new and old."""
    if grammar.kind != "json":
        value: Any = grammar.source if grammar.kind == "regex" else json.loads(grammar.source)
        return {"structured_outputs": {grammar.kind: value}, f"guided_{grammar.kind}": value}
    schema = json.loads(grammar.source)
    if schema == ANY_OBJECT:
        return {"response_format": {"type": "json_object"}}
    named = {"name": "answer", "schema": schema, "strict": grammar.is_strict}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def find_mismatch(grammar: Grammar, answer: str) -> str | None:
    """Return why the text of another server's answer is not what was asked for, as far as can be told; None if it is.

    A schema's own rules are that server's affair.
    """
    match grammar.kind:
        case "json":
            try:
                json.loads(answer)
            except ValueError as error:
                return f"it is not JSON: {error}"
        case "choice":
            return None if answer in json.loads(grammar.source) else "it is not one of the texts to choose from"
        case "regex":
            try:
                fits = regex.fullmatch(grammar.source, answer, timeout=1)
            except (regex.error, TimeoutError):  # of another dialect, or too slow to tell
                return None
            return None if fits else "it does not match the expression"
    return None


def _json_options(grammar: Grammar) -> "JsonCompileOptions":
    return {"whitespace_pattern": JSON_BLANKS, "lenient": not grammar.is_strict}


def _require_expression(grammar: Grammar) -> None:
    try:
        regex.compile(grammar.source)
    except regex.error as error:
        raise UserError(f"{grammar.field}: is not a regular expression ({shorten_error(error)}); correct it") from None


def _in_one_line(text: str) -> str:
    """Return what llguidance says without the place in our own text of the grammar."""
    return " ".join(regex.sub(r"^at \d+\(\d+\): ", "", text.partition("\n   1 | ")[0]).split())
