"""The first screen: what the folder holds, and what goes on in it."""

from dataclasses import asdict
from importlib.metadata import version

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from thinktune.studio.studio import Studio


def add_home_routes(app: FastAPI, studio: Studio) -> None:
    """Add the routes of the first screen."""

    def show_home() -> Response:
        folder = studio.folder
        return JSONResponse(
            {
                "folder": str(folder.path),
                "version": version("thinktune"),
                "recipes": [{"name": name} for name in folder.recipes()],
                "rows": folder.row_files(),
                "acts": [asdict(act) for act in studio.acts.alive()],
            }
        )

    app.add_api_route("/studio/home", show_home, summary="Show what the folder holds and what goes on in it.")
