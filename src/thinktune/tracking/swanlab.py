"""Send a run to SwanLab. Whatever fails in SwanLab raises here, in the tracker's own process."""

import importlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from thinktune.config import TrackConfig
from thinktune.errors import redact
from thinktune.run import RunFolder
from thinktune.tracking.identity import DEFAULT_PROJECT, make_run_id
from thinktune.tracking.records import LOSS_CHART, LossCurves, Scalars, TextEntries, TrackerEntry

MODES = {"cloud": "online", "local": "local", "offline": "offline"}
# Its own variables and those of its releases and integrations, the first that is set first. SwanLab's settings would
# parse the last as a nested field and crash.
PROJECT_VARIABLES = ("SWANLAB_PROJ_NAME", "SWANLAB_PROJECT_NAME", "SWANLAB_PROJECT")


class SwanLab:
    """An open SwanLab run; a resumed run is the same run there, because its id is kept in its folder."""

    def __init__(self, run: Path, mode: str, settings: TrackConfig, facts: dict[str, Any]) -> None:
        """Open the run; raises whatever SwanLab raises: no key, a wrong one, no network."""
        _strip_quotes()
        named = [found for name in PROJECT_VARIABLES if (found := os.environ.get(name))]
        project = settings.project or next(iter(named), DEFAULT_PROJECT)
        os.environ.pop("SWANLAB_PROJECT", None)
        if settings.machine:
            mask_git_remote()
        swanlab: Any = importlib.import_module("swanlab")  # half a second, so only where it is used
        probes = ("hardware", "runtime", "requirements", "git", "swanlab", "monitor")
        swanlab_settings = swanlab.Settings(
            interactive=False,
            terminal=swanlab.Settings.Terminal(proxy_type="none"),
            probe=swanlab.Settings.Probe(**dict.fromkeys(probes, settings.machine)),
            **({"api_host": settings.host} if settings.host else {}),
        )
        self.mode = mode if mode != "auto" else _choose_mode(bool(swanlab_settings.api_key))
        folder = RunFolder(run).tracker("swanlab")
        folder.mkdir(exist_ok=True)
        self._swanlab = swanlab
        self._run: Any = swanlab.init(
            mode=MODES[self.mode],
            project=project,
            name=redact(run.name),
            id=make_run_id(run, "swanlab"),
            resume="allow",
            log_dir=str(folder),
            config=facts,
            settings=swanlab_settings,
        )
        self.location = str(self._run.url) if self.mode == "cloud" else self.folder

    @property
    def folder(self) -> str:
        """Return the folder of SwanLab's own copy, from which `swanlab sync` uploads."""
        return str(self._run.dir)

    def log(self, entry: TrackerEntry) -> None:
        """Log an entry; SwanLab ignores what it already has of this step."""
        match entry:
            case Scalars(step, values):
                self._run.log(dict(values), step=step)
            case TextEntries(step, name, texts):
                self._run.log({name: [self._swanlab.Text(text) for text in texts]}, step=step)
            case LossCurves(step):
                self._run.log({LOSS_CHART: self._swanlab.ECharts(_LossChart(entry))}, step=step)

    def close(self, state: str) -> None:
        """Upload what is left and end the run; waits as long as SwanLab does."""
        self._run.finish(state=state, **({"error": "training stopped"} if state == "crashed" else {}))


def mask_git_remote() -> None:
    """Let git name the remote without a password or token in its address: SwanLab keeps what git says."""
    try:
        done = subprocess.run(
            ["git", "config", "--get", "remote.origin.url"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):  # no git, and SwanLab learns nothing from it either
        return
    if (url := done.stdout.strip()) != (masked := redact(url)):
        os.environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "remote.origin.url", "GIT_CONFIG_VALUE_0": masked}


def _strip_quotes() -> None:
    """Take the quotes off SwanLab's variables, which .env files and Windows' `set` leave around a value."""
    for name in [name for name in os.environ if name.startswith("SWANLAB_")]:
        text = os.environ[name].strip()
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            os.environ[name] = text[1:-1].strip()


def _choose_mode(has_key: bool) -> str:
    """Choose where `auto` sends a run: where SWANLAB_MODE says, else to the cloud if there is a key or a login."""
    asked = {"online": "cloud"}.get(named := os.environ.get("SWANLAB_MODE", "").lower(), named)
    return asked if asked in MODES else "cloud" if has_key else "offline"


class _LossChart:
    """An echarts line chart of both losses; SwanLab calls nothing but its `dump_options`."""

    def __init__(self, losses: LossCurves) -> None:
        self._losses = losses

    def dump_options(self) -> str:
        lines = {"train": self._losses.train, "eval": self._losses.eval}
        return json.dumps(
            {
                "tooltip": {"trigger": "axis"},
                "legend": {"data": list(lines)},
                "xAxis": {"type": "value", "name": "step"},
                "yAxis": {"type": "value", "name": "loss", "scale": True},
                "series": [{"type": "line", "name": name, "data": points} for name, points in lines.items()],
            }
        )
