"""One run's live view: its facts, charts and samples, and events as they come."""

import asyncio
import hashlib
import hmac
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from thinktune.http import ApiError
from thinktune.http.security import read_body
from thinktune.report.comparison_page import comparison_path
from thinktune.report.run_sections.live import render_live_charts, run_facts, run_samples
from thinktune.run import RunFolder
from thinktune.run.environment import shell_command
from thinktune.run.resume import is_locked, training_process
from thinktune.studio.acts import Act
from thinktune.studio.live_runs import LiveRuns, run_signature
from thinktune.studio.navigation import find_recipe_and_run
from thinktune.studio.studio import Studio
from thinktune.studio.verbs import TrainVerb, Verb

POLL_SECONDS = 1.0
CLOSING_SECONDS = 0.25  # between looks whether the server is ending
SHARE_OF_TIME = 0.1  # at most, that reading a long run again and again may take
ALIVE_SECONDS = 15.0  # between comments that keep proxies from closing a quiet stream


def shown_page_address(studio: Studio, name: str) -> str:
    """Return the address of an HTML file of the folder, which opens in a tab of its own without the key.

    A tab sends no key, so the address itself proves that it came from this studio, as long as this process lives.
    """
    return f"shown/{_ticket(studio, name)}/{name}"


def _ticket(studio: Studio, name: str) -> str:
    return hmac.new(studio.secret, name.encode(), hashlib.sha256).hexdigest()[:32]


def add_run_routes(app: FastAPI, studio: Studio) -> None:
    """Add the routes of one run's live view."""
    runs = LiveRuns()

    def facts_of(name: str, path: Path) -> dict[str, Any]:
        report = runs.read(path)[1]
        return run_facts(report) | _surroundings(studio, name, path)

    def show_run(name: str) -> Response:
        return JSONResponse(facts_of(name, studio.folder.find_run(name)))

    def show_samples(name: str) -> Response:
        return JSONResponse({"samples": run_samples(runs.read(studio.folder.find_run(name))[1])})

    def show_charts(name: str) -> Response:
        return HTMLResponse(str(render_live_charts(runs.read(studio.folder.find_run(name))[1])))

    async def stream_run(name: str) -> Response:
        path = await run_in_threadpool(studio.folder.find_run, name)
        events = _events(studio, path, partial(facts_of, name, path))
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def stop_run(name: str, request: Request) -> Response:
        await read_body(request, studio.limits)
        return JSONResponse(await run_in_threadpool(_stop_run, studio, name))

    app.add_api_route("/studio/run/{name:path}", show_run, summary="Show a run as it is now.")
    app.add_api_route("/studio/run-samples/{name:path}", show_samples, summary="Show a run's replies as it learns.")
    app.add_api_route("/studio/run-charts/{name:path}", show_charts, summary="Draw a run's charts as a part of a page.")
    app.add_api_route("/studio/run-events/{name:path}", stream_run, summary="Stream a run's facts as they change.")
    app.add_api_route("/studio/run-stop/{name:path}", stop_run, methods=["POST"], summary="Ask a run to stop.")
    _add_shown_pages(app, studio)


async def _events(studio: Studio, path: Path, read: Callable[[], dict[str, Any]]) -> AsyncGenerator[str]:
    """Yield a run's facts as server-sent events, whenever its folder shows something else, until it is finished."""
    sent: Any = None
    sent_at = time.monotonic()
    while not studio.is_closing():
        began = time.monotonic()
        signature = await run_in_threadpool(run_signature, path)
        if signature != sent:
            facts = await run_in_threadpool(read)
            sent, sent_at = signature, time.monotonic()
            yield f"data: {json.dumps(facts, ensure_ascii=False)}\n\n"
            if facts["state"] == "finished":
                return
        elif time.monotonic() - sent_at > ALIVE_SECONDS:
            sent_at = time.monotonic()
            yield ": alive\n\n"
        ends_at = time.monotonic() + max(POLL_SECONDS, (time.monotonic() - began) / SHARE_OF_TIME)
        while time.monotonic() < ends_at and not studio.is_closing():
            await asyncio.sleep(CLOSING_SECONDS)


def _add_shown_pages(app: FastAPI, studio: Studio) -> None:
    def show_page(ticket: str, name: str) -> Response:
        if not hmac.compare_digest(ticket.encode(), _ticket(studio, name).encode()):
            raise ApiError(404, "this address is no longer valid; open the page from the studio again")
        if not name.endswith(".html"):
            raise ApiError(400, f"{name} is not a page")
        return HTMLResponse(studio.folder.resolve(name).read_bytes())

    def link_page(name: str) -> Response:
        path = studio.folder.resolve(name)
        if path.suffix != ".html" or not path.is_file():
            raise ApiError(400, f"{name} is not a page")
        return JSONResponse({"address": shown_page_address(studio, name)})

    def link_comparison(run: Annotated[list[str], Query(max_length=20)]) -> Response:
        return link_page(studio.folder.name_of(comparison_path([studio.folder.find_run(one) for one in run])))

    app.add_api_route("/studio/comparison", link_comparison, summary="Return the address of a page that compares runs.")
    app.add_api_route("/shown/{ticket}/{name:path}", show_page, summary="Show a page of the folder.")
    app.add_api_route("/studio/page-link/{name:path}", link_page, summary="Return the address that shows a page.")


def _surroundings(studio: Studio, name: str, path: Path) -> dict[str, Any]:
    """Return what is around a run: its recipe, the act that trains it, its page, and when its journal last grew."""
    found = find_recipe_and_run(studio.folder, name)
    act = next(iter(training_acts(studio, found.recipe)), None)
    process = training_process(path)
    folder = RunFolder(path)
    changed_at = None
    with suppress(OSError):
        changed_at = folder.metrics.stat().st_mtime
    report = studio.folder.name_of(folder.report)
    return {
        "run": name,
        "recipe": found.recipe,
        "act": act and act.id,
        "act_state": act and act.state,
        "changed_at": changed_at,
        "report": shown_page_address(studio, report) if folder.report.is_file() else None,
        "command": found.recipe and shell_command("train", found.recipe),
        "stopping": (act is not None and act.stopping) or (name, process) in studio.stopped_processes,
        "stoppable": act is not None or process is not None,
    }


def training_acts(studio: Studio, recipe: str | None) -> list[Act]:
    """List the acts that train a recipe or wait to, the newest first; none where it was started in a terminal."""
    if recipe is None:
        return []
    return [act for act in studio.acts.alive() if act.verb == "train" and act.about.get("recipe") == recipe]


def start_act(studio: Studio, verb: Verb) -> Act:
    """Start a verb; raises ApiError (409) where it would train a recipe whose run is being trained already."""
    with studio.starting:
        if isinstance(verb, TrainVerb) and not any(one.startswith(("name=", "runs_folder=")) for one in verb.overrides):
            run = studio.folder.run_of_recipe(verb.recipe)
            if training_acts(studio, verb.recipe) or (run and _trains(studio.folder.path / run)):
                raise ApiError(409, f"{verb.recipe} is being trained already, or waits for the card; stop that first")
        return studio.acts.start(verb)


def _trains(run: Path) -> bool:
    """Return True if a run's lock is held for more than a moment, in which others ask whether it is."""
    if not is_locked(run):
        return False
    time.sleep(0.1)
    return is_locked(run)


def _stop_run(studio: Studio, name: str) -> dict[str, Any]:
    """Ask a run to stop where nothing is lost, whoever started it; asked again, nothing more is done."""
    path = studio.folder.find_run(name)
    if acts := training_acts(studio, find_recipe_and_run(studio.folder, name).recipe):
        for act in acts:
            if not act.stopping:
                studio.acts.stop(act.id)
        return {"stopping": True}
    process = training_process(path)
    if process is None:
        raise ApiError(409, f"{name} is not training on this machine, so there is nothing to stop")
    if (name, process) not in studio.stopped_processes:
        studio.stopped_processes.add((name, process))
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGINT)
    return {"stopping": True}
