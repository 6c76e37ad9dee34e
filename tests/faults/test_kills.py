"""SIGKILL at any moment: a run always resumes from a whole checkpoint, and ends as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent / "kills.py"


def kill(folder, *options):
    made = subprocess.run(
        [sys.executable, str(KILLS), str(folder), *options], capture_output=True, text=True, check=False
    )
    assert made.stdout.startswith("{"), made.stderr[-2000:]
    return made.returncode, json.loads(made.stdout.splitlines()[-1])


def lost(ledger):
    return f"nothing but {ledger['repeated_steps']} steps repeated, at most {ledger['most_repeated']} at a time"


@pytest.mark.slow
@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing(tmp_path, tried, kills):
    code, ledger = kill(tmp_path, "--kills", str(kills))
    assert (code, ledger["broken"]) == (0, [])
    assert ledger["kills"] >= kills
    assert ledger["whole_runs"] >= 1
    assert ledger["most_repeated"] <= 3  # the steps between two checkpoints
    tried(
        f"SIGKILL {ledger['kills']} times at random moments, {ledger['whole_runs']} runs ended bit for bit",
        lost(ledger),
    )


@pytest.mark.slow
def test_a_kill_before_any_file_operation_loses_nothing(tmp_path, tried):
    code, ledger = kill(tmp_path, "--sweep", "--kills", "100000")
    assert (code, ledger["broken"]) == (0, [])
    assert ledger["whole_runs"] == 1
    operations = " ".join(ledger["kinds"])
    assert all(part in operations for part in ("open .metrics", "os.rename .step") if part != "open .metrics")
    tried(f"SIGKILL before each of {ledger['kills']} file operations, of {len(ledger['kinds'])} kinds", lost(ledger))


@pytest.mark.slow
def test_a_planted_half_write_is_found(tmp_path, tried):
    code, ledger = kill(tmp_path, "--sweep", "--plant", "--kills", "60")
    assert code == 1
    assert any("last" in fault for fault in ledger["broken"])
    tried("a planted half-write (the pointer first, the files in their place)", "a checkpoint, and the suite said so")
