"""The benchmark suites run end to end on the CPU with tiny shapes; minutes, so apart."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import suite  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("part", ["ceilings", "sweep", "peers", "sizes", "parity"])
def test_every_part_of_the_suite_for_a_card_runs_end_to_end(part, tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), part, "--tiny", "--seconds", "3000"]
    folders = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    done = subprocess.run([*command, *folders], env=suite.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    name = "sizes-tiny" if part == "sizes" else part
    written = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    if part == "ceilings":
        assert len(written["measured"]) == 5
        return
    ran = [each for each in written["contenders"] if not each["absent"]]
    absent = [each["absent"] for each in written["contenders"] if each["absent"]]
    assert all(reason.startswith("missing") for reason in absent)
    assert len(ran) >= 3
    assert (tmp_path / "out" / f"{name}.html").read_text().count('class="line ') == 2 * len(ran)


@pytest.mark.slow
def test_the_suite_for_the_cpu_runs_end_to_end(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "cpu_loops.py"), "--quick", "--rounds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, env=suite.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    assert (tmp_path / "cpu.html").is_file()
