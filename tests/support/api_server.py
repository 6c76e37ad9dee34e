"""Scripted models for tests, and a server on loopback that offers them."""

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn

from support.server_thread import in_thread
from thinktune.http import Access, Limits
from thinktune.http.listening import uvicorn_config
from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.replies import Piece, ReasoningParser, join_pieces
from thinktune.inference.requests import Completion, Request, SamplingParams
from thinktune.serve import ServedModel, make_app

QUESTION = [{"role": "user", "content": "Why?"}]


class ScriptedBackend:
    """Backend that answers every request with the same text, some characters at a time, and records the requests."""

    def __init__(self, text: str, delay: float = 0, finish: str = "end") -> None:
        self.text, self.delay, self.finish = text, delay, finish
        self.requests: list[Request] = []
        self.cancelled = threading.Event()  # set when a reply is cancelled
        self.may_continue = threading.Event()  # while cleared, replies wait before they close the reasoning
        self.may_continue.set()

    def stream(self, request: Request) -> "ScriptedStream":
        self.requests.append(request)
        return ScriptedStream(self._pieces(request), self.cancelled)

    def close(self) -> None:
        pass

    def _pieces(self, request: Request) -> Generator[Piece | Completion]:
        parser, pieces = ReasoningParser(open_turn=request.start), []
        for start in range(0, len(self.text), 4):
            time.sleep(self.delay)
            assert start + 4 < self.text.find("</think>") or self.may_continue.wait(30)
            for piece in parser.feed(self.text[start : start + 4]):
                pieces.append(piece)
                yield piece
        for piece in parser.flush():
            pieces.append(piece)
            yield piece
        yield Completion(*join_pieces(pieces), 20, 8, self.finish, parser.closed, 11)


class ScriptedStream:
    """Stream of one reply; closing it before its end sets `cancelled`."""

    def __init__(self, pieces: Generator[Piece | Completion], cancelled: threading.Event) -> None:
        self._pieces, self._cancelled, self._finished = pieces, cancelled, False

    def __iter__(self) -> "ScriptedStream":
        return self

    def __next__(self) -> Piece | Completion:
        if self._finished:
            raise StopIteration
        piece = next(self._pieces)
        self._finished = self._finished or isinstance(piece, Completion)
        return piece

    def close(self) -> None:
        if not self._finished:
            self._finished = True
            self._cancelled.set()


def scripted_model(backend: ScriptedBackend, name: str = "tuned", defaults: ChatDefaults | None = None) -> ServedModel:
    return ServedModel(name, "a script", defaults or ChatDefaults(sampling=SamplingParams(64)), lambda: backend)


@contextmanager
def serving(served_models, limits: Limits | None = None, key: str | None = None, port=0, **access) -> Generator[str]:
    """Run a server in a thread of this process, as `thinktune serve` runs it; yields its address."""
    limits = limits or Limits()
    server = uvicorn.Server(uvicorn_config(make_app(served_models, limits, Access(key, **access)), limits))
    try:
        with in_thread(server, port) as address:
            yield address
    finally:
        for served_model in served_models:
            served_model.close()


def typed_events(answered):
    """Return the events of a stream, each of which says its type twice: in its data and on the line before."""
    found = []
    for event in answered.text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found
