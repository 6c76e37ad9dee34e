"""The Talk screen: a run's chat page, served by `thinktune serve`, passed on below the studio's own address.

What people say of replies there becomes rows and votes of the run; here they are counted.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from thinktune.config import DataConfig, load_recipe
from thinktune.errors import UserError
from thinktune.eval.votes import count_votes
from thinktune.http import ApiError, Limits
from thinktune.http.security import error_response, read_body
from thinktune.run import RunFolder
from thinktune.run.environment import shell_command
from thinktune.studio.act_process import ActFolder
from thinktune.studio.studio import Studio

# The server's own line. It listens on loopback alone, as the studio starts it.
_PRINTED_PAGE = re.compile(r"^page: http://127\.0\.0\.1:(\d{1,5})/\s*$", re.MULTILINE)
MAX_PRINTED_BYTES = 2**16  # in which that line is looked for

# Said of one connection (RFC 9110, 7.6.1), not of the reply; and what names the studio to the server behind it.
_OF_CONNECTION = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection"}
_OWN_REQUEST_HEADERS = _OF_CONNECTION | {"host", "origin", "referer", "cookie", "content-length", "accept-encoding"}
_OWN_REPLY_HEADERS = _OF_CONNECTION | {"date", "server", "set-cookie"}

CONNECT_SECONDS = 5.0


def printed_port(stdout: Path) -> int | None:
    """Return the port that a server printed into its output; None before it did."""
    try:
        with stdout.open("rb") as file:
            text = file.read(MAX_PRINTED_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return None
    found = _PRINTED_PAGE.search(text)
    return int(found[1]) if found and 0 < int(found[1]) < 2**16 else None


def make_client() -> httpx.AsyncClient:
    """Make the client that passes requests on; no proxy of the environment may see them."""
    timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)  # the server behind limits the time of its replies itself
    transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)


async def pass_on(client: httpx.AsyncClient, request: Request, port: int, path: str, limits: Limits) -> Response:
    """Pass a request on to the server at a port of this machine, as one for `path`, and return its reply as it comes.

    The caller has checked host and origin, and what may be passed on; the server behind checks the key itself.
    Raises ApiError where the body exceeds a limit.
    """
    body = await read_body(request, limits) if request.method == "POST" else b""
    query = request.url.query
    address = f"http://127.0.0.1:{port}{quote(path)}{f'?{query}' if query else ''}"
    headers = [(name, value) for name, value in request.headers.items() if name not in _OWN_REQUEST_HEADERS]
    return _PassedOn(client, client.build_request(request.method, address, headers=headers, content=body or None))


class _PassedOn(Response):
    """A reply that is passed on as it comes; a client that leaves ends the request behind it, too."""

    def __init__(self, client: httpx.AsyncClient, request: httpx.Request) -> None:
        super().__init__()
        self._client, self._request = client, request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await self._stream(scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._client.send(self._request, stream=True)
        except httpx.HTTPError:
            gone = ApiError(502, "the model's server does not answer; start it again on this screen")
            await error_response(gone)(scope, receive, send)
            return
        try:
            headers = [(name, value) for name, value in reply.headers.raw if _name(name) not in _OWN_REPLY_HEADERS]
            await send({"type": "http.response.start", "status": reply.status_code, "headers": headers})
            async for part in reply.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except httpx.HTTPError:
            return  # the connection is closed before the reply's end, which says that it broke
        finally:
            with anyio.CancelScope(shield=True):
                await reply.aclose()


def _name(raw: bytes) -> str:
    return raw.decode("latin-1").lower()


def add_talk_routes(app: FastAPI, studio: Studio) -> None:
    """Add the routes of the Talk screen: what is served of a run, and the chat page of an act."""
    client = make_client()

    def show_talk(name: str) -> Response:
        folder = studio.folder
        run = folder.name_of(folder.find_run(name))
        acts = [act for act in studio.acts.alive() if act.verb == "serve" and act.about.get("run") == run]
        served = [{"id": act.id, "ready": _port_of(studio, act.id) is not None} for act in acts]
        return JSONResponse({"served": served, **read_feedback(folder.path, run)})

    async def talk(request: Request) -> Response:
        act = str(request.path_params["act"])
        path = f"/chat/{act}/{request.path_params['path']}"
        if not {".", ".."}.isdisjoint(path.split("/")):  # it would be another address for the server behind
            raise ApiError(404, f"{path} is not an address of the chat page")
        port = await run_in_threadpool(_served_port, studio, act)
        return await pass_on(client, request, port, path, studio.limits)

    app.add_api_route(
        "/studio/talk/{name:path}", show_talk, summary="Show what a run serves, and what was said about its replies."
    )
    app.add_route("/chat/{act}/{path:path}", talk, methods=["GET", "HEAD", "POST"])


def _served_port(studio: Studio, id: str) -> int:
    """Return the port of a server that an act runs; raises ApiError where it is none, or has none yet."""
    act = studio.acts.find(id)
    if act.verb != "serve" or act.state != "running":
        raise ApiError(404, f"the act {id} serves no model now; start it on the Talk screen")
    port = _port_of(studio, id)
    if port is None:
        raise ApiError(503, "the model is being loaded; try again in a moment")
    return port


def _port_of(studio: Studio, id: str) -> int | None:
    return printed_port(ActFolder(studio.acts.path / id).stdout)


def read_feedback(root: Path, name: str) -> dict[str, Any]:
    """Count what people said on the chat page of a run, by its name below a folder: rows by rating, and votes.

    `command` is the line to train on the rows. Raises UserError where votes are damaged.
    """
    run = RunFolder(root / name)
    rows = _count_rows(run.chat_rows)
    return {"rows": rows, "votes": count_votes(run.path), "command": training_line(root, name) if rows else None}


def training_line(root: Path, name: str) -> str | None:
    """Return the command that trains on a run's rows and on those of its chat page; None where its recipe is damaged.

    It is a new run of the same recipe, whose data are then a list: what the run had, and the chat page's rows, of which
    none is held out. It is typed in the folder `root`.
    """
    run = RunFolder(Path(name))
    try:
        recipe = load_recipe(root / run.recipe)
    except UserError:
        return None
    defaults = DataConfig(name="-").model_dump(mode="json")
    sources = [source.model_dump(mode="json", exclude={"replay"}) for source in recipe.sources]
    written = [{key: value for key, value in source.items() if value != defaults[key]} for source in sources]
    data = json.dumps([*written, {"name": run.chat_rows.as_posix(), "validation": 0}], ensure_ascii=False)
    return shell_command("train", run.recipe, f"name={recipe.name}-chat", f"data={data}")


def _count_rows(file: Path) -> dict[str, int]:
    """Count the rows of a file by their rating; a line that is none of ours counts as `other`."""
    counts = Counter[str]()
    if file.is_file():
        with file.open(encoding="utf-8", errors="replace") as lines:
            counts.update(_rating(line) for line in lines if line.strip())
    return dict(counts)


def _rating(line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "other"
    made_by = row.get("provenance") if isinstance(row, Mapping) else None
    rating = made_by.get("rating") if isinstance(made_by, Mapping) else None
    return str(rating) if rating in ("good", "bad", "corrected") else "other"
