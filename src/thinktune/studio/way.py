"""The way through the screens for one recipe and its run: where each screen leads, and the word of its state."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from thinktune.errors import UserError
from thinktune.run import RunFolder
from thinktune.run.status import read_status
from thinktune.studio.acts import Act
from thinktune.studio.folder import StudioFolder
from thinktune.studio.studio import Studio

RECIPE_SCREENS = ("rows", "plan", "think")
RUN_SCREENS = ("train", "proof", "talk", "take-home")
VERB_OF = {"rows": "check", "plan": "check", "think": "think", "proof": "eval", "talk": "serve", "take-home": "export"}


@dataclass(frozen=True, slots=True)
class Way:
    """A recipe and the run that it makes, by name; None where there is none (yet)."""

    recipe: str | None
    run: str | None


def run_of_recipe(folder: StudioFolder, recipe: str) -> str | None:
    """Return the name that a recipe's run has or will have below the folder; None where it is elsewhere or unclear.

    The file may be half edited, so only its two keys are read, as `config` reads them.
    """
    try:
        tree: Any = yaml.safe_load((folder.path / recipe).read_text(encoding="utf-8"))
        name, runs = tree.get("name") or Path(recipe).stem, tree.get("runs_folder") or "runs"
        run = (folder.path / str(runs) / str(name)).resolve()
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError):
        return None
    return folder.name_of(run) if run.is_relative_to(folder.path) and run != folder.path else None


def find_way(folder: StudioFolder, name: str) -> Way:
    """Return the recipe and the run of a name that is either; a file of rows has neither."""
    path = folder.resolve(name, new=True)
    if RunFolder(path).is_run:
        own = [recipe for recipe in folder.recipes() if run_of_recipe(folder, recipe) == name]
        return Way(own[0] if own else folder.name_of(RunFolder(path).recipe), name)
    if path.is_file() and name in folder.recipes():
        return Way(name, run_of_recipe(folder, name))
    return Way(None, None)


def screen_states(studio: Studio, way: Way) -> dict[str, str]:
    """Return the word of each screen's state, where there is one: that of its newest act, or of what was made."""
    states: dict[str, str] = {}
    acts = studio.acts.list()
    for screen, verb in VERB_OF.items():
        wanted = way.recipe if screen in RECIPE_SCREENS else way.run
        of_verb = (act for act in acts if act.verb == verb and wanted in act.about.values())
        if wanted and (newest := next(of_verb, None)):
            states[screen] = _word(screen, newest)
    if way.run and RunFolder(studio.folder.path / way.run).is_run:
        run = RunFolder(studio.folder.path / way.run)
        try:
            states["train"] = read_status(run.path).state
        except UserError:
            states["train"] = "failed"
        if run.evaluation().report.is_file():
            states.setdefault("proof", "finished")
        if run.exports.is_dir():
            states.setdefault("take-home", "finished")
    return states


def _word(screen: str, act: Act) -> str:
    if screen in ("rows", "plan"):
        return {"finished": "ready", "failed": "not ready"}.get(act.state, act.state)
    return act.state


def add_way_routes(app: FastAPI, studio: Studio) -> None:
    """Add the route by which the navigation knows where each screen leads."""

    def show_way(name: str) -> Response:
        way = find_way(studio.folder, name)
        states = screen_states(studio, way)
        trains = (act for act in studio.acts.alive() if act.verb == "train" and act.about.get("recipe") == way.recipe)
        training = next(trains, None)
        begun = way.run is not None and RunFolder(studio.folder.path / way.run).is_run
        screens: dict[str, dict[str, str | None]] = {}
        for screen in (*RECIPE_SCREENS, *RUN_SCREENS):
            # A run that has not begun can only be watched: its act waits, or reads rows.
            leads = way.recipe if screen in RECIPE_SCREENS else way.run if begun or screen == "train" else None
            screens[screen] = {"name": leads, "state": states.get(screen)}
        if training and not begun:
            screens["train"]["state"] = training.state
        return JSONResponse({"recipe": way.recipe, "run": way.run, "screens": screens})

    app.add_api_route("/studio/way", show_way, summary="Show where each screen leads for a recipe or a run.")
