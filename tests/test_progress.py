"""Progress is printed as plain lines, with a bar below them only on a terminal."""

import json
from io import StringIO

import pytest
from rich.console import Console

from thinktune import progress
from thinktune.progress import PROGRESS_FILE_VARIABLE, ProgressFile, ProgressReporter, no_bar, progress_bar


def test_without_a_terminal_there_are_only_plain_lines(capsys):
    with progress_bar() as (say, bar):
        bar(1, 10, 5.0)
        say("step 1/10 [1/2] 心脏")
    assert bar is no_bar
    assert capsys.readouterr().out == "step 1/10 [1/2] 心脏\n"


def test_on_a_terminal_a_bar_moves_below_the_lines_and_is_gone_at_the_end():
    screen = StringIO()
    with progress_bar(Console(file=screen, force_terminal=True, width=100)) as (say, bar):
        bar(3, 12, None)
        say("step 3/12 [half] " + "x" * 120)
        bar(6, 12, 75.0)
    shown = screen.getvalue()
    assert "step 3/12 [half]\n" in shown
    assert "x" * 120 + "\n" in shown  # whole, so that it can be copied
    assert "step 6/12 left 1:15" in shown
    assert shown.endswith(("\x1b[2K", "\x1b[?25h")), repr(shown[-40:])


def test_before_the_first_step_the_bar_names_none():
    screen = StringIO()
    with progress_bar(Console(file=screen, force_terminal=True, width=100)) as (say, _):
        say("rows are read")
    assert "rows are read\n" in screen.getvalue()
    assert "None" not in screen.getvalue()
    assert "step" not in screen.getvalue()


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TTY_INTERACTIVE": "0"}], ids=str)
def test_where_a_terminal_only_scrolls_there_is_no_bar(environment, capsys):
    with progress_bar(Console(force_terminal=True, _environ=environment)) as (say, bar):
        say("step 1/10")
    assert bar is no_bar
    assert capsys.readouterr().out == "step 1/10\n"


def test_long_work_keeps_a_whole_file_for_programs_that_watch_it(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    with progress_bar(Console(force_terminal=False)) as (_, bar):
        assert bar is no_bar, "nobody asks for a file"
    monkeypatch.setenv(PROGRESS_FILE_VARIABLE, str(path))
    monkeypatch.setattr("thinktune.progress.progress_file", ProgressFile())
    with progress_bar(Console(force_terminal=False)) as (_, bar):
        bar(3, 10, 7.0)
        first = json.loads(path.read_text())
        bar(4, 10, 6.0)  # within the same second
        assert json.loads(path.read_text()) == first
        bar(10, 10, 0.0)  # the end is always told
    assert first | {"at": 0} == {"what": "steps", "done": 3, "total": 10, "seconds_left": 7.0, "waits": False, "at": 0}
    assert json.loads(path.read_text())["done"] == 10
    ProgressReporter(print, "rows", 8).update(2)
    assert json.loads(path.read_text())["what"] == "rows"
    assert [one.name for one in tmp_path.iterdir()] == ["progress.json"]


def test_a_progress_file_that_cannot_be_written_harms_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(PROGRESS_FILE_VARIABLE, str(tmp_path / "file" / "progress.json"))
    ProgressFile().write("rows", 1, 2, 3.0)


@pytest.mark.parametrize(
    ("done", "seconds", "line"),
    [(200, 10, "200 rows, 20/s, 50%, left 0:10"), (4, 10, "4 rows, 2.5 s each, 1%, left 16:30")],
)
def test_slow_work_names_the_seconds_of_each_and_not_a_speed_of_none(monkeypatch, done, seconds, line):
    said, now = [], [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reporter = ProgressReporter(said.append, "rows", 400)
    now[0] += seconds
    reporter.update(done)
    assert said == [line]


def test_lines_may_count_larger_units_than_the_file_for_programs_does(tmp_path, monkeypatch):
    path, said, now = tmp_path / "progress.json", [], [100.0]
    monkeypatch.setenv(PROGRESS_FILE_VARIABLE, str(path))
    monkeypatch.setattr("thinktune.progress.progress_file", ProgressFile())
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reporter = ProgressReporter(said.append, "MB", 8_000_000, what="bytes sent", size=10**6)
    now[0] += 10
    reporter.update(2_000_001)
    assert said == ["2 MB, 5.0 s each, 25%, left 0:30"]
    written = json.loads(path.read_text())
    assert (written["what"], written["done"], written["total"]) == ("bytes sent", 2_000_001, 8_000_000)
