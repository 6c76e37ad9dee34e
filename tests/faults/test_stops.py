"""Signals and time limits: everything is saved after the current step, and the exit code shows it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.runs import quiet, settings, stop_in_step

from thinktune.checkpoint import store
from thinktune.cli import main
from thinktune.errors import Stopped, UserError
from thinktune.run.status import read_status
from thinktune.train import train
from thinktune.train.interrupt import StopRequest, parse_duration_seconds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_the_step_it_came_in_and_exits_with_75(tree, tmp_path, monkeypatch, capsys, tried, number):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["thinktune", "train", str(recipe)])
    before = signal.getsignal(number)
    stop_in_step(monkeypatch, 4, number)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 75
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert f"{name}: stopped after step 4 of 9" in capsys.readouterr().err
    kept = store.find_checkpoint(Path(tree["runs_folder"]) / "small", "last")
    store.verify(kept, with_state=True)
    assert kept.step == 4
    assert signal.getsignal(number) == before
    tried(f"{number.name} during a step")


def test_finish_ends_a_stopped_run_with_its_best_checkpoint_and_makes_no_step(tree, monkeypatch):
    with pytest.raises(UserError, match=r"--finish: .*small has no checkpoint yet; leave it out"):
        train(settings(tree), quiet, finish=True)
    with monkeypatch.context() as patch:
        stop_in_step(patch, 7)
        with pytest.raises(Stopped, match="add --finish to it to end the run here with its best checkpoint"):
            train(settings(tree), quiet)
    steps, said = [], []
    monkeypatch.setattr("thinktune.train.loop.step", lambda *given: steps.append(given))
    folder = train(settings(tree), said.append, finish=True)
    best = store.find_checkpoint(folder, "best")
    assert not steps
    assert best.step in (3, 6)  # the evaluated ones
    assert store.model_step(folder / "final") == best.step
    assert "stopped after step 7 of 9 because of --finish; without it, the same command trains on" in said
    monkeypatch.undo()
    train(settings(tree), quiet)  # it can still be trained to the end
    assert store.find_checkpoint(folder, "last").step == 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", ["prepare", "load_model"])
def test_a_signal_while_rows_or_weights_load_exits_with_75_and_the_next_start_is_whole(
    tree, tmp_path, monkeypatch, capsys, tried, number, place
):
    from thinktune.train import setup

    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["thinktune", "train", str(recipe)])
    real = getattr(setup, place)

    def loading(*given, **options):
        loaded = real(*given, **options)
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        except Exception:  # as libraries swallow what fails in them
            pytest.fail("the stop was taken for an error of the library")
        return loaded

    with monkeypatch.context() as patch:
        patch.setattr(setup, place, loading)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 75
    assert f"{number.name}: stopped while loading rows and weights" in capsys.readouterr().err
    assert train(settings(tree), quiet).joinpath("final").is_dir()
    tried(f"{number.name} in {place}")


def test_a_signal_before_training_takes_over_exits_with_75(monkeypatch, capsys):
    import thinktune.cli

    def terminated(*_given):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("sys.argv", ["thinktune", "train", "mine.yaml"])
    monkeypatch.setattr(thinktune.cli, "_load_recipe", terminated)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 75
    assert capsys.readouterr().err == "SIGTERM: stopped; run the same command to resume from the last checkpoint\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(number):
    """As SIGHUP is under nohup, and SIGINT where a script starts the run in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        stop = StopRequest(None)
        with stop.catch_signals():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        assert stop.reason is None
    finally:
        signal.signal(number, before)


def test_a_stop_is_heard_where_the_terminal_is_gone(monkeypatch):
    def gone(_number, _text):
        raise OSError(5, "Input/output error")

    stop = StopRequest(None)
    monkeypatch.setattr("thinktune.train.interrupt.os.write", gone)
    with stop.catch_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
    assert stop.reason == "SIGHUP"


@pytest.mark.slow
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
    assert (made.returncode, made.stdout) == (130, "Ctrl-C\n")
    assert made.stderr.splitlines() == [
        "Ctrl-C: saving after this step; press it again to exit at once without saving",
        "stopped; run the same command to resume from the last checkpoint",
    ]
    tried("SIGINT twice", "the steps since the last checkpoint, as was asked")


def test_a_run_that_a_second_ctrl_c_ended_was_stopped_and_has_not_died(tree, tmp_path, monkeypatch, tried):
    from thinktune.train import interrupt, loop

    def exit_at_once(_code):
        raise GeneratorExit  # as `os._exit`, nothing that follows an Exception is done

    def pressed_twice(*given):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return real_step(*given)

    real_step = loop.step
    monkeypatch.setattr(interrupt.os, "_exit", exit_at_once)
    monkeypatch.setattr(loop, "step", pressed_twice)
    recipe = settings(tree)
    with pytest.raises(GeneratorExit):
        train(recipe, quiet)
    status = read_status(recipe.run_folder)
    assert (status.state, status.reason) == ("stopped", "Ctrl-C")
    monkeypatch.setattr(loop, "step", real_step)
    assert read_status(train(recipe, quiet)).state == "finished"


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
