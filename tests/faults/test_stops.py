"""Signals and time limits: everything is saved after the current step, and the exit code shows it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.runs import quiet, settings, stop_in_step

from thinktune.checkpoint import store
from thinktune.cli import main
from thinktune.errors import Stopped
from thinktune.train import train
from thinktune.train.interrupt import StopRequest, parse_duration_seconds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_it_came_in_and_exits_with_75(tree, tmp_path, monkeypatch, capsys, tried, number):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["thinktune", "train", str(recipe)])
    before = signal.getsignal(number)
    stop_in_step(monkeypatch, 4, number)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 75
    assert f"{number.name}: stopped after step 4 of 9" in capsys.readouterr().err
    kept = store.find_checkpoint(Path(tree["runs_folder"]) / "small", "last")
    store.verify(kept, with_state=True)
    assert kept.step == 4
    assert signal.getsignal(number) == before
    tried(f"{number.name} during a step")


def test_a_second_ctrl_c_exits_at_once(tmp_path, tried):
    script = tmp_path / "waiting.py"
    script.write_text(
        "import os, signal, time\nfrom thinktune.train.interrupt import StopRequest\nstop = StopRequest(None)\n"
        "with stop.catch_signals():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    print(stop.reason, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n    print('still here')\n",
        encoding="utf-8",
    )
    made = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=50, check=False)
    assert (made.returncode, made.stdout) == (130, "SIGINT\n")
    tried("SIGINT twice", "the steps since the last checkpoint, as was asked")


def test_a_time_limit_saves_before_it_is_reached(tree, monkeypatch, tried):
    clock = time.monotonic
    ahead = [0.0]
    monkeypatch.setattr("thinktune.train.interrupt.time.monotonic", lambda: clock() + ahead[0])
    from thinktune.train import loop

    real_step = loop.step

    def slow(*given):
        ahead[0] += 1000
        return real_step(*given)

    monkeypatch.setattr(loop, "step", slow)
    recipe = settings(tree, train={"time_limit": "1.5h"})  # 5,400 s: five steps, and the sixth would end too late
    with pytest.raises(Stopped, match=r"train\.time_limit: stopped after step [45] of 9"):
        train(recipe, quiet)
    monkeypatch.setattr(loop, "step", real_step)
    longer = settings(tree, train={"time_limit": "9h"})
    assert store.find_checkpoint(train(longer, quiet), "last").step == 9
    tried("a time limit")


def test_a_time_limit_ends_an_evaluation_too():
    stop = StopRequest(0.2)
    started_at = time.monotonic()
    with stop.catch_signals(), pytest.raises(Stopped), stop.interruptible():
        evaluate_for(60)
    assert time.monotonic() - started_at < 50
    assert stop.reason == "train.time_limit"


def evaluate_for(seconds):
    """Work in many short pieces, as an evaluation does."""
    for _ in range(20 * seconds):
        time.sleep(0.05)


def test_durations_are_read_as_written(tree):
    assert [parse_duration_seconds(text) for text in ("600s", "90m", "3.5h", None)] == [600, 5400, 12600, None]
    with pytest.raises(Exception, match=r"train\.time_limit"):
        settings(tree, train={"time_limit": "3:50"})
