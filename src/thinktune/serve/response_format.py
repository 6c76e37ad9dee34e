"""How clients ask for an answer of a given form: every dialect in one table, to one grammar.

Sources: OpenAI's `response_format`, also in the flat form of its Responses API; vLLM's `structured_outputs` and its
former `guided_…`; SGLang's and llama.cpp's `json_schema`, SGLang's `regex`.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from thinktune.errors import UserError
from thinktune.inference.sampling.grammar import ANY_OBJECT, Grammar, json_grammar
from thinktune.serve.neutral_fields import ClientModel, Json, NeutralValues, OrNothing

MAX_CHOICES = 1000

# A JSON schema: an object, or its text.
Schema = Annotated[
    Annotated[Json, Tag("dict")] | Annotated[str, Tag("str")],
    Discriminator(lambda schema: "str" if isinstance(schema, str) else "dict"),
]
Choices = Annotated[list[str], Field(max_length=MAX_CHOICES, fail_fast=True)]


class NamedSchema(ClientModel):
    """The object `json_schema` of `response_format`; name and description are for models that read them."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"name", "description"})
    schema_: Schema | None = Field(None, alias="schema")
    strict: bool | None = None
    """Refuse a schema of which a keyword cannot be enforced, instead of leaving the keyword out with a warning."""


class ResponseFormat(NamedSchema):
    """The form of an answer; a schema may also stand beside `type`."""

    type: Literal["text", "json_object", "json_schema"] | None = None
    json_schema: Annotated[NamedSchema | None, OrNothing] = None


class StructuredOutputs(ClientModel):
    """The form of an answer as vLLM calls it."""

    neutral_values: ClassVar[NeutralValues] = {
        name: [False] for name in ("disable_fallback", "disable_any_whitespace", "disable_additional_properties")
    }
    json_: Annotated[Schema | None, OrNothing] = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: Choices | None = None


class FormFields(ClientModel):
    """The fields of a request that ask for a form of the answer."""

    response_format: Annotated[ResponseFormat | None, OrNothing] = None
    structured_outputs: Annotated[StructuredOutputs | None, OrNothing] = None
    guided_json: Annotated[Schema | None, OrNothing] = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    json_schema: Annotated[Schema | None, OrNothing] = None
    regex: str | None = None


def read_grammar(fields: FormFields, *, is_strict: bool) -> Grammar | None:
    """Read all dialects of a request; None where the answer may have any form.

    Raises UserError, which begins with the name of a field, where two fields ask for two forms, and for a schema that
    is no JSON object.
    """
    asked = list(_forms(fields, is_strict=is_strict))
    for other in asked[1:]:
        if (other.kind, other.source) != (asked[0].kind, asked[0].source):
            raise UserError(f"{other.field}: differs from what {asked[0].field} asks for; give only one of them")
    return asked[0] if asked else None


def _forms(fields: FormFields, *, is_strict: bool) -> Iterator[Grammar]:
    if fields.response_format and (grammar := read_format(fields.response_format, is_strict=is_strict)):
        yield grammar
    outputs = fields.structured_outputs or StructuredOutputs(json=None)
    schemas: list[tuple[str, Json | str | None]] = [
        ("structured_outputs.json", outputs.json_),
        ("structured_outputs.json_object", ANY_OBJECT if outputs.json_object else None),
        ("guided_json", fields.guided_json),
        ("json_schema", fields.json_schema),
    ]
    for name, schema in schemas:
        if schema:
            yield json_grammar(_read_schema(schema, name), is_strict=is_strict, field=name)
    expressions = [
        ("structured_outputs.regex", outputs.regex),
        ("guided_regex", fields.guided_regex),
        ("regex", fields.regex),
    ]
    for name, expression in expressions:
        if expression:
            yield Grammar("regex", expression, is_strict, name)
    for name, texts in [("structured_outputs.choice", outputs.choice), ("guided_choice", fields.guided_choice)]:
        if texts:
            yield Grammar("choice", json.dumps(texts), is_strict, name)


def read_format(asked: ResponseFormat, *, is_strict: bool, field: str = "response_format") -> Grammar | None:
    """Read a form in OpenAI's words; None for text. Raises UserError, which begins with the field, for no schema."""
    named, where = asked.json_schema or asked, f"{field}.json_schema" if asked.json_schema else field
    is_strict = is_strict or bool(named.strict)
    match asked.type:
        case "json_schema":
            if named.schema_ is None:
                raise UserError(f"{field}.json_schema.schema: is missing; give the schema, or type json_object")
            return json_grammar(
                _read_schema(named.schema_, f"{where}.schema"), is_strict=is_strict, field=f"{where}.schema"
            )
        case "json_object":
            schema = None if named.schema_ is None else _read_schema(named.schema_, f"{where}.schema")
            return json_grammar(schema, is_strict=is_strict, field=field)
        case _:
            return None


def _read_schema(schema: Json | str, field: str) -> Json:
    """Return a schema that is given as an object or as its text."""
    if not isinstance(schema, str):
        return schema
    try:
        found: Any = json.loads(schema)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{field}: is not a JSON schema; give an object, or the text of one")
    return found
