"""How a server of ours listens: its address, uvicorn's settings, and its time limits for connections."""

import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from thinktune.errors import UserError
from thinktune.http.security import Access, Limits, find_access, is_loopback

API_KEY_VARIABLE = "THINKTUNE_API_KEY"


def find_access_here(host: str, hosts: Sequence[str] | None, origins: Sequence[str] | None, root_path: str) -> Access:
    """Return the access that the command line's options and the key of the environment give."""
    return find_access(os.environ.get(API_KEY_VARIABLE), host, hosts or (), origins or (), root_path)


def require_key(host: str, access: Access, what: str) -> None:
    """Raise UserError where other machines could use `what`, as in "the model", without a key."""
    if not is_loopback(host) and not access.key:
        raise UserError(
            f"--host {host}: other machines could use {what}; set {API_KEY_VARIABLE} to a key that they must send, "
            "or leave out --host"
        )


def run_app(make: Callable[[Callable[[], bool]], ASGIApp], listening: socket.socket, limits: Limits) -> None:
    """Serve an application until Ctrl-C; it is made with a function that tells whether the server is ending."""
    server: uvicorn.Server | None = None
    app = make(lambda: server is not None and server.should_exit)
    server = uvicorn.Server(uvicorn_config(app, limits))
    server.run(sockets=[listening])


def address_of(listening: socket.socket, host: str) -> str:
    """Return the address of a server that listens on a host, as a person types it."""
    return f"http://{reachable_name(host)}:{listening.getsockname()[1]}"


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


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address; raises UserError where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error}); choose another port") from None


def reachable_name(host: str) -> str:
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


def protocol_with_head_timeout(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol, sending at once, with a time limit for request heads: what exceeds it is closed.

    uvicorn itself waits forever for a head that arrives byte by byte. `H11Protocol` with its `cycle` and `transport` is
    a private API of uvicorn, which offers no other way: a new version may break this, and tests/serve would show it.
    """

    class H11ProtocolWithHeadTimeout(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            connection = transport.get_extra_info("socket")
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                # asyncio does so only where the listening socket names its protocol, which `create_server` does not:
                # each answer's body then waits 40 ms for the other side to acknowledge its head.
                with suppress(OSError):  # it may be gone already
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
