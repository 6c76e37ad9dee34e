"""Routes of recipes: read, changed and written; what `check` said of one; models and cards to choose from."""

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from thinktune.config import ROW_FAULTS
from thinktune.data.faults.decisions import decisions_file
from thinktune.data.reading.containers import locate_part
from thinktune.data.reading.sources import match_files
from thinktune.errors import UserError
from thinktune.http import ApiError
from thinktune.http.security import read_body
from thinktune.run.card_lock import cards_in_use
from thinktune.studio.folder import RECIPE_ENDINGS, StudioFolder
from thinktune.studio.recipes.check_facts import describe_fault, is_stale, newest_facts
from thinktune.studio.recipes.recipe_file import (
    MAX_RECIPE_BYTES,
    ChangedMeanwhileError,
    change_recipe_file,
    copy_recipe_file,
    read_recipe_file,
    write_recipe_file,
)
from thinktune.studio.side_process import ask_process, take_turn
from thinktune.studio.studio import Studio

CARD_SECONDS = 180
KEPT_SECONDS = 60.0  # for which it is kept what fits the card that is here
MAX_LISTED_FILES = 100
Key = Annotated[str, Field(pattern=r"^[a-z_]+(\.[\w-]+)*$", max_length=200)]


class RecipeChange(BaseModel):
    """Settings to change in a recipe of a digest, by key (None takes one out), or its whole new text."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    digest: Annotated[str, Field(max_length=64)]
    changes: Annotated[dict[Key, Any], Field(max_length=200)] | None = None
    text: str | None = None


class SettingsOfCopy(BaseModel):
    """Settings that a copy of a recipe has instead, by key."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    changes: Annotated[dict[Key, Any], Field(min_length=1, max_length=200)]


def add_recipe_routes(app: FastAPI, studio: Studio) -> None:
    """Add the routes of the rows screen and of the plan that are about a recipe."""
    _add_recipe(app, studio)
    _add_copy(app, studio)
    _add_facts(app, studio)
    known: dict[str, tuple[float, dict[str, Any]]] = {}
    asking = threading.BoundedSemaphore(1)

    def show_models(request: Request) -> Response:
        card = request.query_params.get("card", "")[:100]
        with take_turn(asking):
            asked_at, value = known.get(card, (0.0, None))
            # What is free on a card that is here may change; while a run is on it, that says nothing of the next one.
            is_here = value is not None and (value["card"] or {}).get("is_here")
            if value is None or (is_here and time.monotonic() - asked_at > KEPT_SECONDS and not _in_use(value)):
                value = ask_process("recipes.card_process", [card], studio.folder.path, CARD_SECONDS)
                known[card] = time.monotonic(), value
            named = value["card"] and value["card"] | {"in_use": _in_use(value)}
            return JSONResponse(value | {"card": named})

    app.add_api_route("/studio/models", show_models, summary="List models, and which of them a card trains.")


def _in_use(models: dict[str, Any]) -> bool:
    """Return True while somebody computes on the card that models were listed for, here or from a terminal."""
    return not cards_in_use().isdisjoint(models["card"]["locks"] if models["card"] else ())


def _add_recipe(app: FastAPI, studio: Studio) -> None:
    def show_recipe(name: str) -> Response:
        return JSONResponse(_describe(studio.folder, name))

    async def put_recipe(name: str, request: Request) -> Response:
        body = await read_body(request, studio.limits)
        if len(body) > MAX_RECIPE_BYTES:
            raise ApiError(413, f"{name}: a recipe is at most 1 MiB; shorten it")
        asked = _parse_change(body)
        await run_in_threadpool(_write, studio.folder, name, asked)
        return JSONResponse(await run_in_threadpool(_describe, studio.folder, name))

    app.add_api_route("/studio/recipe/{name:path}", show_recipe, summary="Show a recipe's text and settings.")
    app.add_api_route("/studio/recipe/{name:path}", put_recipe, methods=["PUT"], summary="Change or write a recipe.")


def _add_copy(app: FastAPI, studio: Studio) -> None:
    async def copy_recipe(name: str, request: Request) -> Response:
        body = await read_body(request, studio.limits)
        try:
            asked = SettingsOfCopy.model_validate_json(body)
        except ValidationError as error:
            raise ApiError(400, f"changes: {error.errors(include_url=False)[0]['msg']}") from None
        return JSONResponse({"name": await run_in_threadpool(_copy, studio.folder, name, asked.changes)})

    app.add_api_route(
        "/studio/recipe-copy/{name:path}", copy_recipe, methods=["POST"], summary="Write a changed copy of a recipe."
    )


def _copy(folder: StudioFolder, name: str, changes: Mapping[str, Any]) -> str:
    """Write a copy of a recipe with other settings beside it, for a run of its own; return its name."""
    path = folder.resolve(name)
    try:
        return folder.name_of(copy_recipe_file(folder.path, path, Path(name), changes))
    except ChangedMeanwhileError as error:
        raise ApiError(409, str(error)) from None
    except UserError as error:
        raise ApiError(422, "\n".join(error.faults)) from None


def _parse_change(body: bytes) -> RecipeChange:
    try:
        asked = RecipeChange.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the change"
        raise ApiError(400, f"{place}: {first['msg']}") from None
    if (asked.changes is None) == (asked.text is None):
        raise ApiError(400, "a change names settings, or the whole text: send `changes` or `text`")
    return asked


def _write(folder: StudioFolder, name: str, asked: RecipeChange) -> None:
    """Change or write a recipe; raises ApiError: 422 with every mistake, 409 where the file has changed."""
    if not name.lower().endswith(RECIPE_ENDINGS):
        raise ApiError(400, f"{name} is not the name of a recipe, which ends in .yaml")
    path = folder.resolve(name, new=True)
    if not path.parent.is_dir():
        raise ApiError(404, f"{name}: its folder does not exist; name one that does")
    try:
        if asked.changes is not None:
            change_recipe_file(folder.path, path, Path(name), asked.digest, asked.changes)
        elif asked.text is not None:
            write_recipe_file(folder.path, path, Path(name), asked.digest, asked.text)
    except ChangedMeanwhileError as error:
        raise ApiError(409, str(error)) from None
    except UserError as error:
        raise ApiError(422, "\n".join(error.faults)) from None


def _describe(folder: StudioFolder, name: str) -> dict[str, Any]:
    """Return a recipe as plain values, with the names of its row files; raises ApiError where it cannot be read."""
    path = folder.resolve(name)
    try:
        held = read_recipe_file(path, Path(name))
    except UserError as error:
        raise ApiError(400, "\n".join(error.faults)) from None
    except OSError:
        raise ApiError(400, f"{name} cannot be read; name a recipe's file") from None
    sources = _row_files(folder, held.values or {})
    size = sum((folder.path / each).stat().st_size for each in sources)
    return asdict(held) | {"name": name, "rows": list(sources), "sources": list(sources.values()), "rows_bytes": size}


def _row_files(folder: StudioFolder, values: Mapping[str, Any]) -> dict[str, int]:
    """List the files of rows that a recipe names and that are below the folder, each with the number of its source.

    Those of a hub are not looked up.
    """
    held = values.get("data", {})
    found: dict[str, int] = {}
    for number, source in enumerate(held if isinstance(held, list) else [held]):
        if source.get("hub") or not source.get("name"):
            continue
        try:
            paths = match_files(folder.path / source["name"], source.get("files"), "data.name")
        except UserError:
            continue
        files = dict.fromkeys(locate_part(path).file.resolve() for path in paths)
        for path in files:
            if path.is_relative_to(folder.path) and len(found) < MAX_LISTED_FILES:
                found.setdefault(folder.name_of(path), number)
    return found


def _add_facts(app: FastAPI, studio: Studio) -> None:
    def show_facts(name: str) -> Response:
        path = studio.folder.resolve(name)
        found = newest_facts(studio.acts, name)
        checks = (act.id for act in studio.acts.alive() if act.verb == "check" and act.about.get("recipe") == name)
        value: dict[str, Any] = {"running": next(checks, None), "act": None, "facts": None, "is_stale": True}
        if found is not None:
            act, facts = found
            files = [studio.folder.path / each for each in _describe(studio.folder, name)["rows"]]
            decided = [file for file in map(decisions_file, files) if file.exists()]
            value |= {"act": asdict(act), "facts": facts, "is_stale": is_stale(act, [path, *files, *decided])}
        return JSONResponse(value)

    def list_faults() -> Response:
        return JSONResponse({"faults": [{"fault": fault} | describe_fault(fault) for fault in ROW_FAULTS]})

    app.add_api_route("/studio/facts/{name:path}", show_facts, summary="Show what check last said about a recipe.")
    app.add_api_route("/studio/faults", list_faults, summary="List every fault of rows, with its policies.")
