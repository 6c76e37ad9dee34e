"""The state of a run follows from its final model, its lock and the last line of its journal."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from thinktune.errors import UserError
from thinktune.run import RunFolder, journal, lock_run
from thinktune.run.resume import is_locked
from thinktune.run.status import RunStatus, read_status, record_ending

HOLD = "import sys, pathlib; from thinktune.run import lock_run\nwith lock_run(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.recipe.write_text("name: run\n", encoding="utf-8")
    journal.append(folder.metrics, [{"kind": "train", "step": 7, "loss": 2.0}])
    return folder.path


def test_a_process_that_holds_the_lock_runs_and_one_that_was_killed_died(run):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    assert read_status(run) == RunStatus("running", 7)
    holder.kill()
    holder.communicate()
    assert read_status(run) == RunStatus("died", 7)


def test_the_last_line_says_how_a_run_ended_and_only_the_last(run):
    record_ending(run, RunStatus("stopped", 9, "SIGTERM"))
    assert read_status(run) == RunStatus("stopped", 9, "SIGTERM")
    record_ending(run, RunStatus("died", 9, "no room for sk-abcdefghijklmnopqrst"))
    assert read_status(run) == RunStatus("died", 9, "no room for ***")
    journal.append(RunFolder(run).metrics, [{"kind": "train", "step": 10, "loss": 2.0}])
    assert read_status(run) == RunStatus("died", 10)
    RunFolder(run).final.mkdir()
    assert read_status(run) == RunStatus("finished", 10)


def test_asking_for_the_lock_leaves_nothing_behind_and_never_refuses_a_start(run):
    assert not is_locked(run)
    assert not RunFolder(run).lock.exists()
    asked = threading.Event()

    def ask():
        while not asked.is_set():
            is_locked(run)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(20):
            with lock_run(run):
                assert is_locked(run)
    finally:
        asked.set()
        asking.join()
    with lock_run(run), pytest.raises(UserError, match="another process is training in it"), lock_run(run):
        pass
