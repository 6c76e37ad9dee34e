"""Runs that wait for a card: one after the other among those that wait, after all that do not, and in no one's way."""

import fcntl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from support.card_locks import HOLDER

from thinktune.progress import PROGRESS_FILE_VARIABLE
from thinktune.run import card_lock
from thinktune.run.card_lock import hold_cards


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("thinktune.run.card_lock.POLL_SECONDS", 0.02)


def start(path, *, wait):
    """Start a process that holds the CPU until its file `.release` is there; `path` is there once it holds it."""
    arguments = ["cpu", "wait" if wait else "share", str(path)]
    return subprocess.Popen([sys.executable, "-c", HOLDER, *arguments], stdout=subprocess.PIPE, text=True)


def release(path, process):
    path.with_suffix(".release").write_text("")
    assert process.wait(timeout=20) == 0


def wait_for(path):
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_runs_that_wait_take_turns_and_say_so(tmp_path):
    first = start(tmp_path / "first", wait=True)
    wait_for(tmp_path / "first")
    second = start(tmp_path / "second", wait=True)
    assert "waits for it" in second.stdout.readline()
    assert not (tmp_path / "second").exists()
    release(tmp_path / "first", first)
    assert "free" in second.stdout.readline()
    release(tmp_path / "second", second)


def test_a_run_that_waits_lets_one_that_does_not_finish_and_keeps_nobody_out(tmp_path):
    shared = start(tmp_path / "shared", wait=False)
    wait_for(tmp_path / "shared")
    waiting = start(tmp_path / "waiting", wait=True)
    assert "waits for it" in waiting.stdout.readline()
    with hold_cards(["cpu"], print, wait=False):  # beside both, at once
        assert not (tmp_path / "waiting").exists()
    release(tmp_path / "shared", shared)
    wait_for(tmp_path / "waiting")
    with hold_cards(["cpu"], print, wait=False):  # beside one that waited, too
        pass
    release(tmp_path / "waiting", waiting)


def test_a_probe_of_a_run_that_waits_takes_no_lock_from_one_that_does_not():
    folder = card_lock.locks_folder()
    with ExitStack() as probe, ExitStack() as other:
        assert card_lock._take(probe, folder / "cpu.use", fcntl.LOCK_EX)
        threading.Timer(0.1, probe.close).start()
        with hold_cards(["cpu"], print, wait=False):
            assert not card_lock._take(other, folder / "cpu.use", fcntl.LOCK_EX)


def test_a_killed_run_frees_its_card_and_another_card_is_free(tmp_path):
    holder = start(tmp_path / "holder", wait=True)
    wait_for(tmp_path / "holder")
    with hold_cards(["cuda-1"], print, wait=True):
        pass
    holder.kill()
    holder.wait(timeout=20)
    said = []
    with hold_cards(["cpu"], said.append, wait=True):
        assert not said


def test_who_waits_is_told_to_a_program_that_watches(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRESS_FILE_VARIABLE, str(tmp_path / "progress.json"))
    holder = start(tmp_path / "holder", wait=True)
    wait_for(tmp_path / "holder")
    seen = []

    def look(_seconds):
        if (tmp_path / "progress.json").exists():
            seen.append((tmp_path / "progress.json").read_text())
            (tmp_path / "holder.release").write_text("")

    monkeypatch.setattr("thinktune.run.card_lock.time.sleep", look)
    with hold_cards(["cpu"], print, wait=True):
        assert '"waits": true' in seen[0]
        assert '"waits": false' in (tmp_path / "progress.json").read_text()
    holder.wait(timeout=20)


def test_a_cache_that_cannot_be_written_stops_no_run_and_one_that_would_wait_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "file"))
    said = []
    for wait in (False, True):
        with hold_cards(["cpu"], said.append, wait=wait):
            assert len(said) == wait


def test_cards_whose_locks_cannot_be_had_are_not_waited_for_and_that_is_said(monkeypatch):
    def cannot(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("thinktune.run.card_lock.fcntl.flock", cannot)
    said = []
    with hold_cards(["cpu"], said.append, wait=True):
        assert "cannot be locked (Function not implemented), so this does not wait" in said[0]
    with hold_cards(["cpu"], said.append, wait=False):
        assert len(said) == 1


def test_many_who_ask_at_once_see_no_card_in_use_that_is_not():
    with hold_cards(["cpu"], print, wait=False):
        assert card_lock.cards_in_use() == {"cpu"}
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: card_lock.cards_in_use(), range(1000)))


def test_machines_that_share_a_cache_have_locks_of_their_own(monkeypatch):
    with hold_cards(["cpu"], print, wait=False):
        monkeypatch.setattr("thinktune.run.card_lock.Path.read_text", lambda *_, **__: "another-boot\n")
        assert card_lock.cards_in_use() == set()
