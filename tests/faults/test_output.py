"""Output that cannot be written: the run goes on to its end and says so in its journal."""

import errno
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import quiet, settings

from thinktune.checkpoint import store
from thinktune.cli import main
from thinktune.progress import Printer
from thinktune.run import RunFolder, journal
from thinktune.terminal import GuardedStream, guarded_output
from thinktune.train import train

LOST = "lines could not be printed"


def events(folder):
    return [record["text"] for record in journal.read_metrics(folder) if record["kind"] == "event"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(errno.EPIPE, "Broken pipe"),
     OSError(errno.EIO, "Input/output error"), ValueError("I/O operation on closed file")],
    ids=["full disk", "no reader", "terminal gone", "closed"],
)  # fmt: skip
@pytest.mark.parametrize("since", [0, 3])
def test_a_line_that_cannot_be_printed_costs_the_line_alone(tree, tried, error, since):
    def say(line):
        lines.append(line)
        if line.startswith(f"step {since}/") or not since or broken:
            broken.append(line)
            raise error

    lines, broken = [], []
    folder = train(settings(tree), say)
    assert store.find_checkpoint(folder, "last").step == 9
    assert RunFolder(folder).final.is_dir()
    [event] = [text for text in events(folder) if LOST in text]
    assert str(getattr(error, "strerror", None) or error) in event
    assert len(lines) > 5, "later lines are tried again"
    tried(f"lines that cannot be printed ({error})", "the lines")


def test_a_bar_that_cannot_be_drawn_costs_the_bar_alone(tree):
    def bar(_done, _total, _left):
        raise OSError(errno.EIO, "Input/output error")

    folder = train(settings(tree), quiet, bar=bar)
    assert [LOST in text for text in events(folder)] == [True]


def test_a_run_whose_lines_are_printed_has_no_such_event(tree):
    assert events(train(settings(tree), quiet)) == []


def test_a_guarded_stream_loses_text_and_keeps_the_first_reason(monkeypatch):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        with guarded_output():
            assert isinstance(sys.stdout, GuardedStream)
            print("lost", flush=True)
            print("lost as well", flush=True)
            assert sys.stdout.output_failure.errno == errno.ENOSPC
            printer = Printer(print)
            printer.say("x")
            assert "No space left on device" in printer.take_failure()
            assert printer.take_failure() is None
        assert sys.stdout is full
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["", "json"])
def test_check_whose_result_cannot_be_written_says_so_and_exits_with_2(tree, monkeypatch, capsys, as_json):
    recipe = Path(tree["data"]["name"]).with_name("mine.yaml")
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["thinktune", "check", str(recipe), *as_json])
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(SystemExit) as ended:
            main()
        monkeypatch.undo()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.endswith("standard output: No space left on device; what was printed after that is missing there\n")
    assert "Traceback" not in said


def test_a_reader_that_left_costs_check_nothing(tree, monkeypatch, capsys):
    recipe = Path(tree["data"]["name"]).with_name("mine.yaml")
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["thinktune", "check", str(recipe)])
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as gone:  # noqa: PTH123 (a file descriptor)
        monkeypatch.setattr("sys.stdout", gone)
        with pytest.raises(SystemExit) as ended:
            main()
        monkeypatch.undo()
    assert ended.value.code == 0
    assert "standard output" not in capsys.readouterr().err


def command(tree, *more):
    recipe = Path(tree["data"]["name"]).with_name("mine.yaml")
    recipe.write_text(json.dumps(tree), encoding="utf-8")
    return [sys.executable, "-m", "thinktune", "train", str(recipe), *more]


def finished(tree, code, name="small"):
    folder = Path(tree["runs_folder"]) / name
    assert code == 0
    assert RunFolder(folder).final.is_dir()
    return [text for text in events(folder) if LOST in text]


@pytest.mark.slow
def test_a_real_process_outlives_a_full_disk_a_gone_reader_and_closed_streams(tree, tried):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(command(tree, "name=full"), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert len(finished(tree, done.returncode, "full")) == 1
    assert "Traceback" not in done.stderr
    assert "standard output: No space left on device" in done.stderr
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(command(tree, "name=both"), stdout=full, stderr=full, check=False)
    assert len(finished(tree, done.returncode, "both")) == 1
    with subprocess.Popen(command(tree, "name=head"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.readline()
        run.stdout.close()
        said = run.stderr.read()
        run.wait()
    assert len(finished(tree, run.returncode, "head")) == 1
    assert b"Traceback" not in said
    assert b"standard output" not in said
    shell = " ".join(command(tree, "name=closed")) + " >&- 2>&- <&-"
    assert finished(tree, subprocess.run(shell, shell=True, check=False).returncode, "closed") == []
    tried("/dev/full, a reader that left, closed streams, on real processes", "the lines")


@pytest.mark.slow
def test_a_terminal_that_hangs_up_stops_the_run_whole_or_not_at_all_under_nohup(tree, tried):
    for name, ignored, code in (("hung", False, 75), ("nohup", True, 0)):
        master, terminal = pty.openpty()
        run = subprocess.Popen(
            command(tree, f"name={name}"), stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
            preexec_fn=lambda ignored=ignored: ignored and signal.signal(signal.SIGHUP, signal.SIG_IGN),
        )  # fmt: skip
        os.close(terminal)
        shown = b""
        while b"step 3/9" not in shown:
            shown += os.read(master, 65536)
        os.close(master)
        os.kill(run.pid, signal.SIGHUP)
        assert run.wait() == code
        kept = store.find_checkpoint(Path(tree["runs_folder"]) / name, "last")
        store.verify(kept, with_state=True)
        assert kept.step >= 3
    tried("a terminal that hung up, with nohup and without", "the lines")
