"""Runs in lists and one by one: true, live, quick for ten thousand, and stopped whoever started them."""

import json
import os
import subprocess
import sys
import time

import httpx
import pytest
from support.recorded_run import write_run
from support.studio import studio_of

from thinktune.run import RunFolder
from thinktune.run.journal import append
from thinktune.run.status import read_status
from thinktune.studio.run_summary import quick_state, read_summary

RECIPE = "model: {name: a/b}\ndata: {name: rows.jsonl}\n"


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path / "runs" / "one", 1e-5)
    write_run(tmp_path / "runs" / "two", 2e-5)
    (tmp_path / "one.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def client(folder):
    with studio_of(folder) as address, httpx.Client(base_url=address) as client:
        yield client


def test_a_runs_line_says_what_its_folder_says(folder):
    (folder / "runs" / "one" / "environment.json").write_text(json.dumps({"model": "/models/Qwen3", "steps": 30}))
    line = read_summary(folder / "runs" / "one")
    assert (line["model"], line["rows"], line["steps"], line["step"]) == ("Qwen3", 35, 30, 9)
    assert (line["best_loss"], line["base_loss"]) == (pytest.approx(1.6), pytest.approx(3.1))
    assert line["right"] == {"measure": "right", "base": 0.25, "tuned": 0.75, "verdict": "better"}


@pytest.mark.parametrize("ending", [None, "stopped", "died"])
def test_the_quick_state_is_the_journals(folder, ending):
    run = folder / "runs" / "one"
    if ending:
        append(RunFolder(run).metrics, [{"kind": "event", "step": 9, "text": "x", "ending": ending, "reason": "x"}])
    assert quick_state(run) == read_status(run).state == (ending or "died")
    RunFolder(run).final.mkdir()
    assert quick_state(run) == read_status(run).state == "finished"


def test_runs_are_listed_sorted_and_searched(client, folder):
    os.utime(folder / "runs" / "one" / "metrics.jsonl", (1, 1))
    found = client.get("/studio/runs").json()
    assert [run["name"] for run in found["runs"]] == ["runs/two", "runs/one"]
    assert found["total"] == 2
    assert [run["name"] for run in client.get("/studio/runs?sort=name").json()["runs"]] == ["runs/one", "runs/two"]
    assert [run["name"] for run in client.get("/studio/runs?search=TWO").json()["runs"]] == ["runs/two"]
    assert client.get("/studio/runs?first=1&count=1&sort=-name").json()["runs"][0]["name"] == "runs/one"
    assert client.get("/studio/runs?count=100000").status_code == 400


def test_one_runs_facts_are_those_of_its_page_in_both_languages(client):
    facts = client.get("/studio/run/runs/one").json()
    assert (facts["state"], facts["recipe"], facts["step"]) == ("died", "one.yaml", 30)
    assert set(facts["verdict"]["name"]) == {"en", "zh"}
    assert facts["figures"][0]["value"]["en"].startswith("25")
    assert facts["events"] == [{"step": 9, "text": "a slow step"}]
    assert facts["command"].endswith("train one.yaml")
    samples = client.get("/studio/run-samples/runs/one").json()["samples"]
    assert [reply["step"] for reply in samples[0]["replies"]] == [20, 10]
    assert samples[0]["reference"]["answer"] == "先做胸片"
    charts = client.get("/studio/run-charts/runs/one").text
    assert charts.count("data-chart=") >= 5
    assert "<script" not in charts


def test_a_run_that_grows_is_told_as_it_grows(client, folder):
    journal = RunFolder(folder / "runs" / "one").metrics
    steps = []
    with client.stream("GET", "/studio/run-events/runs/one", timeout=20) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                steps.append(json.loads(line.removeprefix("data: "))["step"])
                if len(steps) == 3:
                    break
                append(journal, [{"kind": "train", "step": 30 + len(steps), "loss": 1.0}])
    assert steps == [30, 31, 32]


def test_the_stream_of_a_finished_run_ends(client, folder):
    RunFolder(folder / "runs" / "one").final.mkdir()
    with client.stream("GET", "/studio/run-events/runs/one", timeout=20) as stream:
        assert len([line for line in stream.iter_lines() if line.startswith("data: ")]) == 1


def test_a_run_that_a_terminal_started_is_stopped_from_the_page(client, folder):
    run = folder / "runs" / "one"
    code = f"""
import time
from pathlib import Path
from thinktune.run import lock_run
with lock_run(Path({str(run)!r})):
    print("begun", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        try:
            time.sleep(1)
            print("saved")
        except KeyboardInterrupt:
            pass
"""
    refused = client.post("/studio/run-stop/runs/one", json={})
    assert refused.status_code == 409
    assert "nothing to stop" in refused.json()["error"]["message"]
    trainer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout.readline() == "begun\n"
    facts = client.get("/studio/run/runs/one").json()
    assert (facts["state"], facts["stoppable"]) == ("running", True)
    refused = client.post("/studio/acts", json={"verb": "train", "recipe": "one.yaml"})
    assert refused.status_code == 409
    assert "being trained already" in refused.json()["error"]["message"]
    for _ in range(2):  # a double click: a second signal would end it without saving
        assert client.post("/studio/run-stop/runs/one", json={}).json() == {"stopping": True}
        time.sleep(0.3)
    assert client.get("/studio/run/runs/one").json()["stopping"]
    assert trainer.communicate(timeout=20)[0] == "saved\n"
    assert not RunFolder(run).process.exists()
    assert client.get("/studio/run/runs/one").json()["state"] == "died"


def test_the_navigation_leads_from_a_recipe_to_its_run_and_back(client, folder):
    for name in ("one.yaml", "runs/one"):
        found = client.get("/studio/navigation", params={"name": name}).json()
        assert (found["recipe"], found["run"], found["begun"]) == ("one.yaml", "runs/one", True)
        assert found["screens"]["plan"]["name"] == "one.yaml"
        assert found["screens"]["proof"] == {"name": "runs/one", "state": "finished"}
    (folder / "new.yaml").write_text(RECIPE)
    found = client.get("/studio/navigation?name=new.yaml").json()
    assert (found["begun"], found["screens"]["train"]["name"], found["screens"]["talk"]["name"]) == (
        False,
        "runs/new",
        None,
    )
    assert client.get("/studio/navigation?name=runs/new").json()["recipe"] == "new.yaml"
    assert client.get("/studio/navigation?name=rows.jsonl").json()["recipe"] is None


@pytest.mark.slow
def test_ten_thousand_runs_are_listed_quickly(tmp_path):
    for number in range(10_000):
        run = tmp_path / "runs" / f"run-{number:05d}"
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(f"name: run-{number:05d}\n{RECIPE}")
        (run / "metrics.jsonl").write_text('{"kind": "eval", "step": 3, "loss": 1.5}\n')
    with studio_of(tmp_path) as address, httpx.Client(base_url=address, timeout=60) as client:
        took = []
        for _ in range(3):
            began = time.monotonic()
            assert client.get("/studio/runs").json()["total"] == 10_000
            assert client.get("/studio/home").status_code == 200
            took.append(time.monotonic() - began)
        assert took[0] < 10
        assert took[2] < 1
