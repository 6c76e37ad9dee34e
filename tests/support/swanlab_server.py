"""A SwanLab server on localhost with the endpoints that its client calls: it accepts, refuses, hangs, or dies."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "a-key-that-must-never-be-written"


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behaviour="accepts"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour, self.released = behaviour, threading.Event()
        self.scalars, self.media, self.profiles, self.states, self.files, self.bodies = {}, {}, [], [], {}, []
        self.runs = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.die()

    def die(self):
        self.behaviour = "dead"
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # a killed client has closed its connection


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send_json(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server, path = self.server, self.path.partition("?")[0].removeprefix("/api")
        server.bodies.append(body)
        if server.behaviour == "hangs":
            server.released.wait(60)
        if server.behaviour == "dead":
            self.close_connection = True
            return
        if server.behaviour == "refuses":
            self.send_json({"code": "Unauthorized", "message": "wrong key"}, 401)
        elif path.startswith("/stored/"):
            server.files[path.removeprefix("/stored/")] = body
            self.send_json({})
        else:
            self.send_json(*self.reply(path, json.loads(body) if body else None))

    do_GET = do_POST = do_PUT = serve  # noqa: N815

    def reply(self, path, body):
        server = self.server
        project = {"cuid": "p1", "name": "thinktune", "path": "/someone/thinktune", "_count": {"experiments": 0}}
        match path.strip("/").split("/"):
            case ["login", "api_key"]:
                assert self.headers["authorization"] == KEY
                return ({"sid": "s", "expiredAt": "2999-01-01T00:00:00.000Z", "userInfo": {"username": "someone"}},)
            case ["project", "someone", _, "experiment"]:
                is_known = body["cuid"] in server.runs
                server.runs.append(body["cuid"])
                created = {"cuid": body["cuid"], "name": body["name"], "createdAt": "2026-11-25T00:00:00.000Z"}
                return created, 200 if is_known else 201
            case ["project", "someone", _, "runs", _, "state"]:
                server.states.append(body["state"])
            case ["project", "someone", _, "runs", _, "profile"]:
                server.profiles.append(body)
            case ["project", "someone", _]:
                return (project | {"group": {"username": "someone"}},)
            case ["house", "metrics", "summaries", *_]:
                latest = {"scalar": server.scalars, "media": server.media}
                return (
                    {
                        kind: [{"key": key, "step": max(found)} for key, found in kept.items()]
                        for kind, kept in latest.items()
                    },
                )
            case ["house", "metrics"]:
                kept = {"scalar": server.scalars, "media": server.media}.get(body["type"], {})
                for metric in body["metrics"]:
                    kept.setdefault(metric["key"], {}).setdefault(metric["index"], []).append(metric["data"])
            case ["resources", "presigned", "put"]:
                return ({"urls": [f"{server.url}/api/stored/{name}" for name in body["paths"]]},)
        return ({},)
