"""Security of the page and the API: hosts, origins, the API key, headers, and limits of size and time."""

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from thinktune.errors import UserError
from thinktune.serve.error_forms import in_form_of
from thinktune.serve.openai_schema import ApiError

KEYED_PATHS = ("/v1/", "/api/", "/metrics")  # addresses that begin so need the key
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


SECURITY_HEADERS = {
    # The page consists of its own files, and talks only to its own address.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the server: nobody but this machine and the page itself, unless more is allowed."""

    key: str | None = None
    """The key required for `KEYED_PATHS`, as a bearer token or, as Anthropic's clients send it, in x-api-key."""
    hosts: frozenset[str] | None = LOOPBACK_HOSTS
    """Names allowed in the Host header, None for any. On loopback, any other name belongs to a site that made the
    browser resolve it to this machine (DNS rebinding)."""
    origins: frozenset[str] = frozenset()
    """Origins of other pages that may call the API, as browsers send them; * for all."""
    root_path: str = ""
    """The path below which a proxy offers the server, whether the proxy takes it off or not."""

    def route_of(self, path: str) -> str:
        """Return a path below the root path as routes have it: cut at a slash only, as Starlette does."""
        root = self.root_path
        return path[len(root) :] if root and path.startswith(f"{root}/") else path

    def allows_origin(self, origin: str, host: str) -> bool:
        """Return True for the server's own page, and for one that is allowed."""
        return _netloc(origin) == host.lower() or "*" in self.origins or origin in self.origins


def find_access(key: str | None, host: str, hosts: Sequence[str], origins: Sequence[str], root_path: str) -> Access:
    """Return the access to an address with what a command line allows; raises UserError for what is no name of it."""
    faults = [
        f"--allow-origin: is {origin!r}; write it as browsers send it, as in https://app.example.com (small "
        "letters, no path, and no port that the scheme implies)"
        for origin in origins
        if origin not in ("*", "null") and not _is_origin(origin)
    ]
    faults += [
        f"--allow-host: is {name!r}; write a name without address or port, as in host.docker.internal"
        for name in hosts
        if not re.fullmatch(r"[\w.-]+", name, re.ASCII)
    ]
    prefix = "/" + root_path.strip("/") if root_path.strip("/") else ""
    if not re.fullmatch(r"[\w./~%-]*", prefix):
        faults.append(f"--root-path: is {root_path!r}; write the path alone, as in /proxy/8420")
    for every in {"*", "null"}.intersection(origins):  # any page can frame one of origin null
        if not key:
            faults.append(
                f"--allow-origin: is {every}, so any page could use the model; set an API key, or name the pages"
            )
    if faults:
        raise UserError(faults)
    allowed = LOOPBACK_HOSTS | {name.lower() for name in hosts} if is_loopback(host) else None
    return Access(key, allowed, frozenset(origins), prefix)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of concurrency, sizes (bytes) and times (seconds) for requests from strangers."""

    max_running: int = 32
    """Replies that are generated at the same time."""
    max_waiting: int = 64
    """Requests that wait for a slot; one more is refused with 429."""
    max_connections: int = 256
    max_body_bytes: int = 4 * 2**20
    head_timeout_seconds: float = 10
    """Time for a connection to bring a whole request head."""
    body_timeout_seconds: float = 15
    reply_timeout_seconds: float = 900
    """Time for a reply, its wait for a slot included."""


class SecurityMiddleware:
    """Refuse what must not reach the app, and add the security headers to every response.

    Starlette's `TrustedHostMiddleware` refuses a foreign Host with 400 and plain text; this one does in OpenAI's form.

    Args:
        app: the application to protect.
        access: who may use it.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access
        self._key = access.key.encode() if access.key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an HTTP request on, or refuse it."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        try:
            self._verify(scope["path"], Headers(scope=scope))
        except ApiError as error:
            refusal = in_form_of(error, {**scope, "root_path": self._access.root_path})
            await error_response(refusal)(scope, receive, send_guarded)
        else:
            # Routes are found whether a proxy has taken this path off or not.
            await self._app({**scope, "root_path": self._access.root_path}, receive, send_guarded)

    def _verify(self, path: str, headers: Headers) -> None:
        host = headers.get("host", "")
        hosts = self._access.hosts
        if hosts is not None and _host_name(host) not in hosts:
            raise ApiError(
                421,
                f"Host {host!r} is not this server; use the address that the server printed, or allow it with "
                "--allow-host",
            )
        origin = headers.get("origin")
        if origin is not None and not self._access.allows_origin(origin, host):
            raise ApiError(
                403,
                f"pages of {origin!r} may not call this server; use its own page, or allow them with --allow-origin",
            )
        if self._key is not None and self._access.route_of(path).startswith(KEYED_PATHS):
            bearer, own = (headers.get(name, "").encode("latin-1") for name in ("authorization", "x-api-key"))
            # The bytes as they came; both are compared, so that the time says nothing.
            same = [hmac.compare_digest(bearer, b"Bearer " + self._key), hmac.compare_digest(own, self._key)]
            if not any(same):
                raise ApiError(
                    401, "the API key is missing or wrong; send Authorization: Bearer KEY", code="invalid_api_key"
                )


def error_response(error: ApiError) -> JSONResponse:
    """Build the response for an error; it closes the connection, so that the rest of the body is never read."""
    headers = {"connection": "close"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status == 429:
        headers["retry-after"] = "2"
    return JSONResponse(error.body, error.status, headers)


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read the whole body of a JSON request; raises ApiError if it has another type or exceeds a limit."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # this also keeps out the forms of other sites
        raise ApiError(415, f"the content type is {kind or 'missing'}; send Content-Type: application/json")
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
        raise ApiError(408, f"the body did not arrive within {limits.body_timeout_seconds:g} s") from None
    except ClientDisconnect:
        raise ApiError(400, "the client disconnected before its request was complete") from None
    return bytes(body)


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach an address to listen on."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def protocol_with_head_timeout(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol with a time limit for request heads; it closes connections that exceed it.

    uvicorn itself waits forever for a head that arrives byte by byte. `H11Protocol` with its `cycle` and `transport` is
    a private API of uvicorn, which offers no other way: a new version may break this, and tests/serve would show it.
    """

    class H11ProtocolWithHeadTimeout(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._close_if_idle, None)

        def _close_if_idle(self, cycle_before: object) -> None:
            if self.transport.is_closing():
                return
            idle = not self.cycle or self.cycle.response_complete  # no cycle before the first request
            if idle and self.cycle is cycle_before:
                self.transport.close()
            else:
                self.loop.call_later(seconds, self._close_if_idle, self.cycle)

    return H11ProtocolWithHeadTimeout


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    implied = {"http": ":80", "https": ":443"}.get(parts.scheme)
    named = bool(parts.scheme and parts.netloc) and not (implied and parts.netloc.endswith(implied))
    return named and text == f"{parts.scheme}://{parts.netloc}".lower()


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_name(host: str) -> str | None:
    """Return the name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
