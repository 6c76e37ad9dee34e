"""The HTTP server: routes of the chat page and of the OpenAI-compatible API, in one process."""

import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files

import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from thinktune.errors import UserError
from thinktune.progress import Say
from thinktune.serve.admission import AdmissionQueue
from thinktune.serve.chat_completions import WARNINGS_HEADER, ChatCompletionResponse
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_schema import (
    CHAT_REQUEST_BODY,
    REFUSALS,
    ApiError,
    ChatCompletion,
    Health,
    ModelCard,
    ModelDefaults,
    ModelList,
    ServedFrom,
    complete_document,
)
from thinktune.serve.security import (
    Access,
    Limits,
    SecurityMiddleware,
    error_response,
    find_access,
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


# FastAPI would record every request, and export it if environment variables say so. Nothing must leave this server.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


def make_app(served_models: Sequence[ServedModel], limits: Limits, access: Access) -> ASGIApp:
    """Build the application.

    Args:
        served_models: the models to offer; the first one answers requests that name none.
        limits: limits of concurrency, sizes and times.
        access: who may use it.
    """
    admission_queue, created, page = AdmissionQueue(limits), int(time.time()), read_page()

    async def page_file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in page:
            raise HTTPException(404)
        return Response(
            page[name], media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers={"cache-control": "no-cache"}
        )

    async def health() -> Health:
        return Health()

    async def list_models() -> ModelList:
        return ModelList(data=[_model_card(served_model, created) for served_model in served_models])

    async def retrieve_model(model: str) -> ModelCard:
        return _model_card(find_model(served_models, model), created)

    async def create_chat_completion(request: Request) -> Response:
        parsed = await admission_queue.parse(await read_body(request, limits))
        served_model = find_model(served_models, parsed.chat.model)
        return ChatCompletionResponse(served_model, parsed, admission_queue, limits)

    app = _empty_app()
    app.add_route("/", page_file, methods=["GET"])
    app.add_route("/page/{name:path}", page_file, methods=["GET"])
    app.add_api_route("/health", health, summary="Report that the server is up.")
    app.add_api_route("/v1/models", list_models, summary="List the models.")
    app.add_api_route("/v1/models/{model:path}", retrieve_model, summary="Describe one model.")
    app.add_api_route(
        "/v1/chat/completions",
        create_chat_completion,
        methods=["POST"],
        summary="Write the next reply of a conversation, whole or as a stream of server-sent events.",
        response_model=ChatCompletion,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
        openapi_extra=CHAT_REQUEST_BODY,
    )
    complete_document(app.openapi())  # FastAPI builds it once and keeps it
    # Starlette's routes answer HEAD wherever they answer GET; FastAPI's do not, unless the document names it as well.
    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")
    guarded = SecurityMiddleware(app, access)
    return _allow_pages(guarded, access.origins) if access.origins else guarded


def _allow_pages(guarded: ASGIApp, origins: frozenset[str]) -> ASGIApp:
    """Let pages of other origins call an application; outermost, so that they can also read why they were refused."""
    return CORSMiddleware(
        guarded,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=[WARNINGS_HEADER, "retry-after"],
        allow_private_network=True,  # a page of the network calls a server on this machine
    )


def _empty_app() -> FastAPI:
    return FastAPI(
        title="thinktune",
        version=version("thinktune"),
        docs_url=None,  # the documentation pages load scripts from a CDN
        redoc_url=None,
        telemetry=NO_TELEMETRY,
        responses=REFUSALS,
        generate_unique_id_function=lambda route: route.name,
        exception_handlers={ApiError: _on_api_error, HTTPException: _on_http_error, Exception: _on_error},
    )


def read_page() -> dict[str, bytes]:
    """Read the page's files by name, once, so that no request ever names a path of the machine."""
    folder = files("thinktune.serve") / "page"
    found = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    libraries = folder / "libraries"
    return found | {f"libraries/{entry.name}": entry.read_bytes() for entry in libraries.iterdir()}


def serve(served_models: Sequence[ServedModel], host: str, port: int, say: Say, access: Access | None = None) -> None:
    """Serve until Ctrl-C; raises UserError if the address is taken, or open to other machines without an API key."""
    limits, access = Limits(), access or find_access(os.environ.get(API_KEY_VARIABLE), host, (), (), "")
    if not is_loopback(host) and not access.key:
        raise UserError(
            f"--host {host}: other machines could use the model; set {API_KEY_VARIABLE} to a key that they must send, "
            "or leave --host out"
        )
    listening = _listen(host, port)
    try:
        served_models[0].open()
        address = f"http://{_reachable_name(host)}:{listening.getsockname()[1]}"
        kind = "OpenAI-compatible, with your API key" if access.key else "OpenAI-compatible"
        say(f"page: {address}/\nAPI:  {address}/v1 ({kind}); Ctrl-C stops")
        app = make_app(served_models, limits, access)
        uvicorn.Server(uvicorn_config(app, limits)).run(sockets=[listening])
    finally:
        listening.close()
        for served_model in served_models:
            served_model.close()


def uvicorn_config(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """Return uvicorn's settings for the application."""
    return uvicorn.Config(
        app,
        http=protocol_with_head_timeout(limits.head_timeout_seconds),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        use_colors=False,  # the codes would be shown, not obeyed
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


def _reachable_name(host: str) -> str:
    """Return what others can type: for the address of all interfaces, this machine's own in its network."""
    with suppress(ValueError):
        if (address := ipaddress.ip_address(host)).is_unspecified:
            host = _own_address(address.version) or socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _own_address(version: int) -> str | None:
    """Return the address from which this machine would reach others; nothing is sent. None without a network."""
    family, elsewhere = (socket.AF_INET, "192.0.2.1") if version == 4 else (socket.AF_INET6, "2001:db8::1")
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((elsewhere, 9))  # an address for documentation (RFC 5737, RFC 3849); UDP, so no packet leaves
        return str(probe.getsockname()[0])
    return None


def find_model(served_models: Sequence[ServedModel], name: str | None) -> ServedModel:
    """Find a model by its name or an alias; without a name it is the first one, and where one is served, always that.

    Raises ApiError (404) that lists the names.
    """
    if not name or len(served_models) == 1:
        return served_models[0]
    for served_model in served_models:
        if name == served_model.name or name in served_model.aliases:
            return served_model
    known = ", ".join(served_model.name for served_model in served_models)
    raise ApiError(404, f"there is no model {name!r}; the models are {known}", code="model_not_found", param="model")


def _model_card(served_model: ServedModel, created: int) -> ModelCard:
    sampling, identity = served_model.defaults.sampling, served_model.identity
    return ModelCard(
        id=served_model.name,
        created=created,
        max_model_len=served_model.context_tokens,
        thinktune=ModelDefaults(
            system=served_model.defaults.system,
            notice=served_model.defaults.notice,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
        ),
        served_from=identity and ServedFrom(id=identity.id, name=identity.name),
    )


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = error_response(ApiError(error.status_code, f"{error.detail}; /openapi.json lists the addresses"))
    response.headers.update(error.headers or {})
    return response


async def _on_error(_: Request, error: Exception) -> Response:
    del error  # Starlette raises it again after this response, so that the log has it
    return error_response(ApiError(500, "the server failed; its log says why"))
