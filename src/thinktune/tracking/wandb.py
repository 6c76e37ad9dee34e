"""Send a run to Weights & Biases. Whatever fails there raises here, in the tracker's own process."""

import importlib
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from thinktune.config import TrackConfig
from thinktune.errors import redact
from thinktune.run import RunFolder
from thinktune.tracking.identity import DEFAULT_PROJECT, make_run_id
from thinktune.tracking.records import LOSS_CHART, LossCurves, Scalars, TextEntries, TrackerEntry

MODES = {"cloud": "online", "offline": "offline"}
PUBLIC_URL = "https://api.wandb.ai"


class WeightsAndBiases:
    """An open run at W&B, or its files for a later `wandb sync`; a resumed run has the same id there."""

    def __init__(self, run: Path, mode: str, settings: TrackConfig, facts: dict[str, Any]) -> None:
        """Open the run; raises ImportError without the package, and whatever W&B raises: no key, no network."""
        wandb: Any = importlib.import_module("wandb")  # seconds, so only where it is used
        folder = RunFolder(run).tracker("wandb")
        folder.mkdir(exist_ok=True)
        watched = settings.machine
        wandb_settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=not watched,
            x_disable_meta=not watched,
            x_disable_stats=not watched,
            x_disable_machine_info=not watched,
        )
        self.mode = mode if mode != "auto" else "cloud" if _has_key() else "offline"
        if self.mode == "cloud" and not _has_key():  # W&B says this in many lines
            raise ValueError("no API key was provided; set WANDB_API_KEY, or run wandb login")
        self._wandb = wandb
        self._run: Any = wandb.init(
            mode=MODES[self.mode],
            project=settings.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            name=redact(run.name),
            id=make_run_id(run, "wandb"),
            resume="allow",
            dir=str(folder),
            config=facts,
            settings=wandb_settings,
        )
        self.location = str(self._run.url) if self.mode == "cloud" else self.folder

    @property
    def folder(self) -> str:
        """Return the folder of W&B's own copy, from which `wandb sync` uploads."""
        return str(self._run.settings.sync_dir)

    def log(self, entry: TrackerEntry) -> None:
        """Log an entry; W&B ignores steps before the last one that it has."""
        match entry:
            case Scalars(step, values):
                self._run.log(dict(values), step=step)
            case TextEntries(step, name, texts):
                table = self._wandb.Table(columns=["text"], data=[[text] for text in texts])
                self._run.log({name: table}, step=step)
            case LossCurves(step, train, evaluated):
                self._run.log({LOSS_CHART: self._chart(train, evaluated)}, step=step)

    def close(self, state: str) -> None:
        """Upload what is left and end the run; waits as long as W&B does."""
        self._run.finish(exit_code=0 if state == "success" else 1)

    def _chart(self, *lines: tuple[tuple[int, float], ...]) -> Any:
        kept = [(name, line) for name, line in zip(("train", "eval"), lines, strict=True) if line]
        return self._wandb.plot.line_series(
            xs=[[step for step, _ in line] for _, line in kept],
            ys=[[loss for _, loss in line] for _, line in kept],
            keys=[name for name, _ in kept],
            title=LOSS_CHART,
            xname="step",
        )


def _has_key() -> bool:
    """Return True if there is a key in the environment, or a login on this machine, which W&B keeps in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or PUBLIC_URL).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
