"""SwanLab as a sink. Everything that can go wrong in it raises here, in a process of its own."""

import importlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from thinktune.config import TrackConfig
from thinktune.files import atomic_write_text
from thinktune.tracking.records import LOSS_CHART, LossCurves, Scalars, TextEntries, TrackerEntry

MODES = {"cloud": "online", "local": "local", "offline": "offline"}


DEFAULT_PROJECT = "thinktune"


class SwanLab:
    """An open SwanLab run; the same run of ours is always the same run there, because its id is kept in its folder."""

    def __init__(self, run: Path, mode: str, settings: TrackConfig, facts: dict[str, Any]) -> None:
        """Open it; raises whatever SwanLab raises: no key, a wrong one, no network."""
        # Read by its settings as a nested field, which crashes them; the name it wants is another.
        project = settings.project or os.environ.get("SWANLAB_PROJECT") or DEFAULT_PROJECT
        os.environ.pop("SWANLAB_PROJECT", None)
        swanlab: Any = importlib.import_module("swanlab")  # half a second, so only where it is used
        probes = ("hardware", "runtime", "requirements", "git", "swanlab", "monitor")
        wanted = swanlab.Settings(
            interactive=False,
            terminal=swanlab.Settings.Terminal(proxy_type="none"),
            probe=swanlab.Settings.Probe(**dict.fromkeys(probes, settings.machine)),
            **({"api_host": settings.host} if settings.host else {}),
        )
        self.mode = mode if mode != "auto" else "cloud" if wanted.api_key else "offline"
        folder = run / "swanlab"
        folder.mkdir(exist_ok=True)
        self._swanlab = swanlab
        self._run: Any = swanlab.init(
            mode=MODES[self.mode],
            project=project,
            name=run.name,
            id=run_id(run),
            resume="allow",
            log_dir=str(folder),
            config=facts,
            settings=wanted,
        )
        self.location = str(self._run.url) if self.mode == "cloud" else self.folder

    @property
    def folder(self) -> str:
        """Where SwanLab keeps its own copy, from which `swanlab sync` sends."""
        return str(self._run.dir)

    def log(self, entry: TrackerEntry) -> None:
        """Log an entry; what this step already has is left out by SwanLab itself."""
        match entry:
            case Scalars(step, values):
                self._run.log(dict(values), step=step)
            case TextEntries(step, name, texts):
                self._run.log({name: [self._swanlab.Text(text) for text in texts]}, step=step)
            case LossCurves(step):
                self._run.log({LOSS_CHART: self._swanlab.ECharts(_LossChart(entry))}, step=step)

    def close(self, state: str) -> None:
        """Send what is left and end the run; waits as long as SwanLab does."""
        self._run.finish(state=state, **({"error": "training stopped"} if state == "crashed" else {}))


def run_id(run: Path) -> str:
    """The id of a run at SwanLab, made once and kept in the run's folder."""
    kept = run / "swanlab" / "id"
    if not kept.is_file():
        atomic_write_text(kept, uuid.uuid4().hex + "\n")
    return kept.read_text(encoding="utf-8").strip()


class _LossChart:
    """An echarts line chart of both losses; SwanLab asks a chart for its options and for nothing else."""

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
