"""Loopback server for chat completions, scripted by a test, faults included."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def part(content=None, reasoning=None, finish=None, field="reasoning_content", **more):
    delta = {name: text for name, text in (("content", content), (field, reasoning)) if text is not None}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}, ensure_ascii=False).encode() + b"\n\n"


def usage(prompt, completion, reasoning=None):
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    if reasoning is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
HANG = object()  # sends nothing more and keeps the connection open


def reply(*parts, kind="text/event-stream"):
    return 200, {"Content-Type": kind}, list(parts)


def refuse(status, message="no", **headers):
    text = json.dumps({"error": {"message": message}}).encode()
    return status, {"Content-Type": "application/json", **headers}, [text]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        text = json.dumps({"data": [{"id": name} for name in self.server.models]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        given["path"], given["key"] = self.path, self.headers.get("Authorization")
        with self.server.lock:
            self.server.asked.append(given)
            status, headers, parts = self.server.script(given)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for text in parts:
                self.write(text)
        except OSError:
            given["left"] = True  # the client hung up

    def write(self, text):
        if text is HANG:
            self.server.stop.wait(20)
        elif isinstance(text, float):
            time.sleep(text)
        else:
            self.wfile.write(text)


@contextmanager
def serving(script, models=("expert",)):
    """Serve `script(body) -> (status, headers, parts)`; yields the address and the list of received bodies."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.script, server.models, server.asked = script, models, []
    server.stop, server.lock = threading.Event(), threading.Lock()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.asked
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
