"""The first screen: what the folder holds, what goes on in it, and its runs, page by page."""

import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from thinktune.errors import UserError
from thinktune.http import ApiError
from thinktune.studio.recipes.nvidia_smi import NvidiaCard, ask_nvidia_smi
from thinktune.studio.run_summary import changed_at, read_summary
from thinktune.studio.studio import Studio

MAX_COUNT = 500  # of runs in one answer
ORDER_COSTS = 20  # an order is kept so many times as long as it took to make
CARD_SECONDS = 10.0  # for which what nvidia-smi said is kept
SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "model": lambda run: run["model"] or "",
    "rows": lambda run: run["rows"] or 0,
    "state": lambda run: run["state"],
    "best_loss": lambda run: float("inf") if run["best_loss"] is None else run["best_loss"],
    "right": lambda run: -run["right"]["tuned"] if run["right"] else 1.0,
}


def add_home_routes(app: FastAPI, studio: Studio) -> None:
    """Add the routes of the first screen."""
    folder, cards, orders = studio.folder, Cards(), Orders()

    def show_home() -> Response:
        recipes = [
            {"name": name, "run": folder.run_of_recipe(name), "rows": folder.rows_of_recipe(name)}
            for name in folder.recipes()
        ]
        return JSONResponse(
            {
                "folder": folder.shown,
                "version": _version(),
                "recipes": recipes,
                "rows": folder.row_files(),
                "acts": [asdict(act) for act in studio.acts.alive()],
                "cards": cards.read(),
            }
        )

    def list_runs(first: int = 0, count: int = 50, sort: str = "-when", search: str = "") -> Response:
        if first < 0 or not 0 < count <= MAX_COUNT:
            raise ApiError(400, f"first: is {first}, count: is {count}; give 0 or more, and 1 to {MAX_COUNT}")
        wanted = search.casefold().split()
        names = [name for name in folder.runs() if all(part in name.casefold() for part in wanted)]
        ordered = orders.sort(studio, names, sort, search)
        lines = [_line(studio, name) for name in ordered[first : first + count]]
        return JSONResponse({"runs": lines, "total": len(names)})

    app.add_api_route("/studio/home", show_home, summary="Show what the folder holds and what runs in it.")
    app.add_api_route("/studio/runs", list_runs, summary="List runs, page by page.")


class Orders:
    """Orders of runs' names; one that takes long to make is kept for a while, as long as no run comes or goes."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, int], tuple[float, list[str]]] = {}

    def sort(self, studio: Studio, names: list[str], sort: str, search: str) -> list[str]:
        """Return the names in order; raises ApiError (400) for an order that there is not."""
        began, key = time.monotonic(), (sort, search, len(names))
        if (kept := self._kept.get(key)) and kept[0] > began:
            return kept[1]
        ordered = _ordered(studio, names, sort)
        took = time.monotonic() - began
        self._kept = {one: held for one, held in self._kept.items() if held[0] > began}
        self._kept[key] = time.monotonic() + min(60.0, ORDER_COSTS * took), ordered
        return ordered


def _ordered(studio: Studio, names: list[str], sort: str) -> list[str]:
    key, backwards = sort.removeprefix("-"), sort.startswith("-")
    if key == "name":
        return sorted(names, reverse=backwards)
    if key == "when":
        return sorted(names, key=lambda name: (changed_at(studio.folder.path / name), name), reverse=backwards)
    if key not in SORTS:
        raise ApiError(400, f"sort: is {sort!r}; give one of name, when, {', '.join(SORTS)}, or - before it")
    lines = sorted((_line(studio, name) for name in names), key=SORTS[key], reverse=backwards)
    return [line["name"] for line in lines]


def _line(studio: Studio, name: str) -> dict[str, Any]:
    try:
        return {"name": name, **read_summary(studio.folder.path / name)}
    except (OSError, UserError):  # removed meanwhile
        return {"name": name, "state": "died", "changed_at": 0, "model": "", "rows": None} | dict.fromkeys(
            ("steps", "step", "best_loss", "base_loss", "right")
        )


class Cards:
    """Names and memory of this machine's NVIDIA cards, as nvidia-smi says; asked at most every few seconds."""

    def __init__(self) -> None:
        self._read_at, self._cards = -CARD_SECONDS, list[NvidiaCard]()

    def read(self) -> list[dict[str, Any]]:
        """Return {name, used_mib, total_mib, percent, in_use} of each card; none where there is no such program."""
        if time.monotonic() - self._read_at >= CARD_SECONDS:
            self._read_at, self._cards = time.monotonic(), ask_nvidia_smi()
        return [
            {"name": card.name, "used_mib": card.used_mib, "total_mib": card.total_mib, "percent": card.percent}
            | {"in_use": card.in_use}
            for card in self._cards
        ]


def _version() -> str:
    try:
        return version("thinktune")
    except PackageNotFoundError:
        return ""
