"""Push models in a process of its own: the hubs' clients read their environment when they are imported."""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from support.hub_client import QUICK, environment
from support.upload_server import TOKEN, UploadServer

TOKENS = {"HF_TOKEN": TOKEN, "MODELSCOPE_API_TOKEN": TOKEN}
PATIENCE = QUICK | {
    "HF_HUB_DOWNLOAD_TIMEOUT": "3",
    "MODELSCOPE_UPLOAD_BLOB_READ_TIMEOUT_SECONDS": "3",
    "MODELSCOPE_UPLOAD_BLOB_CONNECT_TIMEOUT_SECONDS": "3",
    "MODELSCOPE_API_TIMEOUT": "3",
}
"""Environment variables of users for shorter timeouts."""
WORKER = """
import json, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from thinktune.errors import UserError
from thinktune.export.push import push_model
from thinktune import progress
from thinktune.library_output import silence_libraries
silence_libraries()
progress.SECONDS_BETWEEN_LINES = 0.2
lock = threading.Lock()
def run(case):
    lines, faults, address, began = [], [], None, time.monotonic()
    try:
        address = push_model(Path(case["path"]), case["hub"], case["name"], public=case["public"], say=lines.append)
    except UserError as error:
        faults = error.faults
    except BaseException as error:
        faults = [f"no sentence but {error!r}"]
    with lock:
        print(json.dumps([case["id"], address, faults, lines, time.monotonic() - began]), flush=True)
pools = {hub: ThreadPoolExecutor(1) for hub in ("huggingface", "modelscope")}
for line in sys.stdin:
    case = json.loads(line)
    pools[case["hub"]].submit(run, case)
"""


@dataclass(frozen=True)
class Outcome:
    """What a push returned, the sentences of its refusal, the lines it printed, and how long it took."""

    address: str | None
    faults: list[str]
    lines: list[str]
    seconds: float


class Pusher:
    """A process that pushes to the server of each hub, as a context manager: to both at once, to each in turn."""

    def __init__(self, hubs: dict[str, UploadServer], caches: Path, **more: str) -> None:
        addresses = {"HF_ENDPOINT": hubs["huggingface"].address, "MODELSCOPE_ENDPOINT": hubs["modelscope"].address}
        caches.mkdir(parents=True, exist_ok=True)
        self._errors = (caches / "stderr").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=environment("", caches, **(TOKENS | PATIENCE | addresses | more)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        self._ids = itertools.count()
        self._waiting: dict[int, Future[Outcome]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Pusher":
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        self._errors.seek(0)
        assert not (printed := self._errors.read()), printed
        self._errors.close()

    def start(self, path: Path, hub: str, name: str, *, public: bool = False) -> Future[Outcome]:
        """Start to push a folder."""
        number, done = next(self._ids), Future[Outcome]()
        self._waiting[number] = done
        case = {"id": number, "path": str(path), "hub": hub, "name": name, "public": public}
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        return done

    def push(self, path: Path, hub: str, name: str, *, public: bool = False) -> Outcome:
        """Push a folder."""
        return self.start(path, hub, name, public=public).result()

    def push_all(self, path: Path, targets: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Outcome]:
        """Push a folder to many repositories, each of a hub."""
        started = {target: self.start(path, *target) for target in targets}
        return {target: done.result() for target, done in started.items()}

    def _read(self) -> None:
        for line in self._process.stdout:
            number, *outcome = json.loads(line)
            self._waiting.pop(number).set_result(Outcome(*outcome))
        for done in self._waiting.values():
            done.set_exception(RuntimeError("the process that pushes has ended"))
