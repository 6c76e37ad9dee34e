"""Trackers get the same records, and no failure of a tracker stops or stalls a run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.swanlab_server import KEY, Server
from support.tracked_run import GOLDEN, TIMEOUTS, entries, follow, golden, golden_scalars, write, write_run

from thinktune.config.schema import TrackConfig
from thinktune.tracking import trackers
from thinktune.tracking.records import (
    TextEntries,
    run_config,
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Write a run folder with a journal, without any key, login or settings of the user who runs the tests."""
    for name in [name for name in os.environ if name.startswith("SWANLAB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SWANLAB_ROOT", str(tmp_path / "no-login"))
    return write_run(tmp_path)


def test_records_become_the_entries_of_the_golden_file(run):
    assert json.loads(json.dumps(entries(run))) == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_facts_hold_the_recipe_and_counts_but_neither_rows_nor_the_machine_unless_asked(run):
    config = run_config(run, include_machine=False)
    assert config["recipe"]["train"]["epochs"] == 2
    assert config["data"] == {"rows_read": 9}
    assert config["run"] == {"model": "m", "steps": 4}
    assert run_config(run, include_machine=True)["run"]["command"] == "thinktune train x"


def test_tensorboard_holds_the_same_records_and_both_losses_on_one_chart(run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):  # again, as a run that goes on does: nothing is double
        said = follow(run, TrackConfig(tensorboard=True))
    assert said == [f"TensorBoard: view it with: tensorboard --logdir {run / 'tensorboard'}"]
    events = accumulator.EventAccumulator(str(run / "tensorboard"), {"scalars": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    assert {
        tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags["scalars"]
    } == golden_scalars()
    written = [
        ["TextEntries", event.step, tag, [text.decode() for text in event.tensor_proto.string_val]]
        for tag in ("event", "Prediction")
        for event in events.Tensors(tag)
    ]
    assert sorted(written) == sorted(golden(TextEntries))
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"^train/loss$" in layout
    assert b"^eval/loss$" in layout
    assert "epochs: 2" in events.Tensors("facts")[0].tensor_proto.string_val[0].decode()


@pytest.fixture
def cloud(run, monkeypatch):
    monkeypatch.setenv("SWANLAB_API_KEY", KEY)
    with Server() as server:
        yield server


def test_the_cloud_gets_the_same_records_and_a_run_that_goes_on_is_the_same_run(run, cloud):
    settings = TrackConfig(swanlab="cloud", host=cloud.url)
    (run / "eval" / "report.json").unlink()
    said = follow(run, settings)
    assert len(said) == 1
    assert "/@someone/thinktune/runs/" in said[0]
    seen = {name: values for name, values in golden_scalars().items() if not name.startswith("evaluation")}
    assert {name: {step: data[0] for step, data in kept.items()} for name, kept in cloud.scalars.items()} == seen
    assert cloud.media.keys() == {"Prediction", "event", "loss/train and eval"}
    follow(run, settings, lambda: write(run, 6))
    assert len(set(cloud.runs)) == 1
    assert len(cloud.runs) == 2
    assert list(cloud.scalars["train/loss"]) == [2, 4, 6]
    assert all(len(data) == 1 for kept in cloud.scalars.values() for data in kept.values()), "a figure was sent twice"
    assert cloud.states == ["FINISHED", "FINISHED"]
    stored = b"\n".join(cloud.files.values()).decode()
    for _, step, name, kept in golden(TextEntries):
        assert all(text in stored for text in kept), (step, name)
    charts = [json.loads(body) for path, body in cloud.files.items() if path.endswith(".json")]
    assert {line["name"] for chart in charts for line in chart["series"]} == {"train", "eval"}


def test_neither_the_machine_nor_the_key_is_written_anywhere(run, cloud):
    follow(run, TrackConfig(swanlab="cloud", host=cloud.url))
    sent = b"\n".join([*cloud.bodies, *cloud.files.values()])
    kept = b"\n".join(
        path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "environment.json"
    )
    for secret in (
        os.uname().nodename,
        "thinktune train x",
        "pydantic==",
        "a private row",
        str(os.cpu_count()) + " cores",
    ):
        if len(secret) > 3:
            assert secret.encode() not in sent, secret
    assert KEY.encode() not in sent + kept
    assert "epochs" in json.dumps(cloud.profiles)


def test_no_secret_of_settings_command_or_git_is_kept_or_shown_to_other_users(run):
    address = "https://me:hunter2@swan.example"
    subprocess.run(["git", "init", "-q", str(run)], check=True)
    subprocess.run(["git", "-C", str(run), "remote", "add", "origin", f"{address}/rows.git"], check=True)
    (run / "recipe.yaml").write_text(f"name: run-1\ntrack: {{host: '{address}'}}\n", encoding="utf-8")
    (run / "environment.json").write_text(json.dumps({"model": address, "command": f"thinktune {address}"}))
    commands = []

    def look():
        until(lambda: len(list(children())) == 2)
        commands.extend(Path(f"/proc/{child}/cmdline").read_bytes() for child in children())

    settings = TrackConfig(swanlab="offline", tensorboard=True, machine=True, host=address)
    follow(run, settings, look)
    kept = {
        path.relative_to(run): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.parent.name != ".git" and path.name not in ("recipe.yaml", "environment.json")
    }
    assert any(b"swan.example" in content for content in kept.values())
    assert [path for path, content in kept.items() if b"hunter2" in content] == []
    assert len(commands) == 2
    assert not [command for command in commands if b"hunter2" in command]
    assert run_config(run, include_machine=True)["recipe"]["track"]["host"] == "https://me:***@swan.example"


def test_a_wrong_key_keeps_the_run_offline_and_reports_how_to_upload_it_later(run, cloud):
    cloud.behaviour = "refuses"
    said = follow(run, TrackConfig(swanlab="cloud", host=cloud.url))
    assert "AuthenticationError" in said[0]
    assert "training continues, and everything is kept offline" in said[0]
    assert "swanlab sync --id" in said[1]
    assert len(said) == 2
    cloud.behaviour = "accepts"
    sync = said[1].partition("swanlab sync ")[2].split()
    subprocess.run(
        [sys.executable, "-m", "swanlab", "sync", "--project", "thinktune", *sync],
        check=True,
        capture_output=True,
        cwd=run,
        timeout=120,
    )
    assert {
        name: {step: data[0] for step, data in kept.items()} for name, kept in cloud.scalars.items()
    } == golden_scalars()


@pytest.mark.slow
def test_a_server_that_hangs_is_given_up_after_its_timeout(run, cloud):
    cloud.behaviour = "hangs"
    started = time.monotonic()
    said = follow(
        run,
        TrackConfig(swanlab="cloud", host=cloud.url),
        timeouts=trackers.Timeouts(start_seconds=8, finish_seconds=20),
    )
    assert time.monotonic() - started < 28
    assert said[0] == "SwanLab: did not answer within 8 s; training continues, and everything is kept offline"
    assert "kept offline" in said[1]


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_costs_the_run_nothing_and_the_rest_can_be_sent(run, cloud):
    def die_when_started():
        until(lambda: "train/loss" in cloud.scalars)
        cloud.die()
        write(run, 6)

    said = follow(
        run,
        TrackConfig(swanlab="cloud", host=cloud.url),
        die_when_started,
        trackers.Timeouts(start_seconds=30, finish_seconds=4),
    )
    assert len(said) == 2
    assert "had not uploaded everything 4 s after the run's end; upload the rest with: swanlab sync --id" in said[1]


def test_a_killed_tracker_is_reported_once_and_the_block_goes_on(run):
    def kill():
        until(lambda: list((run / "tensorboard").glob("events*")))
        for process in children():
            os.kill(process, 9)
        until(lambda: len(said) == 2)

    said = []
    with trackers.run_trackers(run, TrackConfig(tensorboard=True), said.append, TIMEOUTS):
        kill()
    assert said[1] == "TensorBoard: stopped unexpectedly; training continues"


@pytest.mark.parametrize("mode", ["auto", "offline", "local"])
def test_without_a_key_there_is_no_prompt_and_files_are_kept(run, monkeypatch, mode):
    monkeypatch.setenv("SWANLAB_PROJECT", "mine")  # crashes SwanLab's settings where it reaches them
    said = follow(run, TrackConfig(swanlab=mode))
    assert len(said) == 1
    assert ("swanlab watch" if mode == "local" else "swanlab sync") in said[0]
    stored = next((run / "swanlab").glob("run-*/files/config.yaml"))
    assert yaml.safe_load(stored.read_text(encoding="utf-8"))["recipe"]["value"]["train"]["epochs"] == 2


def test_cloud_without_a_key_does_not_prompt(run):
    said = follow(run, TrackConfig(swanlab="cloud"))
    assert "no API key was provided" in said[0]
    assert "kept offline" in said[1]


def test_off_starts_nothing(run):
    assert follow(run, TrackConfig()) == []
    assert not (run / "swanlab").exists()


def children():
    parent = os.getpid()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and b"thinktune.tracking.worker" in (status.parent / "cmdline").read_bytes():
            yield int(status.parent.name)


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)
