"""An act of the studio that serves a model, with a server of the test behind it in the place of a process."""

import json
from contextlib import contextmanager

from filelock import FileLock

from support.api_server import serving

ID = "20261129-120000-serve-abc123"


@contextmanager
def served_act(folder, run, models, key=None):
    """Serve models as an act of a studio's folder would serve a run; yields the act's id."""
    act = folder / ".thinktune" / "acts" / ID
    act.mkdir(parents=True)
    with serving(models, root_path=f"/chat/{ID}", key=key) as address:
        record = {"verb": "serve", "argv": [], "about": {"run": run}, "command": "thinktune serve", "started_at": 1.0, "folder": str(folder)}  # fmt: skip
        (act / "act.json").write_text(json.dumps(record))
        (act / "process.json").write_text(json.dumps({"process": 0}))
        (act / "stdout").write_text(f"page: {address}/\nAPI:  {address}/v1\n")
        with FileLock(act / "lock"):
            yield ID
