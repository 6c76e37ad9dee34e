"""One of many ranks reports: the main one, or the one that failed first, by name; slow ranks are waited for."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.cli_ranks import command, slow_main_rank
from support.ranks import run_ranks

from thinktune.checkpoint import store
from thinktune.distributed.world import _is_lost_peer
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
    """Return the printed errors, without progress lines."""
    lines = " ".join(said.split()).partition("error: ")
    return lines[1] + lines[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        pytest.param("user", 2, "rows.jsonl:3: answer: is empty; write one", marks=pytest.mark.slow),
        ("system", 2, "rows.jsonl: Permission denied; check the path, its permissions and the free disk space"),
    ],
)
def test_a_fault_of_one_rank_is_reported_by_it_alone_and_by_name(recipe, fault, code, message):
    path = recipe()
    (main_code, main_output), (other_code, other) = run_ranks(2, command, path, fault, 1)
    assert (main_code, other_code) == (1, code)
    assert errors(other) == f"error: {NAME}{message}"
    assert "error" not in main_output, main_output
    assert "Traceback" not in main_output + other
    summary = json.loads(Path(f"{path}.1.json").read_text())["message"]["extraInfo"]["py_callstack"]
    assert summary.startswith(NAME), summary
    assert not Path(f"{path}.0.json").exists(), "torchrun is to show the cause, not the ranks that failed because of it"


@pytest.mark.slow
def test_a_fault_that_all_have_is_reported_once_and_without_a_name(recipe):
    (main_code, main_output), (other_code, other) = run_ranks(
        2, command, recipe(data={"columns": {"reasoning": "thought"}}), "none", 0
    )
    assert (main_code, other_code, other) == (2, 1, "")
    assert main_output.count("error: ") == 1
    assert "thought" in main_output
    assert "rank" not in main_output


@pytest.mark.slow
def test_a_bug_on_one_rank_shows_its_traceback_once_with_its_rank(recipe):
    (main_code, main_output), (other_code, other) = run_ranks(2, command, recipe(), "unexpected", 1)
    assert (main_code, other_code) == (1, 1)
    assert other.count("Traceback") == 1
    assert "cli_ranks.py" in other
    assert other.rstrip().endswith(f"ValueError: a bug of ours\n{NAME[:-2]}")
    assert "Traceback" not in main_output


@pytest.mark.slow
def test_a_rank_may_prepare_for_longer_than_the_timeout(recipe):
    (main_code, main_output), (other_code, other) = run_ranks(2, slow_main_rank, recipe(), 5.0)
    assert (main_code, other_code, other) == (0, 0, "")
    assert "final model: " in main_output


def test_a_time_limit_is_no_failure_where_torchrun_would_restart(monkeypatch):
    limit, signalled = Stopped("train.time_limit: stopped after step 4 of 9"), Stopped("SIGTERM: stopped after step 4")
    assert (limit.exit_code, signalled.exit_code) == (75, 75)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert (limit.exit_code, signalled.exit_code) == (75, 75)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert (limit.exit_code, signalled.exit_code) == (0, 75)


def test_gloos_errors_are_those_of_a_lost_peer():
    """By the words of the installed torch: Gloo has no error class of its own."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def join(rank):
        return dist.ProcessGroupGloo(store.clone(), rank, 2, timeout=timedelta(seconds=1))

    with ThreadPoolExecutor(2) as ranks:
        groups = list(ranks.map(join, range(2)))
    with pytest.raises(RuntimeError) as raised:
        groups[0].allreduce(torch.ones(1)).wait()
    assert _is_lost_peer(raised.value)
    assert not _is_lost_peer(RuntimeError("shapes do not match"))


def start_launcher(recipe, cwd):
    code = f"from pathlib import Path\nfrom thinktune.train.launcher import launch_workers\nraise SystemExit(launch_workers(2, Path({recipe!r}), []))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], cwd=cwd, env=environment, text=True, **pipes)


@pytest.mark.slow
def test_the_launcher_ends_as_the_first_failure_did_and_torchrun_is_silent(recipe, tmp_path):
    done = start_launcher(recipe(data={"columns": {"reasoning": "thought"}}), tmp_path)
    said, wrong = done.communicate(timeout=240)
    assert done.returncode == 2, wrong
    assert wrong.count("error: ") == 1
    assert all(word not in said + wrong for word in ("Traceback", "ChildFailedError", "exitcode", "FAILED"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_reaches_all_ranks_which_save_and_end(recipe, tree, tmp_path, number):
    done = start_launcher(recipe(train={"epochs": 2000}), tmp_path)
    folder = Path(tree["runs_folder"]) / "small"
    ends = time.monotonic() + 200
    while not (folder / "last").exists() and time.monotonic() < ends:
        time.sleep(0.1)
    done.send_signal(number)
    try:
        said, wrong = done.communicate(timeout=100)
    finally:
        done.terminate()  # one that did not hear the signal would train on beside all later tests
    assert done.returncode == 75, wrong
    assert "stopped after step" in wrong
    assert all(word not in said + wrong for word in ("Traceback", "ChildFailedError", "lost the other"))
    store.verify(store.find_checkpoint(folder, "last"), with_state=True)
