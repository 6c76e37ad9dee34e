"""Runs that wait for a card: one after the other among those that wait, after all that do not, and in no one's way."""

import subprocess
import sys
import time

import pytest

from thinktune.progress import PROGRESS_FILE_VARIABLE
from thinktune.run.card_lock import hold_cards

HOLDER = """
import sys, time
from pathlib import Path
from thinktune.run.card_lock import hold_cards
card, wait, name, seconds = sys.argv[1], sys.argv[2] == "wait", Path(sys.argv[3]), float(sys.argv[4])
with hold_cards([card], print, wait=wait):
    name.write_text(str(time.time()))
    time.sleep(seconds)
name.with_suffix(".end").write_text(str(time.time()))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("thinktune.run.card_lock.POLL_SECONDS", 0.02)


def start(path, *, wait, seconds, card="cpu"):
    code = HOLDER.replace("with hold", "import thinktune.run.card_lock as lock; lock.POLL_SECONDS = 0.02\nwith hold")
    arguments = [card, "wait" if wait else "share", str(path), str(seconds)]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def wait_for(path):
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_runs_that_wait_take_turns_and_say_so(tmp_path):
    first = start(tmp_path / "first", wait=True, seconds=1.0)
    wait_for(tmp_path / "first")
    second = start(tmp_path / "second", wait=True, seconds=0)
    assert "waits for it" in second.communicate(timeout=20)[0]
    first.communicate(timeout=20)
    assert float((tmp_path / "second").read_text()) >= float((tmp_path / "first").read_text()) + 1.0


def test_a_run_that_waits_lets_one_that_does_not_finish_and_keeps_nobody_out(tmp_path):
    shared = start(tmp_path / "shared", wait=False, seconds=1.0)
    wait_for(tmp_path / "shared")
    waiting = start(tmp_path / "waiting", wait=True, seconds=1.0)
    with hold_cards(["cpu"], print, wait=False):  # beside both, at once
        assert not (tmp_path / "waiting").exists()
    waiting.communicate(timeout=20)
    shared.communicate(timeout=20)
    assert float((tmp_path / "waiting").read_text()) >= float((tmp_path / "shared.end").read_text()) - 0.1


def test_a_killed_run_frees_its_card_and_another_card_is_free(tmp_path):
    holder = start(tmp_path / "holder", wait=True, seconds=60)
    wait_for(tmp_path / "holder")
    with hold_cards(["cuda-1"], print, wait=True):
        pass
    holder.kill()
    holder.communicate(timeout=20)
    said = []
    with hold_cards(["cpu"], said.append, wait=True):
        assert not said


def test_who_waits_is_told_to_a_program_that_watches(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRESS_FILE_VARIABLE, str(tmp_path / "progress.json"))
    holder = start(tmp_path / "holder", wait=True, seconds=1.0)
    wait_for(tmp_path / "holder")
    seen = []
    monkeypatch.setattr("time.sleep", lambda _: seen.append((tmp_path / "progress.json").read_text()))
    with hold_cards(["cpu"], print, wait=True):
        assert '"waits": true' in seen[0]
        assert '"waits": false' in (tmp_path / "progress.json").read_text()
    holder.communicate(timeout=20)


def test_a_cache_that_cannot_be_written_stops_no_run_that_does_not_wait(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "file"))
    with hold_cards(["cpu"], print, wait=False):
        pass
    with pytest.raises(OSError, match="file"), hold_cards(["cpu"], print, wait=True):
        pass
