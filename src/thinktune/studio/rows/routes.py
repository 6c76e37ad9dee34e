"""Routes of the rows screen: raw rows, files that are dropped, one row's tokens, and doubts."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from thinktune.http import ApiError
from thinktune.http.security import read_body
from thinktune.studio.queries import read_count
from thinktune.studio.rows.doubts import decide, doubts_folder, read_doubts
from thinktune.studio.rows.drop import check_file_name, receive_file, remove_abandoned
from thinktune.studio.rows.spool import MAX_ROWS_A_PAGE, SpoolShelf
from thinktune.studio.side_process import ask_process
from thinktune.studio.studio import Studio

MAX_TOKEN_ROWS = 25  # of one answer
TOKEN_SECONDS = 180


class Decision(BaseModel):
    """What was decided about a fault of a row; None takes it back."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    row: Annotated[str, Field(max_length=2000)]
    fault: str
    policy: Literal["drop", "keep", "repair", "silent", "trim-reasoning"] | None


def add_rows_routes(app: FastAPI, studio: Studio) -> None:
    """Add the routes of the rows screen."""
    _add_raw_rows(app, studio)
    _add_tokens(app, studio)
    _add_doubts(app, studio)
    remove_abandoned(studio.folder.path)

    async def drop_file(name: str, request: Request) -> Response:
        check_file_name(name)
        target = studio.folder.resolve(name, new=True)
        said = request.headers.get("content-length", "")
        written = await receive_file(target, request.stream(), int(said) if said.isdecimal() else None)
        return JSONResponse({"name": name, "bytes": written}, 201)

    app.add_api_route("/studio/files/{name}", drop_file, methods=["PUT"], summary="Keep a file of rows in the folder.")


def _add_raw_rows(app: FastAPI, studio: Studio) -> None:
    shelf = SpoolShelf()

    def show_rows(name: str, request: Request) -> Response:
        query = request.query_params
        count = read_count(request, "count", 50, MAX_ROWS_A_PAGE)
        spool = shelf.open(_row_file(studio, name), Path(name).name, query.get("key"))
        return JSONResponse(asdict(spool.page(read_count(request, "from", 0), count, query.get("search", "")[:1000])))

    def show_row(name: str, request: Request) -> Response:
        spool = shelf.open(_row_file(studio, name), Path(name).name, request.query_params.get("key"))
        source = request.query_params.get("source")
        number = spool.find_source(source) if source else read_count(request, "number", 0)
        try:
            return JSONResponse(spool.row(-1 if number is None else number))
        except IndexError:
            raise ApiError(404, f"{source or f'row {number}'} is not among the rows read so far") from None

    app.add_api_route(
        "/studio/rows/{name:path}", show_rows, summary="List raw rows of a file, or those that contain a text."
    )
    app.add_api_route("/studio/row/{name:path}", show_row, summary="Show one raw row, whole.")


def _row_file(studio: Studio, name: str) -> Path:
    path = studio.folder.resolve(name)
    if not path.is_file():
        raise ApiError(400, f"{name} is a folder; name a file of rows in it")
    return path


def _add_tokens(app: FastAPI, studio: Studio) -> None:
    def show_tokens(name: str, request: Request) -> Response:
        first = read_count(request, "from", 0)
        count = read_count(request, "count", MAX_TOKEN_ROWS, MAX_TOKEN_ROWS)
        studio.folder.resolve(name)
        source = request.query_params.get("source", "")[:2000]
        arguments = [f"./{name}", str(first), str(count), *([source] if source else [])]
        return JSONResponse(ask_process("rows.token_process", arguments, studio.folder.path, TOKEN_SECONDS))

    app.add_api_route("/studio/tokens/{name:path}", show_tokens, summary="Show rows of a recipe token by token.")


def _add_doubts(app: FastAPI, studio: Studio) -> None:
    def show_doubts(name: str) -> Response:
        studio.folder.resolve(name)
        return JSONResponse({"folder": doubts_folder(name)} | read_doubts(studio.folder, name))

    async def keep_decision(name: str, request: Request) -> Response:
        studio.folder.resolve(name)
        try:
            asked = Decision.model_validate_json(await read_body(request, studio.limits))
        except ValidationError as error:
            raise ApiError(400, f"this is not a decision: {error.errors(include_url=False)[0]['msg']}") from None
        await run_in_threadpool(decide, studio.folder, name, asked.row, asked.fault, asked.policy)
        return JSONResponse(await run_in_threadpool(read_doubts, studio.folder, name))

    app.add_api_route("/studio/doubts/{name:path}", show_doubts, summary="Show the doubtful rows that were found.")
    app.add_api_route(
        "/studio/doubts/{name:path}", keep_decision, methods=["PUT"], summary="Keep a decision about a doubtful row."
    )
