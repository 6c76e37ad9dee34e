"""The studio's server: the page, and the routes of each screen, behind the same guards as the chat page's."""

import html
import os
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from thinktune.errors import UserError, redact
from thinktune.files import describe_system_error, is_disk_full
from thinktune.http import (
    Access,
    ApiError,
    Limits,
    SecurityMiddleware,
    add_page_files,
    empty_app,
    listen,
    read_page_files,
)
from thinktune.http.listening import address_of, find_access_here, require_key, run_app
from thinktune.http.pages import page_response, shared_page_files
from thinktune.http.security import OWN_FILES, error_response, read_body
from thinktune.progress import Say
from thinktune.studio.acts import Acts
from thinktune.studio.folder import StudioFolder
from thinktune.studio.home_view import add_home_routes
from thinktune.studio.navigation import add_navigation_routes
from thinktune.studio.proof_view import add_proof_routes
from thinktune.studio.recipes import add_recipe_routes, refuse_overrides
from thinktune.studio.rows import add_rows_routes
from thinktune.studio.run_view import add_run_routes, start_act
from thinktune.studio.sentences import add_sentence_routes
from thinktune.studio.studio import Studio
from thinktune.studio.take_home_view import add_take_home_routes
from thinktune.studio.talk import add_talk_routes
from thinktune.studio.think_view import add_think_routes
from thinktune.studio.verbs import parse_verb

# The first that fits an address. The chat page is shown in a frame of the studio's, and in no other page's.
POLICIES = {
    # A page in the folder may be a stranger's: it runs its own script, as an origin of its own, and reaches nothing.
    "/shown/": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-downloads",
    "/chat/": f"{OWN_FILES}; frame-ancestors 'self'",
    "/": f"{OWN_FILES}; frame-src 'self'; frame-ancestors 'none'",
}
SCREENS = ("rows", "plan", "train", "proof", "talk", "take-home", "think")


def make_studio_app(
    folder: StudioFolder, limits: Limits, access: Access, is_closing: Callable[[], bool] = lambda: False
) -> ASGIApp:
    """Build the studio over a folder, for those who have access; `is_closing` tells streams when to end."""
    studio = Studio(folder, Acts(folder), limits, is_closing=is_closing)
    app = empty_app("thinktune studio")
    app.add_exception_handler(UserError, _on_user_error)
    app.add_exception_handler(OSError, _on_system_error)
    _add_page(app, access.root_path)
    add_act_routes(app, studio)
    add_home_routes(app, studio)
    add_sentence_routes(app, studio)
    add_navigation_routes(app, studio)
    add_run_routes(app, studio)
    add_proof_routes(app, studio)
    add_talk_routes(app, studio)
    add_take_home_routes(app, studio)
    add_think_routes(app, studio)
    add_rows_routes(app, studio)
    add_recipe_routes(app, studio)
    return SecurityMiddleware(app, access, POLICIES)


def read_studio_page() -> dict[str, bytes]:
    """Read the files of the studio's page by name."""
    templates = files("thinktune.report") / "templates"
    charts = {name: (templates / name).read_bytes() for name in ("charts.js", "charts.css")}
    charts["charts.css"] = b".report-charts {\n" + charts["charts.css"] + b"}\n"  # its names stay its own
    return shared_page_files() | charts | read_page_files(files("thinktune.studio") / "page")


def _add_page(app: FastAPI, root_path: str) -> None:
    """Serve the page at the address of every screen; its script finds the screen by the address."""
    page = read_studio_page()
    # Addresses are several folders deep, so the page names its files from the root, wherever a proxy has put that.
    shell = page["index.html"].replace(b'="page/', f'="{html.escape(root_path)}/page/'.encode())

    async def show_page() -> Response:
        return page_response(shell, "index.html")

    app.add_api_route("/", show_page, include_in_schema=False)
    for screen in SCREENS:
        app.add_api_route(f"/{screen}", show_page, include_in_schema=False)
        app.add_api_route(f"/{screen}/{{name:path}}", show_page, include_in_schema=False)
    add_page_files(app, page)


def add_act_routes(app: FastAPI, studio: Studio) -> None:
    """Add the routes by which acts are started, watched and stopped."""
    acts = studio.acts

    async def post_act(request: Request) -> Response:
        verb = parse_verb(await read_body(request, studio.limits))
        await run_in_threadpool(refuse_overrides, studio.folder, verb)
        return JSONResponse(asdict(await run_in_threadpool(start_act, studio, verb)), 201)

    async def show_command(request: Request) -> Response:
        verb = parse_verb(await read_body(request, studio.limits))
        return JSONResponse({"command": await run_in_threadpool(acts.command_of, verb)})

    def list_acts(count: int = 200) -> Response:
        return JSONResponse({"acts": [asdict(one) for one in acts.list(count)]})

    def show_act(id: str) -> Response:
        return JSONResponse(asdict(acts.find(id)))

    def show_log(request: Request, id: str) -> Response:
        from_byte, name = request.query_params.get("from", "0"), request.query_params.get("name", "stderr")
        if name not in ("stdout", "stderr"):
            raise ApiError(400, f"name: is {name!r}; give stdout or stderr")
        try:
            return JSONResponse(acts.read_log(id, int(from_byte), name))
        except ValueError:
            raise ApiError(400, f"from: is {from_byte!r}; give the byte to read from") from None

    async def stop_act(id: str, request: Request) -> Response:
        await read_body(request, studio.limits)
        return JSONResponse(asdict(await run_in_threadpool(acts.stop, id)))

    app.add_api_route("/studio/acts", post_act, methods=["POST"], summary="Start a verb in a process of its own.")
    app.add_api_route("/studio/command", show_command, methods=["POST"], summary="Show the line of a verb.")
    app.add_api_route("/studio/acts", list_acts, summary="List acts, the newest first.")
    app.add_api_route("/studio/acts/{id}", show_act, summary="Show how an act is doing.")
    app.add_api_route("/studio/acts/{id}/log", show_log, summary="Read what an act printed, from a byte on.")
    app.add_api_route("/studio/acts/{id}/stop", stop_act, methods=["POST"], summary="Ask an act to stop.")


def run_studio(folder: Path, host: str, port: int, say: Say, access: Access | None = None) -> None:
    """Serve the studio until Ctrl-C; what it started goes on.

    Raises UserError if the address is taken, or open to other machines without a key, and on Windows itself, where no
    process can be asked to stop and save as Ctrl-C does.
    """
    if os.name != "posix":
        raise UserError("studio: works only on Linux, macOS and, on Windows, in WSL 2; start it there")
    limits, access = Limits(), access or find_access_here(host, None, None, "")
    require_key(host, access, "this folder and the models in it")
    opened = StudioFolder.open(folder)
    listening = listen(host, port)
    try:
        say(
            f"studio: {address_of(listening, host)}/\nfolder: {opened.path}; Ctrl-C stops the page, not what it started"
        )
        run_app(lambda is_closing: make_studio_app(opened, limits, access, is_closing), listening, limits)
    finally:
        listening.close()


async def _on_user_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, UserError)
    return error_response(ApiError(409, "; ".join(error.faults)))


async def _on_system_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, OSError)
    return error_response(ApiError(507 if is_disk_full(error) else 500, redact(describe_system_error(error))))
