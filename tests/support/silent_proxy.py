"""A proxy before a server on loopback that can fall silent: it takes connections and bytes, and nothing is answered."""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class SilentProxy:
    """Passes bytes on in both directions, unless `is_silent`; what a client sends then is lost."""

    def __init__(self, behind: str) -> None:
        self.is_silent = False
        self._behind = (urlsplit(behind).hostname, urlsplit(behind).port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # until it is closed
            while True:
                client = self._listening.accept()[0]
                server = socket.create_connection(self._behind)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while read := one.recv(65_536):
                if not self.is_silent:
                    other.sendall(read)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.close()


@contextmanager
def proxy_before(address: str) -> Generator[SilentProxy]:
    """Run a proxy before an address."""
    proxy = SilentProxy(address)
    yield proxy
    proxy.close()
