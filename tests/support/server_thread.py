"""A server of ours in a thread of the tests' process."""

import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn


@contextmanager
def in_thread(server: uvicorn.Server, port: int = 0) -> Generator[str]:
    """Run a server on the loopback, any free port if none is named; yields its address."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
