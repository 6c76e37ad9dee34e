"""The HTTP server: routes of the chat page and of the OpenAI-compatible API, in one process."""

import ipaddress
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from thinktune.errors import UserError
from thinktune.progress import Say
from thinktune.serve.admission import AdmissionQueue
from thinktune.serve.chat_completions import ChatSurface
from thinktune.serve.error_forms import in_form_of
from thinktune.serve.feedback import FEEDBACK_BODIES, add_feedback_routes
from thinktune.serve.metrics import METRICS_MEDIA_TYPE, Metrics, RequestCounter
from thinktune.serve.models import ServedModel
from thinktune.serve.openai_schema import (
    REFUSALS,
    ApiError,
    ChatCompletion,
    ChatRequest,
    GenerationRequest,
    Health,
    ModelCard,
    ModelDefaults,
    ModelList,
    ParsedRequest,
    ResponseModel,
    ServedFrom,
    Version,
    complete_document,
    describe_body,
    parse_request,
)
from thinktune.serve.reply_response import WARNINGS_HEADER, ReplyResponse, Surface
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
from thinktune.serve.surfaces.chat_shims import check_form
from thinktune.serve.surfaces.completions import (
    CompletionRequest,
    CompletionSurface,
    TextCompletion,
    parse_completion,
)
from thinktune.serve.surfaces.kept_items import KeptItems
from thinktune.serve.surfaces.responses import ResponsesSurface
from thinktune.serve.surfaces.responses_schema import NAMES as RESPONSES_NAMES
from thinktune.serve.surfaces.responses_schema import ParsedResponses, ResponseBody, ResponsesRequest, parse_responses
from thinktune.serve.surfaces.routes import BODIES, Serving, add_messages_routes, add_ollama_routes

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


@dataclass(frozen=True, slots=True)
class Api:
    """An address that replies are asked for at: how its bodies are parsed, and what answers them."""

    path: str
    name: str
    summary: str
    body: type[GenerationRequest]
    response: type[ResponseModel]
    parse: Callable[[bytes], Any]
    surface: Callable[[ServedModel, Any], Surface]


def _apis(kept: KeptItems) -> list[Api]:
    """Return the addresses; responses know the items that are kept of former ones."""
    return [
        Api(
            "/v1/chat/completions",
            "create_chat_completion",
            "Write the next reply of a conversation, whole or as a stream of server-sent events.",
            ChatRequest,
            ChatCompletion,
            parse_request,
            ChatSurface,
        ),
        Api(
            "/v1/completions",
            "create_completion",
            "Continue texts as they are, without a chat template, whole or as a stream of server-sent events.",
            CompletionRequest,
            TextCompletion,
            parse_completion,
            CompletionSurface,
        ),
        Api(
            "/v1/responses",
            "create_response",
            "Write the next reply of a conversation as a response of items, whole or as a stream of typed events.",
            ResponsesRequest,
            ResponseBody,
            partial(parse_responses, kept=kept),
            partial(ResponsesSurface, kept=kept),
        ),
    ]


def make_app(served_models: Sequence[ServedModel], limits: Limits, access: Access) -> ASGIApp:
    """Build the application.

    Args:
        served_models: the models to offer; the first one answers requests that name none.
        limits: limits of concurrency, sizes and times.
        access: who may use it.
    """
    admission_queue = AdmissionQueue(limits)
    metrics, created = Metrics(admission_queue, version("thinktune")), int(time.time())

    async def health() -> Health:
        return Health()

    async def show_version() -> Version:
        return Version(version=version("thinktune"))

    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=METRICS_MEDIA_TYPE)

    def respond(served_model: ServedModel, surface: Surface) -> Response:
        return ReplyResponse(served_model, surface, admission_queue, metrics)

    async def answer(api: Api, request: Request) -> Response:
        parsed = await admission_queue.parse(api.parse, await read_body(request, limits))
        served_model = find_model(served_models, parsed.model)
        parsed = await _check_form(admission_queue, served_model, parsed)
        return respond(served_model, api.surface(served_model, parsed))

    app = _empty_app()
    _add_page(app)
    app.add_api_route("/health", health, summary="Report that the server is up.")
    _add_models(app, served_models, created)
    app.add_api_route("/version", show_version, summary="Name the server's version.")
    app.add_api_route(
        "/metrics",
        show_metrics,
        summary="Count requests, replies, tokens and seconds, in Prometheus' text format.",
        response_class=PlainTextResponse,
    )
    apis = _apis(KeptItems())
    for api in apis:
        _add_api(app, api, answer)
    serving = Serving(served_models, admission_queue, find_model, respond, created)
    add_messages_routes(app, serving)
    add_ollama_routes(app, serving)
    add_feedback_routes(app, served_models, limits)
    document = app.openapi()
    complete_document(
        document, [*(api.body for api in apis), *BODIES, *FEEDBACK_BODIES]
    )  # FastAPI builds it once and keeps it
    # Starlette's routes answer HEAD wherever they answer GET; FastAPI's do not, unless the document names it as well.
    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")
    guarded = SecurityMiddleware(app, access)
    reached = _allow_pages(guarded, access.origins) if access.origins else guarded
    return RequestCounter(reached, metrics, access, document["paths"])


async def _check_form(admission_queue: AdmissionQueue, served_model: ServedModel, parsed: Any) -> Any:
    """Check the form that a parsed request asks of its answer; a completion asks for none."""
    match parsed:
        case ParsedRequest():
            return await check_form(admission_queue, served_model, parsed, {})
        case ParsedResponses():
            chat = await check_form(admission_queue, served_model, parsed.chat, RESPONSES_NAMES)
            return replace(parsed, chat=chat)
        case _:
            return parsed


def _add_page(app: FastAPI) -> None:
    page = read_page()

    async def page_file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in page:
            raise HTTPException(404)
        return Response(
            page[name], media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers={"cache-control": "no-cache"}
        )

    app.add_route("/", page_file, methods=["GET"])
    app.add_route("/page/{name:path}", page_file, methods=["GET"])


def _add_models(app: FastAPI, served_models: Sequence[ServedModel], created: int) -> None:
    async def list_models() -> ModelList:
        return ModelList(data=[_model_card(served_model, created) for served_model in served_models])

    async def retrieve_model(model: str) -> ModelCard:
        return _model_card(find_model(served_models, model), created)

    app.add_api_route("/v1/models", list_models, summary="List the models.")
    app.add_api_route("/v1/models/{model:path}", retrieve_model, summary="Describe one model.")


def _add_api(app: FastAPI, api: Api, answer: Callable[[Api, Request], Awaitable[Response]]) -> None:
    async def create(request: Request) -> Response:
        return await answer(api, request)

    app.add_api_route(
        api.path,
        create,
        methods=["POST"],
        name=api.name,
        summary=api.summary,
        response_model=api.response,
        responses={200: {"content": {"text/event-stream": {}}}},
        openapi_extra=describe_body(api.body),
    )


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
            f"--host {host}: other machines could use the model; set {API_KEY_VARIABLE} to a key that they must "
            "send, or leave out --host"
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
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error}); choose another port") from None


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
    raise ApiError(404, f"model {name!r} not found; available: {known}", code="model_not_found", param="model")


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


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(in_form_of(error, request.scope))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = ApiError(error.status_code, f"{error.detail}; /openapi.json lists the addresses")
    response = error_response(in_form_of(refusal, request.scope))
    response.headers.update(error.headers or {})
    return response


async def _on_error(request: Request, error: Exception) -> Response:
    del error  # Starlette raises it again after this response, so that the log has it
    return error_response(in_form_of(ApiError(500, "the server failed; its log says why"), request.scope))
