"""What stands before the page and the API: who may ask, how much, how slowly, and what a browser may do with it."""

import asyncio
import hmac
import ipaddress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from thinktune.serve.openai_schema import ApiError

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


SECURITY_HEADERS = {
    # The page is made of its own files and talks to its own address, and nothing else.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much strangers may ask for at once, and how long they may take."""

    max_running: int = 32
    """Replies written side by side."""
    max_waiting: int = 64
    """Requests that wait for a place; one more is refused with 429."""
    max_connections: int = 256
    max_body_bytes: int = 4 * 2**20
    head_timeout_seconds: float = 10
    """How long a connection may stay open without a whole request head."""
    body_timeout_seconds: float = 15
    reply_timeout_seconds: float = 900
    """How long a reply may take, its wait for a place counted in."""


class SecurityMiddleware:
    """Refuses what must not reach the app, and puts the security headers on every response.

    Args:
        app: what is guarded.
        key: asked for below /v1/ as a bearer token, where there is one.
        hosts: the names that the Host header may say, or none for any. On loopback, another name is another site's
            that a browser was led to resolve to this machine (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, key: str | None, hosts: frozenset[str] | None) -> None:
        self._app, self._hosts = app, hosts
        self._key = f"Bearer {key}".encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand an HTTP request on, or answer it with a refusal."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        try:
            self._verify(scope["path"], Headers(scope=scope))
        except ApiError as error:
            await error_response(error)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _verify(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _host_name(host) not in self._hosts:
            raise ApiError(421, f"Host {host!r} is not this server; use the address that it printed")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            raise ApiError(403, f"pages of {origin!r} may not ask this server; use its own page")
        if self._key is not None and path.startswith("/v1/"):
            given = headers.get("authorization", "").encode("latin-1")  # the bytes as they came
            if not hmac.compare_digest(given, self._key):
                raise ApiError(
                    401, "the API key is missing or wrong; send Authorization: Bearer KEY", code="invalid_api_key"
                )


def error_response(error: ApiError) -> JSONResponse:
    """An error as a response; the connection ends with it, so that an unread body costs nothing more."""
    headers = {"connection": "close"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 429:
        headers["retry-after"] = "2"
    return JSONResponse(error.body, error.status, headers)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body of a JSON request; raises ApiError where it is of another kind, too large or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # also what keeps other sites' forms from asking
        raise ApiError(415, f"the body is {kind or 'of no kind'}; send Content-Type: application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > limits.max_body_bytes:
                    raise ApiError(
                        413, f"the body is larger than {limits.max_body_bytes:,} bytes; shorten the conversation"
                    )
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {limits.body_timeout_seconds:g} s") from None
    except ClientDisconnect:
        raise ApiError(400, "the client left before its request was whole") from None
    return bytes(body)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def protocol_with_head_timeout(seconds: float) -> type[H11Protocol]:
    """Uvicorn's HTTP protocol, but a connection that brings no whole request head within so many seconds is closed.

    uvicorn itself waits for ever for a head that comes byte by byte. Its protocol is a class to inherit from.
    """

    class Timed(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._close_if_idle, None)

        def _close_if_idle(self, cycle_before: object) -> None:
            if self.transport.is_closing():
                return
            idle = not self.cycle or self.cycle.response_complete  # there is no cycle before the first request
            if idle and self.cycle is cycle_before:
                self.transport.close()
            else:
                self.loop.call_later(seconds, self._close_if_idle, self.cycle)

    return Timed


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_name(host: str) -> str | None:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
