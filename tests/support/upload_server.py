"""A hub on 127.0.0.1 that also takes models, by the upload APIs of both hubs' clients, and fails on request.

Beside what `hub_server` answers: repositories that are created, large files that are sent to a storage (in one piece,
or in parts), and commits that change a repository in one step. What is pushed can be downloaded again.
"""

import base64
import json
import re
import shutil
import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from support.hub_server import ANY_COMMIT, LARGE, Fault, Handler, HubServer, files_of, git_digest, sha256

TOKEN = "hf_aSecretThatNobodyMayRead"
NAME = r"(?P<name>[^/]+/[^/]+)"
OID = "(?P<oid>[0-9a-f]{64})"
POSTS = {
    "/api/repos/create": "huggingface_create",
    "/api/validate-yaml": "huggingface_validate",
    f"/api/models/{NAME}/preupload/main": "huggingface_preupload",
    rf"/{NAME}\.git/info/lfs/objects/batch": "huggingface_batch",
    f"/storage/{NAME}/{OID}/complete": "huggingface_complete",
    f"/storage/{NAME}/{OID}/verify": "huggingface_verify",
    f"/api/models/{NAME}/commit/main": "huggingface_apply",
    "/api/v1/models": "modelscope_create",
    f"/api/v1/repos/models/{NAME}/info/lfs/objects/batch": "modelscope_batch",
    f"/api/v1/repos/models/{NAME}/commit/master": "modelscope_apply",
}
STORAGE = rf"/storage/{NAME}/{OID}(?:/(?P<part>\d+))?"


@dataclass
class Pushed:
    """A repository that was pushed to: who sees it, and each of its commits as the names it changed."""

    private: bool
    license: str | None = None
    commits: list[list[str]] = field(default_factory=list)


class UploadServer(HubServer):
    """Both hubs, which take models too. `upload_faults` are by repository and step, as in `("clinic/heart", "put")`.

    Steps: `create`, `info`, `preupload`, `batch`, `put`, `complete`, `verify`, `commit`. A fault's `after` counts the
    bytes of the request that are read, as often as `times` says; without a number there, always.
    """

    def __init__(self, folder: Path) -> None:
        self.handler = _UploadHandler
        super().__init__({})
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)  # what waits there counts as sent
        self._folder = folder
        self.pushed: dict[str, Pushed] = {}
        self.upload_faults: dict[tuple[str, str], Fault] = {}
        self.times: dict[tuple[str, str], int] = {}
        self.stored: dict[str, bytes] = {}
        """The storage of large files, by sha256."""
        self.parts: dict[str, dict[int, bytes]] = {}
        self.part_bytes: dict[str, int] = {}
        """Size of the parts in which Hugging Face wants large files, by repository; without one, in one piece."""
        self.ignored: set[tuple[str, str]] = set()
        """Repositories and names that a .gitignore there leaves out."""
        self.received = Counter[str]()
        """Bytes of large files that were received, by repository."""
        self.owners = {"clinic"}

    def add(self, name: str, *, private: bool, license: str | None = None) -> None:
        """Create a repository, with the file that a hub puts into every new one."""
        self.pushed[name] = Pushed(private, license)
        folder = self._folder / name
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n", encoding="utf-8")
        self.repositories[f"models/{name}"] = folder

    def contents(self, name: str) -> dict[str, bytes]:
        """Return the files of a repository but the hub's own."""
        found = files_of(self.repositories[f"models/{name}"])
        return {file: body for file, body in found.items() if file != ".gitattributes"}

    def apply(self, name: str, added: dict[str, bytes], removed: list[str]) -> str:
        """Commit, in one step; returns the new commit's id."""
        former = self.repositories[f"models/{name}"]
        folder = self._folder / f"{name}@{len(self.pushed[name].commits) + 1}"
        shutil.copytree(former, folder)
        for file, body in added.items():
            if (name, file) not in self.ignored:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(body)
        for file in removed:
            (folder / file).unlink()
        self.pushed[name].commits.append(sorted([*added, *removed]))
        self.repositories[f"models/{name}"] = folder
        return self.head(name)

    def head(self, name: str) -> str:
        """Return the id of a repository's newest commit."""
        return f"{len(self.pushed[name].commits):040x}"

    def take_fault(self, name: str, step: str) -> Fault:
        """Return the fault of a step, while its times last."""
        fault, left = self.upload_faults.get((name, step), Fault()), self.times.get((name, step))
        if left is not None:
            self.times[name, step] = left - 1
        return fault if left is None or left > 0 else Fault()


class _UploadHandler(Handler):
    """Handler of one connection of an UploadServer."""

    hub: UploadServer

    def do_GET(self) -> None:  # noqa: N802 - the name http.server calls
        path = unquote(urlsplit(self.path).path)
        info = re.fullmatch(rf"/api/(?P<v1>v1/)?models/{NAME}(?:/revision/(?:main|{ANY_COMMIT}))?", path)
        reading = info or re.fullmatch(rf"/api/(?:v1/)?models/{NAME}/(?:tree|repo).*", path)
        if reading is None:
            super().do_GET()
            return
        name = reading["name"]
        if info is None:
            if not self._is_hidden(name):
                super().do_GET()
            return
        self._note()
        if self._refused(name, "info"):
            return
        if name not in self.hub.pushed:
            self.refuse()
        elif info["v1"]:
            self.send_json(200, {"Code": 200, "Data": {"Visibility": 1 if self.hub.pushed[name].private else 5}})
        else:
            private = self.hub.pushed[name].private
            self.send_json(
                200, {"id": name, "sha": self.hub.head(name), "private": private, "siblings": [], "tags": []}
            )

    do_HEAD = do_GET  # noqa: N815 - the name http.server calls

    def do_POST(self) -> None:  # noqa: N802 - likewise
        self._note()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        for pattern, answer in POSTS.items():
            if found := re.fullmatch(pattern, path):
                getattr(self, answer)(body, **found.groupdict())
                return
        self.refuse()

    def do_PUT(self) -> None:  # noqa: N802 - likewise
        self._note()
        found = re.fullmatch(STORAGE, unquote(urlsplit(self.path).path))
        if found is None:
            self.refuse()
            return
        name, oid = found["name"], found["oid"]
        fault = self.hub.take_fault(name, "put")
        body = self._read_blob(name, fault)
        if body is None:
            self.close_connection = True
        elif fault.status != 200:
            self._send(fault.status, b"", {}, fault)
        elif found["part"]:
            self.hub.parts.setdefault(oid, {})[int(found["part"])] = body
            self._send(200, b"", {"ETag": f'"{git_digest(body)}"'}, Fault())
        elif sha256(body) != oid:
            self.send_json(400, {"Code": 400, "Message": "another digest"})
        else:
            self.hub.stored[oid] = body
            self._send(200, b"", {}, Fault())

    def _note(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        self.hub.tokens |= {self.headers[name] for name in ("Authorization", "Cookie") if name in self.headers}

    def _read_blob(self, name: str, fault: Fault) -> bytes | None:
        """Read a request's body, slowly or in part; None where it was cut."""
        size = int(self.headers["Content-Length"])
        wanted = size if fault.after is None else min(size, fault.after)
        body = bytearray()
        while len(body) < wanted:
            piece = self.rfile.read(min(wanted - len(body), max(2**18, size // 8)))
            if not piece:
                return None
            body += piece
            self.hub.received[name] += len(piece)
            self.hub.closing.wait(fault.pause)
        if fault.then == "hang":
            self.hub.closing.wait()
        return bytes(body) if len(body) == size and fault.then != "hang" else None

    def _is_hidden(self, name: str) -> bool:
        """Answer that there is no such repository, if it is private and the token is not its owner's."""
        hidden = self.hub.pushed[name].private if name in self.hub.pushed else False
        if hidden and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse()
            return True
        return False

    def _refused(self, name: str, step: str) -> bool:
        """Answer for a hub that fails, or that refuses the token; False where neither does."""
        fault = self.hub.take_fault(name, step)
        if fault.then == "cut":
            self.close_connection = True
            return True
        if fault == Fault() and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            fault = Fault(401)
        if fault != Fault():
            self._send(fault.status, b"{}", {"Content-Type": "application/json"}, fault)
        return fault != Fault()

    def _create(self, name: str, *, private: bool, license: str | None = None) -> bool:
        """Create a repository and return True, or answer why not."""
        if self._refused(name, "create"):
            return False
        if name.split("/")[0] not in self.hub.owners:
            self._send(403, b"", {}, Fault(403, message="You don't have the rights to create a model there"))
        elif name in self.hub.pushed:
            self.send_json(409, {"error": "You already created this model repo", "Code": 10010101001})
        else:
            self.hub.add(name, private=private, license=license)
            return True
        return False

    def huggingface_create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        private = asked.get("private", False) or asked.get("visibility") == "private"
        if self._create(name, private=private):
            self.send_json(200, {"url": f"{self.hub.address}/{name}", "name": name})

    def huggingface_validate(self, body: bytes) -> None:
        assert json.loads(body)["content"]
        self.send_json(200, {"errors": [], "warnings": []})

    def huggingface_preupload(self, body: bytes, name: str) -> None:
        if self._refused(name, "preupload"):
            return
        there, files = self.hub.contents(name), []
        for file in json.loads(body)["files"]:
            found, large = there.get(file["path"]), file["path"].endswith((*LARGE, ".gguf"))
            oid = None if found is None else sha256(found) if large else git_digest(found)
            mode = {
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": (name, file["path"]) in self.hub.ignored,
            }
            files.append({"path": file["path"], "oid": oid, **mode})
        self.send_json(200, {"files": files})

    def huggingface_batch(self, body: bytes, name: str) -> None:
        if self._refused(name, "batch"):
            return
        objects: list[dict[str, Any]] = []
        for entry in json.loads(body)["objects"]:
            address = f"{self.hub.address}/storage/{name}/{entry['oid']}"
            upload: dict[str, Any] = {"href": f"{address}?X-Amz-Signature=signed"}
            if size := self.hub.part_bytes.get(name):
                urls = {f"{part:05d}": f"{address}/{part}" for part in range(1, -(-entry["size"] // size) + 1)}
                upload = {"href": f"{address}/complete", "header": {"chunk_size": str(size), **urls}}
            actions = {"upload": upload, "verify": {"href": f"{address}/verify"}}
            objects.append(entry | ({} if entry["oid"] in self.hub.stored else {"actions": actions}))
        self.send_json(200, {"transfer": "multipart" if name in self.hub.part_bytes else "basic", "objects": objects})

    def huggingface_complete(self, body: bytes, name: str, oid: str) -> None:
        parts = self.hub.parts.pop(oid)
        asked = json.loads(body)["parts"]
        whole = b"".join(parts[number] for number in sorted(parts))
        etags = [f'"{git_digest(parts[part["partNumber"]])}"' for part in asked]
        if sha256(whole) != oid or [part["etag"] for part in asked] != etags:
            self.send_json(400, {"error": "another digest"})
            return
        self.hub.stored[oid] = whole
        self.send_json(200, {})

    def huggingface_verify(self, body: bytes, name: str, oid: str) -> None:
        if not self._refused(name, "verify"):
            asked = json.loads(body)
            right = asked["oid"] == oid and asked["size"] == len(self.hub.stored.get(oid, b""))
            self.send_json(200 if right else 404, {})

    def huggingface_apply(self, body: bytes, name: str) -> None:
        if self._refused(name, "commit"):
            return
        added: dict[str, bytes] = {}
        removed: list[str] = []
        for line in body.splitlines():
            key, value = (record := json.loads(line))["key"], record["value"]
            match key:
                case "header":
                    if value.get("parentCommit", self.hub.head(name)) != self.hub.head(name):
                        self.send_json(412, {"error": "the branch was changed meanwhile"})
                        return
                case "file":
                    added[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    added[value["path"]] = self.hub.stored[value["oid"]]
                case "deletedFile":
                    removed.append(value["path"])
        oid = self.hub.apply(name, added, removed)
        self.send_json(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid})

    def modelscope_create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['Path']}/{asked['Name']}"
        if self._create(name, private=asked["Visibility"] != 5, license=asked["License"]):
            self.send_json(200, {"Code": 200, "Success": True, "Data": {"Path": asked["Path"], "Name": asked["Name"]}})

    def modelscope_batch(self, body: bytes, name: str) -> None:
        if self._refused(name, "batch"):
            return
        wanted = [entry for entry in json.loads(body)["objects"] if entry["oid"] not in self.hub.stored]
        for entry in wanted:
            href = f"{self.hub.address}/storage/{name}/{entry['oid']}?Signature=signed"
            entry["actions"] = {"upload": {"href": href}}
        self.send_json(200, {"Code": 200, "Success": True, "Data": {"objects": wanted}})

    def modelscope_apply(self, body: bytes, name: str) -> None:
        if self._refused(name, "commit"):
            return
        actions = json.loads(body)["actions"]
        added = {
            action["path"]: self.hub.stored[action["sha256"]]
            if action["type"] == "lfs"
            else base64.b64decode(action["content"])
            for action in actions
            if action["action"] == "create"
        }
        self.hub.apply(name, added, [action["path"] for action in actions if action["action"] == "delete"])
        self.send_json(200, {"Code": 200, "Success": True, "Data": {}})
