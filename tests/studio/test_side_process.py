"""Short processes of the studio: they take no code from the user's folder, and their number has a limit."""

import threading

import pytest

from thinktune.http import ApiError
from thinktune.studio import side_process
from thinktune.studio.side_process import ask_process, take_turn


def test_a_module_of_the_users_folder_is_not_run(tmp_path):
    (tmp_path / "torch.py").write_text("open('ran', 'w').close()\n")
    value = ask_process("recipes.card_process", ["4090"], tmp_path, 180)
    assert value["card"]["name"]
    assert not (tmp_path / "ran").exists()


def test_who_gets_no_turn_is_refused_and_keeps_no_thread(monkeypatch):
    monkeypatch.setattr(side_process, "TURN_SECONDS", 0.05)
    turns = threading.BoundedSemaphore(1)
    for _ in range(12):  # more than may wait: each gives its place back
        with take_turn(turns), pytest.raises(ApiError) as refused, take_turn(turns):
            pass
        assert refused.value.status == 429
