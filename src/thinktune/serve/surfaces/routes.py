"""Routes of the surfaces in other forms than OpenAI's: Anthropic's `/v1/messages` and Ollama's `/api`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from thinktune.serve.admission import AdmissionQueue
from thinktune.serve.error_forms import OllamaError
from thinktune.serve.models import ServedModel
from thinktune.serve.neutral_fields import ClientModel
from thinktune.serve.openai_schema import REFUSALS, ApiError, ParsedRequest, describe_body
from thinktune.serve.reply_response import Surface, as_api_error
from thinktune.serve.security import read_body
from thinktune.serve.surfaces.chat_shims import check_form, parse_shim
from thinktune.serve.surfaces.messages import MessagesSurface
from thinktune.serve.surfaces.messages_schema import NAMES as MESSAGES_NAMES
from thinktune.serve.surfaces.messages_schema import (
    AnthropicErrorResponse,
    MessageBody,
    MessagesRequest,
    TokenCount,
    parse_messages,
)
from thinktune.serve.surfaces.ollama import LINES, OllamaSurface, OllamaWriter, describe_models, show_model
from thinktune.serve.surfaces.ollama_schema import (
    API_VERSION,
    OllamaChatRequest,
    OllamaErrorResponse,
    OllamaGenerateRequest,
    OllamaReply,
    OllamaShow,
    OllamaShowRequest,
    OllamaTags,
    OllamaVersion,
    ParsedOllama,
    model_name,
    parse_ollama_chat,
    parse_ollama_generate,
)
from thinktune.serve.surfaces.ollama_schema import NAMES as OLLAMA_NAMES

BODIES: list[type[ClientModel]] = [MessagesRequest, OllamaChatRequest, OllamaGenerateRequest, OllamaShowRequest]


@dataclass(frozen=True, slots=True)
class Serving:
    """What the routes share: the models, the queue, and how a request's surface is answered."""

    served_models: Sequence[ServedModel]
    admission_queue: AdmissionQueue
    find_model: Callable[[Sequence[ServedModel], str | None], ServedModel]
    respond: Callable[[ServedModel, Surface], Response]
    created: int


def add_messages_routes(app: FastAPI, serving: Serving) -> None:
    """Add Anthropic's addresses."""
    queue = serving.admission_queue

    async def parsed_of(request: Request) -> tuple[ServedModel, ParsedRequest]:
        parsed = await queue.parse(parse_messages, await read_body(request, queue.limits))
        served_model = serving.find_model(serving.served_models, parsed.chat.model)
        return served_model, await check_form(queue, served_model, parsed, MESSAGES_NAMES)

    async def create_message(request: Request) -> Response:
        served_model, parsed = await parsed_of(request)
        return serving.respond(served_model, MessagesSurface(served_model, parsed))

    async def count_tokens(request: Request) -> Response:
        served_model, parsed = await parsed_of(request)
        if served_model.tokenizer is None:
            raise ApiError(400, f"model: the tokenizer of {served_model.name} is not here, so tokens cannot be counted")
        surface = MessagesSurface(served_model, parsed)
        try:
            async with queue.places(1):
                rendered = await queue.render(served_model, surface.requests()[0])
        except Exception as error:
            raise surface.refusal(as_api_error(error, queue.limits)) from error
        return JSONResponse(TokenCount(input_tokens=len(rendered.prompt_ids or ())).model_dump())

    _add(
        app,
        "/v1/messages",
        create_message,
        "Write the next message of a conversation in Anthropic's form, whole or as a stream of typed events.",
        response_model=MessageBody,
        responses=_responses(AnthropicErrorResponse, "text/event-stream"),
        body=MessagesRequest,
    )
    _add(
        app,
        "/v1/messages/count_tokens",
        count_tokens,
        "Count the tokens of a conversation.",
        response_model=TokenCount,
        responses=_responses(AnthropicErrorResponse),
        body=MessagesRequest,
    )


def add_ollama_routes(app: FastAPI, serving: Serving) -> None:
    """Add Ollama's addresses."""
    queue, responses = serving.admission_queue, _responses(OllamaErrorResponse)

    async def answer(request: Request, parse: Callable[[bytes], ParsedOllama]) -> Response:
        parsed = await queue.parse(parse, await read_body(request, queue.limits))
        served_model = serving.find_model(serving.served_models, parsed.model)
        if parsed.chat is None:
            try:
                async with queue.places(1), asyncio.timeout(queue.limits.reply_timeout_seconds):
                    await asyncio.to_thread(served_model.open)
            except Exception as error:
                failed = as_api_error(error, queue.limits)
                raise OllamaError(failed.status, str(failed), code=failed.code, param=failed.param) from error
            loaded = OllamaWriter(served_model.name, (), is_chat=parsed.is_chat, hide=False).loaded()
            return Response(LINES.frame(loaded), media_type=LINES.media_type if parsed.stream else "application/json")
        chat = await check_form(queue, served_model, parsed.chat, OLLAMA_NAMES)
        surface = OllamaSurface(served_model, chat, stream=parsed.stream, is_chat=parsed.is_chat)
        return serving.respond(served_model, surface)

    async def ollama_chat(request: Request) -> Response:
        return await answer(request, parse_ollama_chat)

    async def ollama_generate(request: Request) -> Response:
        return await answer(request, parse_ollama_generate)

    async def ollama_show(request: Request) -> Response:
        asked = parse_shim(OllamaShowRequest, await read_body(request, queue.limits))
        served_model = serving.find_model(serving.served_models, model_name(asked.model or asked.name))
        return JSONResponse(show_model(served_model, serving.created).model_dump())

    async def ollama_tags() -> OllamaTags:
        return OllamaTags(models=describe_models(serving.served_models, serving.created))

    async def ollama_version() -> OllamaVersion:
        return OllamaVersion(version=API_VERSION, thinktune=version("thinktune"))

    for path, endpoint, summary, body in (
        ("/api/chat", ollama_chat, "Write the next message of a conversation in Ollama's form.", OllamaChatRequest),
        ("/api/generate", ollama_generate, "Answer one question in Ollama's form.", OllamaGenerateRequest),
    ):
        streamed = _responses(OllamaErrorResponse, LINES.media_type)
        _add(app, path, endpoint, summary, response_model=OllamaReply, responses=streamed, body=body)
    _add(
        app,
        "/api/show",
        ollama_show,
        "Describe one model in Ollama's form.",
        response_model=OllamaShow,
        responses=responses,
        body=OllamaShowRequest,
    )
    app.add_api_route("/api/tags", ollama_tags, summary="List the models in Ollama's form.", responses=responses)
    app.add_api_route("/api/version", ollama_version, summary="Name the version of Ollama's API.", responses=responses)


def _add(
    app: FastAPI,
    path: str,
    endpoint: Callable[[Request], Awaitable[Response]],
    summary: str,
    *,
    body: type[ClientModel],
    **documented: Any,
) -> None:
    app.add_api_route(
        path, endpoint, methods=["POST"], summary=summary, openapi_extra=describe_body(body), **documented
    )


def _responses(refusal: type[BaseModel], stream: str | None = None) -> dict[int | str, dict[str, Any]]:
    """Return what is documented of the responses: refusals in a form of their own, and the type of a stream."""
    refusals = {status: {**told, "model": refusal} for status, told in REFUSALS.items()}
    streamed = {200: {"content": {stream: {}}}} if stream else {}
    return {**refusals, **streamed}
