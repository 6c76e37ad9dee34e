"""W&B and MLflow get the same records as SwanLab; a resumed run is the same run there.

The slow ones need the packages wandb and mlflow-skinny, which `.ci/slow verbs` installs.
"""

import os

import pytest
from support.mlflow_server import MlflowServer
from support.tracked_run import follow, golden, golden_scalars, write, write_run

from thinktune.config.schema import TrackConfig
from thinktune.tracking.records import Scalars, TextEntries
from thinktune.tracking.swanlab import PROJECT_VARIABLES


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("WANDB", "MLFLOW"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return write_run(tmp_path)


@pytest.fixture
def server():
    pytest.importorskip("mlflow")
    with MlflowServer() as server:
        yield server


def charts(stored):
    """All metrics of a run as {chart: {step: value}}; a step that came twice fails."""
    found = {}
    for metric in stored.metrics:
        steps = found.setdefault(metric["key"], {})
        assert metric["step"] not in steps, metric
        steps[metric["step"]] = pytest.approx(metric["value"])
    return found


@pytest.mark.slow
def test_an_mlflow_server_gets_the_same_records_and_a_resumed_run_is_the_same_run(run, server):
    said = follow(run, TrackConfig(mlflow=server.url))
    assert said == [f"MLflow: {server.url}/#/experiments/1/runs/run0"]
    stored = server.runs["run0"]
    assert charts(stored) == golden_scalars()
    assert stored.info["status"] == "FINISHED"
    assert stored.info["run_name"] == "run-1"
    assert stored.params["recipe.train.epochs"] == "2"
    texts = [["TextEntries", 4, "event", [stored.artifacts["event/step-000004.txt"]]]]
    assert [entry for entry in golden(TextEntries) if entry[2] == "event"] == texts
    assert stored.artifacts["Prediction/step-000002.txt"].count("[question]") == 2

    write(run, 6)
    follow(run, TrackConfig(mlflow=server.url))
    assert list(server.runs) == ["run0"]
    assert charts(stored)["train/loss"].keys() == {2, 4, 6}


@pytest.mark.slow
def test_auto_is_the_server_that_the_variable_names(run, server, monkeypatch):
    said = follow(run, TrackConfig(mlflow="auto"))
    assert "MLFLOW_TRACKING_URI is not set" in said[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "medicine")
    follow(run, TrackConfig(mlflow="auto"))
    assert server.experiments == {"medicine": "1"}


@pytest.mark.slow
def test_an_mlflow_server_that_refuses_costs_the_run_nothing(run, server):
    server.refuses = True
    said = follow(run, TrackConfig(mlflow=server.url))
    assert len(said) == 1
    assert "no right to write here" in said[0]
    assert "training continues" in said[0]


@pytest.mark.slow
def test_wandb_keeps_the_same_records_offline_under_one_id(run):
    pytest.importorskip("wandb")
    said = follow(run, TrackConfig(wandb="auto"))
    assert said[0].startswith("W&B: kept offline; upload it later with: wandb sync ")
    run_id = (run / "wandb" / "id").read_text().strip()
    follow(run, TrackConfig(wandb="offline"))
    logs = sorted((run / "wandb" / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert len(logs) in (1, 2)  # two within a second share a folder
    kept = logs[0].read_bytes()
    for name in {name for _, _, values in golden(Scalars) for name in values}:
        assert name.encode() in kept
    assert b"Prediction" in kept
    assert b"private row" not in kept


@pytest.mark.slow
def test_wandb_in_the_cloud_without_a_key_does_not_prompt(run):
    pytest.importorskip("wandb")
    said = follow(run, TrackConfig(wandb="cloud"))
    assert "no API key was provided; set WANDB_API_KEY" in said[0]
    assert "kept offline" in said[1]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_named_once(run, monkeypatch, tmp_path, package):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package}')")
    monkeypatch.syspath_prepend(str(tmp_path / "shadow"))
    said = follow(run, TrackConfig.model_validate({package: "offline" if package == "wandb" else "http://127.0.0.1:9"}))
    assert len(said) == 1
    assert f"No module named {package}" in said[0]


@pytest.mark.parametrize("name", PROJECT_VARIABLES)
def test_swanlabs_own_variables_are_understood_in_quotes_too(run, monkeypatch, name):
    monkeypatch.setenv(name, '"quoted"')
    monkeypatch.setenv("SWANLAB_MODE", "'local'")
    said = follow(run, TrackConfig(swanlab="auto"))
    assert "swanlab watch" in said[0]
    assert any(b"quoted" in path.read_bytes() for path in (run / "swanlab").rglob("*") if path.is_file())
