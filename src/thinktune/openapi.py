"""The API described as an OpenAPI document, made from the very types that read the requests."""

from typing import Any

from pydantic.json_schema import models_json_schema

from thinktune.api import ChatRequest, Json

REFUSALS = {
    "400": "The body is no such request, or the conversation is too long.",
    "401": "The API key is missing or wrong.",
    "403": "A page of another site asked.",
    "404": "There is no such model or address.",
    "405": "This address takes another method.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "415": "The body is not application/json.",
    "421": "The Host header names another server.",
    "429": "Too many requests are waiting.",
    "500": "The server failed.",
    "502": "The server that writes the replies is gone, fails, or refuses this one's key.",
    "504": "The reply took too long.",
}


def document(version: str) -> Json:
    """The OpenAPI 3.1 document of the API."""
    _, schemas = models_json_schema([(ChatRequest, "validation")], ref_template="#/components/schemas/{model}")
    chat = _operation("Write the next reply of a conversation, whole or as a stream of events.", _reference("Reply"))
    chat["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _reference("ChatRequest")}},
    }
    chat["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    one_model = _operation("One model.", _reference("Model"))
    one_model["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    return {
        "openapi": "3.1.0",
        "info": {"title": "thinktune", "version": version},
        "paths": {
            "/health": {"get": _operation("Whether the server is up.", _object(status={"const": "ok"}))},
            "/v1/models": {"get": _operation("The models that can be asked.", _reference("Models"))},
            "/v1/models/{model}": {"get": one_model},
            "/v1/chat/completions": {"post": chat},
        },
        "components": {
            "schemas": schemas["$defs"] | _answers(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _answers() -> dict[str, Json]:
    text, number = {"type": "string"}, {"type": "integer", "minimum": 0}
    maybe_text = {"type": ["string", "null"]}
    message = _object(role={"const": "assistant"}, content=text, reasoning_content=maybe_text, reasoning=maybe_text)
    choice = _object(index=number, message=message, finish_reason={"enum": ["stop", "length"]})
    usage = _object(
        prompt_tokens=number,
        completion_tokens=number,
        total_tokens=number,
        completion_tokens_details=_object(reasoning_tokens=number),
    )
    known = {"id": text, "created": number, "model": text}
    fault = _object(message=text, type=text, param=maybe_text, code=maybe_text)
    return {
        "Reply": _object(
            **known, object={"const": "chat.completion"}, choices={"type": "array", "items": choice}, usage=usage
        ),
        "Model": _object(id=text, object={"const": "model"}, created=number, owned_by=text),
        "Models": _object(object={"const": "list"}, data={"type": "array", "items": _reference("Model")}),
        "Error": _object(error=fault),
    }


def _operation(summary: str, answer: Json) -> dict[str, Any]:
    refused = {
        status: {"description": why, "content": {"application/json": {"schema": _reference("Error")}}}
        for status, why in REFUSALS.items()
    }
    found = {"description": "As asked.", "content": {"application/json": {"schema": answer}}}
    return {"summary": summary, "responses": {"200": found, **refused}}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
