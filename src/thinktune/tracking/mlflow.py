"""Send a run to an MLflow server. Whatever fails there raises here, in the tracker's own process."""

import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinktune.config import TrackConfig
from thinktune.errors import redact
from thinktune.run import RunFolder
from thinktune.tracking.identity import DEFAULT_PROJECT, keep_run_id, read_run_id
from thinktune.tracking.records import LossCurves, Scalars, TextEntries, TrackerEntry

URI_VARIABLE = "MLFLOW_TRACKING_URI"
BATCH_PARAMETERS = 100  # that MLflow's REST interface takes at once
PARAMETER_CHARACTERS = 6000  # of a value; the rest of a longer one is left out there
STATES = {"success": "FINISHED", "aborted": "KILLED", "crashed": "FAILED"}


class MLflow:
    """An open run at an MLflow server; a resumed run is the same run there, and gets only what it does not have."""

    mode = "server"

    def __init__(self, run: Path, _mode: str, settings: TrackConfig, facts: dict[str, Any]) -> None:
        """Open the run; raises ImportError without the package, and whatever MLflow raises: no server, no right."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of many minutes otherwise
        mlflow: Any = importlib.import_module("mlflow")
        address = os.environ.get(URI_VARIABLE) if settings.mlflow == "auto" else settings.mlflow
        if not address:
            raise ValueError(f"track.mlflow is auto, and {URI_VARIABLE} is not set; set it to the server's address")
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._client: Any = mlflow.MlflowClient(tracking_uri=address)
        RunFolder(run).tracker("mlflow").mkdir(exist_ok=True)
        self._id = read_run_id(run, "mlflow") or self._create(run, settings)
        self._steps: dict[str, int] = {}  # the last step that the server had of each chart when the run was opened
        self._client.update_run(self._id, status="RUNNING")
        known = self._client.get_run(self._id)
        self._log_parameters(facts, known.data.params)
        self.folder = self.location = f"{address.rstrip('/')}/#/experiments/{known.info.experiment_id}/runs/{self._id}"

    def log(self, entry: TrackerEntry) -> None:
        """Log what the server does not have yet; it draws both losses on one chart by itself when both are chosen."""
        match entry:
            case Scalars(step, values):
                now = int(1000 * time.time())
                new = [
                    self._entities.Metric(name, value, now, step)
                    for name, value in values.items()
                    if step > self._last_step(name)
                ]
                self._client.log_batch(self._id, metrics=new)  # one request a step, not one a metric
            case TextEntries(step, name, texts):
                self._client.log_text(self._id, "\n\n---\n\n".join(texts), f"{name}/step-{step:06}.txt")
            case LossCurves():
                pass

    def close(self, state: str) -> None:
        """End the run."""
        self._client.set_terminated(self._id, STATES.get(state, "FAILED"))

    def _create(self, run: Path, settings: TrackConfig) -> str:
        project = settings.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_PROJECT
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        made = self._client.create_run(experiment, run_name=redact(run.name))
        return keep_run_id(run, "mlflow", made.info.run_id)

    def _last_step(self, name: str) -> int:
        if name not in self._steps:
            history = self._client.get_metric_history(self._id, name)
            self._steps[name] = max((metric.step for metric in history), default=-1)
        return self._steps[name]

    def _log_parameters(self, facts: dict[str, Any], had: dict[str, str]) -> None:
        """Log the run's settings and facts, each by its path; one that the server has stays as it is there."""
        new = [
            self._entities.Param(name, text[:PARAMETER_CHARACTERS])
            for name, text in _flatten(facts, "")
            if name not in had
        ]
        for start in range(0, len(new), BATCH_PARAMETERS):
            self._client.log_batch(self._id, params=new[start : start + BATCH_PARAMETERS])


def _flatten(tree: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _flatten(value, f"{place}.{key}" if place else str(key))
    else:
        yield place, str(tree)
