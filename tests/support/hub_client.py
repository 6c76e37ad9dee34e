"""Run hub clients, each in its own process: they read their environment when they are imported."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HUBS = ("modelscope", "huggingface")
QUICK = {
    "HF_HUB_DOWNLOAD_TIMEOUT": "1",
    "MODELSCOPE_DOWNLOAD_TIMEOUT": "1",
    "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "1",
    "MODELSCOPE_REPO_TREE_PAGE_TIMEOUT_SECONDS": "1",
    "MODELSCOPE_REPO_TREE_PAGE_RETRY_MAX_DELAY_SECONDS": "1",
}
"""Environment variables of users for shorter timeouts."""
LOCATE = """
import sys
from thinktune.errors import UserError
from thinktune.hub.repository import locate
failed = False
for name in sys.argv[1].split():
    try:
        print(locate(name, sys.argv[2], sys.argv[4] or None, sys.argv[3], "model.name"))
    except UserError as error:
        failed = True
        print(f"REFUSED {error}", file=sys.stderr)
sys.exit(failed)
"""


def environment(address: str, caches: Path, **more: str) -> dict[str, str]:
    """Return this process's environment without the user's own hubs, tokens and proxies."""
    others = ("HF_", "HUGGING", "MODELSCOPE", "TRANSFORMERS_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(others) and not name.upper().endswith("_PROXY")
    }
    own = {"HF_ENDPOINT": address, "MODELSCOPE_ENDPOINT": address}
    folders = {name: str(caches / name) for name in ("HOME", "HF_HOME", "MODELSCOPE_HOME", "MODELSCOPE_CACHE")}
    return kept | own | folders | more


def run(*arguments, address, caches, timeout=60, **more):
    command = [sys.executable, *map(str, arguments)]
    variables = environment(address, caches, **more)
    return subprocess.run(command, env=variables, capture_output=True, text=True, encoding="utf-8", timeout=timeout)


def locate(name, hub, kind="model", revision="", **options):
    return run("-c", LOCATE, name, hub, kind, revision, **options)


def killed_after(enough: int, name: str, hub: str, *, address: str, caches: Path) -> int:
    """Start a download, kill it (SIGKILL) once so many bytes are on disk, and return how many are left."""
    command = [sys.executable, "-c", LOCATE, name, hub, "model", ""]
    variables = environment(address, caches)
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while unfinished(caches) < enough and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.wait()
    return unfinished(caches)


def unfinished(caches: Path) -> int:
    return sum(path.stat().st_size for path in caches.rglob("*.incomplete"))


def at_once(check: Callable[[Any], Any], items: Iterable[Any] = HUBS, most: int = 4) -> list[Any]:
    """Run a check for each item, several at once, since they mostly wait."""
    with ThreadPoolExecutor(most) as pool:
        return list(pool.map(check, items))


def contents(folder: Path) -> dict[str, bytes]:
    """Read the files of a repository's folder, without our own listing."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".thinktune"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
