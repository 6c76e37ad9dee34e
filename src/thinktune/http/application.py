"""An empty application: refusals in each API's form, and nothing that leaves this machine."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from thinktune.http.error_forms import in_form_of
from thinktune.http.errors import ApiError
from thinktune.http.security import error_response

# FastAPI would record every request, and export it if environment variables say so. Nothing must leave this server.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


def empty_app(title: str, refusals: dict[int | str, dict[str, Any]] | None = None) -> FastAPI:
    """Return an application without routes: no documentation pages, no telemetry, and errors as sentences."""
    return FastAPI(
        title=title,
        version=version("thinktune"),
        docs_url=None,  # the documentation pages load scripts from a CDN
        redoc_url=None,
        telemetry=NO_TELEMETRY,
        responses=refusals,
        generate_unique_id_function=lambda route: route.name,
        exception_handlers={ApiError: _on_api_error, HTTPException: _on_http_error, Exception: _on_error},
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
