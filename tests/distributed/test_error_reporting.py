"""Of many ranks one speaks: the first by right, or the one whose error came first, by name; and nobody is hurried."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.cli_ranks import command, slow_to_prepare
from support.ranks import run_ranks

from thinktune.checkpoint import store as checkpoint
from thinktune.errors import Stopped

NAME = f"rank 1 of 2 on {socket.gethostname()}: "


@pytest.fixture
def recipe(tree, tmp_path):
    def write(**changes):
        path = tmp_path / "mine.yaml"
        made = {
            section: {**values, **changes.get(section, {})} if isinstance(values, dict) else values
            for section, values in tree.items()
        }
        path.write_text(json.dumps(made), encoding="utf-8")
        return str(path)

    return write


def errors(said):
    """What was said that is not how far the run is."""
    lines = " ".join(said.split()).partition("error: ")
    return lines[1] + lines[2]


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        ("user", 2, "rows.jsonl:3: answer: is empty; write one"),
        ("system", 2, "rows.jsonl: Permission denied; check the path, its permissions and the free disk space"),
    ],
)
def test_a_fault_of_one_rank_is_told_by_it_alone_and_by_name(recipe, fault, code, told):
    path = recipe()
    (led, leader), (ended, other) = run_ranks(2, command, path, fault, 1)
    assert (led, ended) == (1, code)
    assert errors(other) == f"error: {NAME}{told}"
    assert "error" not in leader, leader
    assert "Traceback" not in leader + other
    summary = json.loads(Path(f"{path}.1.json").read_text())["message"]["extraInfo"]["py_callstack"]
    assert summary.startswith(NAME), summary
    assert not Path(f"{path}.0.json").exists(), "torchrun is to name the cause, not who was taken along"


def test_a_fault_that_all_ranks_have_is_told_once_and_by_nobodys_name(recipe):
    (led, leader), (ended, other) = run_ranks(2, command, recipe(data={"columns": {"reasoning": "thought"}}), "none", 0)
    assert (led, ended, other) == (2, 1, "")
    assert leader.count("error: ") == 1
    assert "thought" in leader
    assert "rank" not in leader


def test_a_bug_on_one_rank_shows_its_traceback_once_with_its_place(recipe):
    (led, leader), (ended, other) = run_ranks(2, command, recipe(), "unexpected", 1)
    assert (led, ended) == (1, 1)
    assert other.count("Traceback") == 1
    assert "cli_ranks.py" in other
    assert other.rstrip().endswith(f"ValueError: a bug of ours\n{NAME[:-2]}")
    assert "Traceback" not in leader


def test_who_prepares_may_take_longer_than_a_rank_may_be_silent(recipe):
    (led, leader), (ended, other) = run_ranks(2, slow_to_prepare, recipe(), 5.0)
    assert (led, ended, other) == (0, 0, "")
    assert "final model: " in leader


def test_a_time_limit_is_no_failure_where_torchrun_would_start_again(monkeypatch):
    limit, signalled = Stopped("train.time_limit: stopped after step 4 of 9"), Stopped("SIGTERM: stopped after step 4")
    assert (limit.exit_code, signalled.exit_code) == (75, 75)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert (limit.exit_code, signalled.exit_code) == (75, 75)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert (limit.exit_code, signalled.exit_code) == (0, 75)


def handed_over(recipe, cwd):
    code = f"from pathlib import Path\nfrom thinktune.train.launcher import hand_over\nraise SystemExit(hand_over(2, Path({recipe!r}), []))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], cwd=cwd, env=environment, text=True, **pipes)


def test_handing_over_ends_as_the_first_failure_did_and_torchrun_is_silent(recipe, tmp_path):
    done = handed_over(recipe(data={"columns": {"reasoning": "thought"}}), tmp_path)
    said, wrong = done.communicate(timeout=240)
    assert done.returncode == 2, wrong
    assert wrong.count("error: ") == 1
    assert all(word not in said + wrong for word in ("Traceback", "ChildFailedError", "exitcode", "FAILED"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_one_that_was_started_reaches_all_who_save_and_end(recipe, tree, tmp_path, number):
    done = handed_over(recipe(train={"epochs": 2000}), tmp_path)
    folder = Path(tree["runs_folder"]) / "small"
    ends = time.monotonic() + 200
    while not (folder / "last").exists() and time.monotonic() < ends:
        time.sleep(0.1)
    done.send_signal(number)
    said, wrong = done.communicate(timeout=100)
    assert done.returncode == 75, wrong
    assert "stopped after step" in wrong
    assert all(word not in said + wrong for word in ("Traceback", "ChildFailedError", "lost the other"))
    checkpoint.verify(checkpoint.find_checkpoint(folder, "last"), with_state=True)
