"""Files of a server's page: read once, found by name, sent with their media types."""

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}


def read_page_files(folder: Traversable, prefix: str = "") -> dict[str, bytes]:
    """Read the files below a page's folder by relative name, once, so that no request ever names a machine's path."""
    found: dict[str, bytes] = {}
    for entry in folder.iterdir():
        if entry.is_file():
            found[f"{prefix}{entry.name}"] = entry.read_bytes()
        else:
            found |= read_page_files(entry, f"{prefix}{entry.name}/")
    return found


def shared_page_files() -> dict[str, bytes]:
    """Read the files that all pages share: the basic style, the icon, and the reader's choices."""
    return read_page_files(files("thinktune.http") / "page")


def page_response(content: bytes, name: str) -> Response:
    """Build the response for a file of the page; browsers ask each time whether it has changed."""
    return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers={"cache-control": "no-cache"})


def add_page_files(app: FastAPI, page: Mapping[str, bytes]) -> None:
    """Serve a page's files below /page/."""

    async def page_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in page:
            raise HTTPException(404)
        return page_response(page[name], name)

    app.add_route("/page/{name:path}", page_file, methods=["GET"])
