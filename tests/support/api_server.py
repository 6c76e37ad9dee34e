"""A server on loopback for tests: scripted voices, a real small model, and what both are asked through."""

import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn

from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.replies import Piece, ReasoningParser, join_pieces
from thinktune.inference.requests import Completion, Request, SamplingParams
from thinktune.serve.models import ServedModel
from thinktune.serve.security import LOOPBACK_HOSTS, Limits
from thinktune.serve.server import uvicorn_config, make_app

QUESTION = [{"role": "user", "content": "Why?"}]


class Scripted:
    """A door that says the same text to everybody, some characters at a time; it remembers what it was asked."""

    def __init__(self, text: str, seconds: float = 0, finish: str = "end") -> None:
        self.text, self.seconds, self.finish = text, seconds, finish
        self.asked: list[Request] = []
        self.left = threading.Event()  # set when a reply was cancelled
        self.go = threading.Event()  # cleared, replies wait before they close the reasoning
        self.go.set()

    def stream(self, request: Request) -> "Saying":
        self.asked.append(request)
        return Saying(self._said(), self.left)

    def close(self) -> None:
        pass

    def _said(self) -> Generator[Piece | Completion]:
        splitter, pieces = ReasoningParser(), []
        for start in range(0, len(self.text), 4):
            time.sleep(self.seconds)
            assert start + 4 < self.text.find("</think>") or self.go.wait(30)
            for piece in splitter.feed(self.text[start : start + 4]):
                pieces.append(piece)
                yield piece
        for piece in splitter.flush():
            pieces.append(piece)
            yield piece
        yield Completion(*join_pieces(pieces), 20, 8, self.finish, splitter.closed, 11)


class Saying:
    """A reply as it comes; closing it before its end is a cancel, which `copied_out` tells."""

    def __init__(self, pieces: Generator[Piece | Completion], left: threading.Event) -> None:
        self._pieces, self._left, self._over = pieces, left, False

    def __iter__(self) -> "Saying":
        return self

    def __next__(self) -> Piece | Completion:
        if self._over:
            raise StopIteration
        piece = next(self._pieces)
        self._over = self._over or isinstance(piece, Completion)
        return piece

    def close(self) -> None:
        if not self._over:
            self._over = True
            self._left.set()


def scripted_voice(door: Scripted, name: str = "tuned", manners: ChatDefaults | None = None) -> ServedModel:
    return ServedModel(name, "a script", manners or ChatDefaults(sampling=SamplingParams(64)), lambda: door)


@contextmanager
def serving(voices, limits: Limits | None = None, key: str | None = None) -> Generator[str]:
    """The address of a server that runs in a thread of this process, as `thinktune serve` runs it."""
    limits = limits or Limits()
    server = uvicorn.Server(uvicorn_config(make_app(voices, limits, key, LOOPBACK_HOSTS), limits))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            for voice in voices:
                voice.close()
