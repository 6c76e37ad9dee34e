"""Whether a lock is held: told rightly to many who ask at once, and in a folder that nobody may write in."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from thinktune.run.lock import hold_lock, is_held, lock_fault

HOLDER = """
import sys
from pathlib import Path
from thinktune.run.lock import hold_lock
with hold_lock(Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_many_who_ask_at_once_do_not_take_each_other_for_a_holder(tmp_path):
    file = tmp_path / "lock"
    file.touch()
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: is_held(file), range(2000)))


def test_a_lock_is_held_while_its_process_lives_and_is_there_for_who_comes_after_a_question(tmp_path):
    file = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    assert is_held(file)
    holder.communicate("", timeout=20)
    assert not is_held(file)
    with hold_lock(file, "taken"):
        pass


def test_a_file_system_that_locks_has_no_fault(tmp_path):
    with (tmp_path / "file").open("wb") as file, (tmp_path / "file").open("wb") as again:
        assert lock_fault(file) is None
        assert lock_fault(again) is not None
