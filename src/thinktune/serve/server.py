"""The chat page and the OpenAI-compatible API in one process: their routes, and the server that listens."""

import os
import socket
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from thinktune.errors import UserError
from thinktune.progress import Say
from thinktune.serve import openai_schema as api
from thinktune.serve.chat_completions import AdmissionQueue, ChatCompletionHandler
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_schema import ApiError, Json, document
from thinktune.serve.security import (
    LOOPBACK_HOSTS,
    Limits,
    SecurityMiddleware,
    error_response,
    is_loopback,
    protocol_with_head_timeout,
    read_body,
)

API_KEY_VARIABLE = "THINKTUNE_API_KEY"


MEDIA_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}


def make_app(
    served_models: Sequence[ServedModel], limits: Limits, key: str | None, hosts: frozenset[str] | None
) -> ASGIApp:
    """The whole application: `served_models` by name, the first one where a client names none."""
    desk, begun, page = AdmissionQueue(limits), int(time.time()), read_page()
    named = {voice.name: voice for voice in served_models}
    described = document(version("thinktune"))

    async def show(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in page:
            raise HTTPException(404)
        return Response(
            page[name], media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers={"cache-control": "no-cache"}
        )

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def openapi(_: Request) -> Response:
        return JSONResponse(described)

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model_card(voice, begun) for voice in served_models]})

    async def model(request: Request) -> Response:
        return JSONResponse(_model_card(_find_model(named, request.path_params["model"]), begun))

    async def chat(request: Request) -> ASGIApp:
        asked = api.parse_request(await read_body(request, limits))
        voice = _find_model(named, asked.model) if asked.model is not None else served_models[0]
        return ChatCompletionHandler(voice, asked, desk, limits)

    routes = [
        Route("/", show, methods=["GET"]),
        Route("/page/{name:path}", show, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{model:path}", model, methods=["GET"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),  # pyright: ignore[reportArgumentType]
    ]
    handlers: dict[Any, Any] = {ApiError: _on_api_error, HTTPException: _on_http_error, Exception: _on_error}
    return SecurityMiddleware(Starlette(routes=routes, exception_handlers=handlers), key, hosts)


def read_page() -> dict[str, bytes]:
    """The page's files by name, read once: no request ever names a path of the machine."""
    folder = files("thinktune.serve") / "page"
    found = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    libraries = folder / "libraries"
    return found | {f"libraries/{entry.name}": entry.read_bytes() for entry in libraries.iterdir()}


def serve(served_models: Sequence[ServedModel], host: str, port: int, say: Say, limits: Limits | None = None) -> None:
    """Listen until Ctrl-C. Raises UserError where the address cannot be had, or needs an API key and has none."""
    limits, key = limits or Limits(), os.environ.get(API_KEY_VARIABLE)
    if not is_loopback(host) and not key:
        raise UserError(
            f"--host {host}: other machines would reach the model; set {API_KEY_VARIABLE} to a key that they must send, "
            "or leave --host out"
        )
    listening = _listen(host, port)
    try:
        served_models[0].open()
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        say(f"page: {address}/\nAPI:  {address}/v1 (OpenAI's form{', with your API key' if key else ''}); Ctrl-C ends")
        app = make_app(served_models, limits, key, LOOPBACK_HOSTS if is_loopback(host) else None)
        uvicorn.Server(_settings(app, limits)).run(sockets=[listening])
    finally:
        listening.close()
        for voice in served_models:
            voice.close()


def _settings(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol_with_head_timeout(limits.head_timeout_seconds),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.max_connections,
        timeout_graceful_shutdown=2,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error}); name another port") from None


def _find_model(by_name: dict[str, ServedModel], name: str) -> ServedModel:
    if name not in by_name:
        known = ", ".join(by_name)
        raise ApiError(404, f"model {name!r} is not here; there is {known}", code="model_not_found", param="model")
    return by_name[name]


def _model_card(served_model: ServedModel, created: int) -> Json:
    """A model as /v1/models lists it; below `thinktune` stands what holds where a request does not say otherwise."""
    sampling = served_model.defaults.sampling
    usual = {
        "system": served_model.defaults.system,
        "notice": served_model.defaults.notice,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_new_tokens,
    }
    return {
        "id": served_model.name,
        "object": "model",
        "created": created,
        "owned_by": "thinktune",
        "max_model_len": served_model.context_tokens,
        "thinktune": usual,
    }


async def _on_api_error(_: Request, error: ApiError) -> Response:
    return error_response(error)


async def _on_http_error(_: Request, error: HTTPException) -> Response:
    response = error_response(ApiError(error.status_code, f"{error.detail}; /openapi.json names what is there"))
    response.headers.update(error.headers or {})
    return response


async def _on_error(_: Request, error: Exception) -> Response:
    del error  # Starlette raises it again after this response, so that the log has it
    return error_response(ApiError(500, "the server failed; its log says why"))
