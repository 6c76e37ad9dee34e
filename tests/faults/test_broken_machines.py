"""Errors of the disk, power cuts and signals, on whole runs: nothing saved is lost, and each run ends as if undisturbed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from support.runs import last_step, settings, small_tree

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def run_script(name, *arguments, **variables):
    """Run a script of this folder; return its exit code and its ledger."""
    done = subprocess.run(
        [sys.executable, str(HERE / name), *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, **variables},
    )  # fmt: skip
    if done.stdout.startswith("skip: "):
        pytest.skip(done.stdout.removeprefix("skip: ").strip())
    assert done.stdout.startswith("{"), done.stderr[-2000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_a_call_that_fails_costs_no_more_than_the_steps_since_the_last_checkpoint(tmp_path, tried):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler or sys.platform != "linux":
        pytest.skip("no C compiler, or not Linux: calls cannot be made to fail")
    library = tmp_path / "failing_calls.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "failing_calls.c", "-ldl"], check=True)
    code, ledger = run_script(
        "injected_errors.py", tmp_path, "--library", library, "--minutes", 15, LD_PRELOAD=str(library)
    )
    assert ledger["broken"] == []
    assert ledger["tracebacks"] == []
    assert code == 0
    assert ledger["injected"] >= 30
    at_once, stopped = ledger["ended_at_once"], ledger["ended_with_an_error"]
    tried(
        f"{ledger['injected']} failing system calls (write, fsync, rename, mkdir, open, mmap; 7 errors): {at_once} runs "
        f"went on, {stopped} ended with a sentence and resumed to the same bits"
    )


def test_power_cuts_lose_no_saved_step(tmp_path, tried):
    if os.geteuid() or not shutil.which("mkfs.ext4") or sys.platform != "linux":
        pytest.skip("no disk of our own: it needs root and mkfs.ext4")
    code, ledger = run_script("power_cuts.py", tmp_path, "--cuts", 60, "--minutes", 12)
    assert ledger["broken"] == []
    assert code == 0
    assert ledger["cuts"] >= 10
    tried(
        f"{ledger['cuts']} power cuts, {len(ledger['mounts'])} ways to mount ext4, {ledger['whole_runs']} runs ended "
        "bit for bit",
        f"nothing but {ledger['repeated_steps']} steps repeated, at most {ledger['most_repeated']} at a time",
    )


SIGNALS = ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGSTOP", "two SIGINT", "SIGTERM, SIGKILL"]
SENT = 32


def send(process, name, generator):
    """Send a signal, or two."""
    if name == "SIGSTOP":
        process.send_signal(signal.SIGSTOP)
        time.sleep(generator.uniform(0, 2))
        process.send_signal(signal.SIGCONT)
        return
    first, _, second = name.replace("two SIGINT", "SIGINT, SIGINT").partition(", ")
    process.send_signal(getattr(signal, first))
    if second:
        time.sleep(generator.uniform(0, 0.3))
        process.send_signal(getattr(signal, second))


def test_signals_to_the_installed_command_lose_nothing(tmp_path, tried, monkeypatch):
    sys.path.insert(0, str(HERE))
    from kills import broken_promises, differences

    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    tree = small_tree(tmp_path)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    installed = Path(sys.executable).with_name("thinktune")
    command = [str(installed)] if installed.exists() else [sys.executable, "-m", "thinktune"]
    said, wrong, generator = tmp_path / "said.txt", tmp_path / "wrong.txt", random.Random(1)

    def start(name):
        with said.open("w") as output, wrong.open("w") as errors:
            return subprocess.Popen([*command, "train", str(recipe), f"name={name}"], stdout=output, stderr=errors)

    assert start("whole").wait() == 0, wrong.read_text()
    whole, lines = settings(tree, name="whole").run_folder, said.read_text().count("\n")
    ends, sent, runs, repeated = Counter(), 0, 0, 0
    while sent < SENT or runs == 0:
        run = settings(tree, name=f"run-{runs}").run_folder
        before, kind, wanted = last_step(run), SIGNALS[sent % len(SIGNALS)], generator.randint(2, lines - 2)
        process = start(run.name)
        while sent < SENT and process.poll() is None and said.read_text().count("\n") < wanted:
            time.sleep(0.01)
        if sent < SENT and process.poll() is None:
            send(process, kind, generator)
            sent += 1
        code = process.wait(300)
        ends[f"{kind}: {code}"] += 1
        assert code in (0, 75, 130) or code < 0, (kind, code, wrong.read_text())
        assert "Traceback" not in wrong.read_text(), (kind, wrong.read_text())
        assert last_step(run) >= before
        if run.exists():
            assert broken_promises(run) == []
        if code == 0:
            assert differences(run, whole) == []
            runs += 1
        else:
            repeated += 1
    tried(
        f"{sent} signals to the installed command ({', '.join(SIGNALS)}), {runs} runs ended bit for bit, {repeated} resumed"
    )
    print(dict(ends))
