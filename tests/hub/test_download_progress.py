"""How far a download is, as programs that watch it read: bytes of a real client's download from a hub on loopback."""

import json
import subprocess
import sys
import time
from functools import partial

import pytest
from support import waiting
from support.hub_client import HUBS, LOCATE, at_once, environment
from support.hub_server import Fault, HubServer

from thinktune.hub.download_progress import follow_download
from thinktune.progress import PROGRESS_FILE_VARIABLE

WEIGHTS = "model.safetensors"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Ask for the progress file, and return what it says."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv(PROGRESS_FILE_VARIABLE, str(path))
    monkeypatch.setattr("thinktune.hub.download_progress.SECONDS_BETWEEN_FILES", 0.01)
    monkeypatch.setattr("thinktune.progress.SECONDS_BETWEEN_FILES", 0.0)
    return lambda: json.loads(path.read_text()) if path.exists() else {"what": None, "done": -1, "total": -1}


wait_until = partial(waiting.wait_until, seconds=20)


@pytest.mark.slow
def test_a_model_that_comes_from_a_hub_shows_its_bytes_and_the_time_left(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / WEIGHTS).write_bytes(bytes(range(256)) * 2**14)  # 4 MiB
    (tmp_path / "large" / "config.json").write_text("{}")

    def check(name):
        progress = tmp_path / f"{name}.json"
        with HubServer({"models/clinic/large": tmp_path / "large"}) as hub:
            hub.faults[WEIGHTS] = Fault(pause=0.6)  # an eighth each time
            variables = environment(hub.address, tmp_path / name, **{PROGRESS_FILE_VARIABLE: str(progress)})
            process = subprocess.Popen([sys.executable, "-c", LOCATE, "clinic/large", name, "model", ""], env=variables)
            seen = []
            while process.poll() is None:
                if progress.exists():
                    seen.append(json.loads(progress.read_text()))
                time.sleep(0.1)
            assert process.wait() == 0
        downloads = [one for one in seen if one["what"] == "bytes downloaded"]
        done = [one["done"] for one in downloads]
        assert {one["total"] for one in downloads} == {4 * 2**20 + 2}
        assert len(set(done)) >= 3
        assert done == sorted(done)
        left = [one["seconds_left"] for one in downloads if one["seconds_left"] is not None]
        assert left
        assert max(left) < 30
        assert json.loads(progress.read_text())["what"] == "", "what comes next is no download"

    at_once(check, HUBS)


def test_a_size_that_the_hub_leaves_out_is_not_known(written):
    there = [5]
    with follow_download(10, lambda: there[0]):
        wait_until(lambda: (written()["done"], written()["total"]) == (5, 10))
        there[0] = 11
        wait_until(lambda: written()["done"] == 11)
        assert (written()["total"], written()["seconds_left"]) == (None, None)
    with follow_download(None, lambda: there[0]):
        wait_until(lambda: written()["what"] == "bytes downloaded")
        assert written()["total"] is None


def test_nothing_is_measured_where_nobody_watches_or_nothing_is_missing(monkeypatch, tmp_path):
    def measure():
        raise AssertionError("is asked")

    monkeypatch.delenv(PROGRESS_FILE_VARIABLE, raising=False)
    with follow_download(10, measure):
        pass
    monkeypatch.setenv(PROGRESS_FILE_VARIABLE, str(tmp_path / "progress.json"))
    with follow_download(0, measure):
        pass
    assert not (tmp_path / "progress.json").exists()


def test_files_that_go_while_they_are_measured_stop_no_download(written):
    answers = iter([OSError("gone"), 3])

    def measure():
        answer = next(answers, 3)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with follow_download(10, measure):
        wait_until(lambda: written()["done"] == 3)
