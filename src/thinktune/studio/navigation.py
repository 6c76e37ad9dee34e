"""Navigation between the screens of a recipe and its run: where each leads, and the word of its state."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from thinktune.run import RunFolder
from thinktune.studio.acts import Act
from thinktune.studio.folder import StudioFolder, recipe_place
from thinktune.studio.run_summary import quick_state
from thinktune.studio.studio import Studio

RECIPE_SCREENS = ("rows", "plan", "think")
RUN_SCREENS = ("train", "proof", "talk", "take-home")
VERB_OF = {"rows": "check", "plan": "check", "think": "think", "proof": "eval", "talk": "serve", "take-home": "export"}


@dataclass(frozen=True, slots=True)
class RecipeAndRun:
    """A recipe and the run that it makes, by name; None where there is none (yet)."""

    recipe: str | None
    run: str | None


def find_recipe_and_run(folder: StudioFolder, name: str) -> RecipeAndRun:
    """Return the recipe and the run of a name that is either; a file of rows has neither."""
    path = folder.resolve(name, new=True)
    if path.is_file():
        return RecipeAndRun(name, folder.run_of_recipe(name)) if recipe_place(path) else RecipeAndRun(None, None)
    is_run = RunFolder(path).is_run
    if path.exists() and not is_run:
        return RecipeAndRun(None, None)
    own = next((recipe for recipe in folder.recipes() if folder.run_of_recipe(recipe) == name), None)
    if is_run:
        return RecipeAndRun(own or folder.name_of(RunFolder(path).recipe), name)
    return RecipeAndRun(own, name if own else None)


def screen_states(folder: StudioFolder, found: RecipeAndRun, acts: Sequence[Act]) -> dict[str, str]:
    """Return the word of each screen's state, where there is one: that of its newest act, or of what was made."""
    states: dict[str, str] = {}
    for screen, verb in VERB_OF.items():
        wanted = found.recipe if screen in RECIPE_SCREENS else found.run
        of_verb = (act for act in acts if act.verb == verb and wanted in act.about.values())
        if wanted and (newest := next(of_verb, None)):
            states[screen] = _word(screen, newest)
    if found.run and RunFolder(folder.path / found.run).is_run:
        run = RunFolder(folder.path / found.run)
        states["train"] = quick_state(run.path)
        if run.evaluation().report.is_file():
            states.setdefault("proof", "finished")
        if run.exports.is_dir():
            states.setdefault("take-home", "finished")
    return states


def _word(screen: str, act: Act) -> str:
    if screen in ("rows", "plan"):
        return {"finished": "ready", "failed": "not ready"}.get(act.state, act.state)
    return act.state


def add_navigation_routes(app: FastAPI, studio: Studio) -> None:
    """Add the route by which the navigation knows where each screen leads."""

    def show_navigation(name: str) -> Response:
        found = find_recipe_and_run(studio.folder, name)
        acts = studio.acts.list()
        states = screen_states(studio.folder, found, acts)
        trains = (one for one in acts if one.verb == "train" and one.about.get("recipe") == found.recipe)
        training = next(trains, None) if found.recipe else None
        begun = found.run is not None and RunFolder(studio.folder.path / found.run).is_run
        screens: dict[str, dict[str, str | None]] = {}
        for screen in (*RECIPE_SCREENS, *RUN_SCREENS):
            # A run that has not begun can only be watched: its act waits, or reads rows.
            leads = found.recipe if screen in RECIPE_SCREENS else found.run if begun or screen == "train" else None
            screens[screen] = {"name": leads, "state": states.get(screen)}
        if training and not begun:
            screens["train"]["state"] = training.state
        facts = {"recipe": found.recipe, "run": found.run, "begun": begun, "screens": screens}
        return JSONResponse(facts | {"act": training and training.id})

    app.add_api_route(
        "/studio/navigation", show_navigation, summary="Show where each screen leads for a recipe or a run."
    )
