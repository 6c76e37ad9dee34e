"""A studio on loopback for tests, and its page in a browser."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from support.server_thread import in_thread
from thinktune.http import Access, Limits
from thinktune.http.listening import uvicorn_config
from thinktune.studio import make_studio_app
from thinktune.studio.folder import StudioFolder


@contextmanager
def studio_of(folder: Path, key: str | None = None, port: int = 0, **access: Any) -> Generator[str]:
    """Run a studio over a folder in a thread of this process; yields its address."""
    limits = Limits()
    servers: list[uvicorn.Server] = []
    opened = StudioFolder.open(folder)
    app = make_studio_app(opened, limits, Access(key, **access), lambda: any(one.should_exit for one in servers))
    servers.append(server := uvicorn.Server(uvicorn_config(app, limits)))
    with in_thread(server, port) as address:
        yield address


@contextmanager
def open_page(browser: Any, address: str, **context_options: Any) -> Generator[Any]:
    """Yield a tab with the studio; it may log no error of its own."""
    options = {"viewport": {"width": 1280, "height": 800}, "locale": "en-US"} | context_options
    context = browser.new_context(**options)
    page, faults = context.new_page(), list[str]()
    page.on("pageerror", lambda error: faults.append(str(error)))
    # What the server refuses is shown on the page; the console's line about it is the browser's.
    page.on("console", lambda line: line.type == "error" and "status of" not in line.text and faults.append(line.text))
    page.goto(address)
    yield page
    context.close()
    assert not faults
