"""A hub on 127.0.0.1 that serves folders by ModelScope's and Hugging Face's download APIs, and fails on request.

It answers only what the two clients request for a repository's files. Names of repositories begin with their
type, as in the URLs: `models/owner/name`, `datasets/owner/name`.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + 34 * "0"
ANY_COMMIT = "[0-9a-f]{40}"
LARGE = (".safetensors", ".jsonl", "tokenizer.json")  # what repositories keep in LFS, as .gitattributes says

REPOSITORY = r"(?P<repository>(?:models|datasets)/[^/]+/[^/]+)"
ROUTES = {
    rf"/api/v1/{REPOSITORY}/repo/(?:files|tree)": "modelscope_listing",
    rf"/api/v1/{REPOSITORY}/repo": "modelscope_file",
    rf"/api/{REPOSITORY}(?:/revision/(?:main|{ANY_COMMIT}))?": "huggingface_commit",
    rf"/api/{REPOSITORY}/tree/{ANY_COMMIT}": "huggingface_listing",
    rf"/(?P<repository>datasets/[^/]+/[^/]+|[^/]+/[^/]+)/resolve/{ANY_COMMIT}/(?P<file>.+)": "huggingface_file",
}


@dataclass(frozen=True)
class Fault:
    """A fault of an answer: in its status, in its body, or it does not come at all."""

    status: int = 200
    after: int | None = None
    then: str = ""
    """`cut`: closed after so many bytes of an answer; `hang`: nothing is sent, or nothing after so many bytes of a file."""
    pause: float = 0.0
    """Seconds between the eighths of a body."""
    headers: tuple[tuple[str, str], ...] = ()
    message: str = ""


class HubServer:
    """Both hubs at one address, as a context manager; `repositories`, `corrupt` and `faults` may change meanwhile."""

    handler: "type[Handler] | None" = None
    """Who answers, where it is not the Handler below."""

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = dict(repositories)
        self.corrupt: set[str] = set()
        """Names of files that are sent with one bit flipped, at their right length."""
        self.faults: dict[str, Fault] = {}
        """Faults by file name, `tree` for Hugging Face's list of files, or `listing` for everything else."""
        self.offsets: list[tuple[str, int]] = []
        """The file name of every body sent, and the body's first byte in the file."""
        self.tokens: set[str] = set()
        """Credentials that clients sent."""
        self.closing = threading.Event()
        self.bodies: list[str] = []
        """Names of the files whose bodies were sent, in order."""
        self.requests: list[str] = []
        """Every request, as in `GET /api/models/owner/name`."""
        self._server = _Server(("127.0.0.1", 0), type("Bound", (self.handler or Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """URL for the variables that name a hub's endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def forget(self) -> None:
        """Reset what is recorded."""
        self.bodies.clear()
        self.offsets.clear()
        self.requests.clear()

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """Server that stays silent when a client disconnects, as killed ones do."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report nothing."""


class Handler(BaseHTTPRequestHandler):
    """Handler of one connection; ROUTES names the methods that answer."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        self.hub.tokens |= {self.headers[name] for name in ("Authorization", "Cookie") if name in self.headers}
        path = unquote(urlsplit(self.path).path)
        for pattern, answer in ROUTES.items():
            if found := re.fullmatch(pattern, path):
                groups = found.groupdict()
                name = groups.pop("repository")
                folder = self.hub.repositories.get(name if name.count("/") == 2 else f"models/{name}")
                if folder is None:
                    break
                getattr(self, answer)(folder, **groups)
                return
        self.refuse()

    do_HEAD = do_GET  # noqa: N815 - the name http.server calls

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output free of requests."""

    def modelscope_listing(self, folder: Path) -> None:
        if self._asked("Revision") != "master":
            self.refuse()
            return
        files = [
            {"Path": name, "Name": name.split("/")[-1], "Type": "blob", "Size": len(body), "Sha256": sha256(body)}
            for name, body in files_of(folder).items()
        ]
        answer = {"Code": 200, "Success": True, "Data": {"Files": files}, "TotalCount": len(files)}
        self.send_json(200, answer)

    def modelscope_file(self, folder: Path) -> None:
        self._send_file(folder, self._asked("FilePath"), {})

    def huggingface_commit(self, folder: Path) -> None:
        siblings = [{"rfilename": name} for name in files_of(folder)]
        self.send_json(200, {"id": "owner/name", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})

    def huggingface_listing(self, folder: Path) -> None:
        listing = [_tree_entry(name, body) for name, body in files_of(folder).items()]
        self.send_json(200, listing, fault="tree")

    def huggingface_file(self, folder: Path, file: str) -> None:
        body = files_of(folder).get(file, b"")
        headers = {"X-Repo-Commit": re.findall(ANY_COMMIT, self.path)[0], "ETag": f'"{git_digest(body)}"'}
        if file.endswith(LARGE):
            headers |= {"X-Linked-Size": str(len(body)), "X-Linked-ETag": f'"{sha256(body)}"'}
        self._send_file(folder, file, headers)

    def _asked(self, name: str) -> str:
        return parse_qs(urlsplit(self.path).query)[name][0]

    def _send_file(self, folder: Path, file: str, headers: dict[str, str]) -> None:
        body = files_of(folder).get(file)
        if body is None:
            self.refuse("EntryNotFound")
            return
        if file in self.hub.corrupt:
            body = body[:-1] + bytes([body[-1] ^ 1])
        begin, status = 0, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin, status = int(wanted[1]), 206
            headers = headers | {"Content-Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"}
        fault = self.hub.faults.get(file, Fault())
        if fault.then == "hang" and fault.after is not None:
            fault = replace(fault, after=max(0, fault.after - begin))
        if self.command == "GET" and fault.status == 200:
            self.hub.bodies.append(file)
            self.hub.offsets.append((file, begin))
        self._send(status, body[begin:], headers | {"Content-Type": "application/octet-stream"}, fault)

    def send_json(
        self, status: int, answer: Any, headers: Mapping[str, str] | None = None, fault: str = "listing"
    ) -> None:
        body, headers = json.dumps(answer).encode(), {"Content-Type": "application/json", **(headers or {})}
        self._send(status, body, headers, self.hub.faults.get(fault, Fault()))

    def refuse(self, reason: str = "RepoNotFound") -> None:
        answer = {"Code": 10010205001, "Success": False, "Message": "record not found", "error": "Repository not found"}
        self.send_json(404, answer, {"X-Error-Code": reason})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], fault: Fault) -> None:
        if fault.status != 200:
            # A careless hub: it sends the credentials back.
            status, headers = fault.status, {"Content-Type": "application/json", **dict(fault.headers)}
            text = f"{fault.message} not for {self.hub.tokens}"
            body = json.dumps({"Message": text, "error": text}).encode()
        if fault.then == "hang" and fault.after is None:
            self.hub.closing.wait()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(body, fault)

    def _send_body(self, body: bytes, fault: Fault) -> None:
        step = max(1, len(body) // 8) if fault.pause else max(1, len(body))
        sent = body if fault.after is None else body[: fault.after]
        for start in range(0, len(sent), step):
            self.wfile.write(sent[start : start + step])
            time.sleep(fault.pause)
        if fault.after is not None and len(sent) < len(body):
            if fault.then == "hang":
                self.hub.closing.wait()
            self.close_connection = True


def files_of(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _tree_entry(name: str, body: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(body), "oid": git_digest(body)}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": sha256(body), "size": len(body), "pointerSize": 130}
    return entry


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def git_digest(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
