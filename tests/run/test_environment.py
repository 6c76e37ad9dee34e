"""The recorded command holds no secret; what we tell people to type runs in the shell that they are in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from thinktune.run import describe_environment

NEXT = "import sys\nfrom thinktune.run.environment import shell_command\nprint(shell_command('eval', sys.argv[1]))"


@pytest.fixture
def installed(tmp_path):
    """Make an installation in `.venv`: its script prints the command to type next, or what it was given to do."""
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    code = f"import sys\nif sys.argv[1] == 'eval':\n    print('ran', sys.argv[1:])\n    sys.exit()\n{NEXT}"
    script = scripts / "thinktune"
    script.write_text(f"#!{sys.executable}\n{code}\n", encoding="utf-8")
    script.chmod(0o755)
    return tmp_path


def run_line(line: str, folder: Path, path: str) -> str:
    kept = {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=kept, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="it starts a POSIX shell")
@pytest.mark.parametrize(
    ("typed", "activated", "begins"),
    [
        (".venv/bin/thinktune 'runs/my run'", False, ".venv/bin/thinktune eval"),
        ('"$PWD"/.venv/bin/thinktune "runs/my run"', False, "/"),
        ("thinktune 'runs/my run'", True, "thinktune eval"),
        (".venv/bin/thinktune 'runs/my run'", True, "thinktune eval"),
    ],
)
def test_the_command_to_type_next_runs_as_printed(installed, typed, activated, begins):
    path = f"{installed}/.venv/bin:/usr/bin:/bin" if activated else "/usr/bin:/bin"
    printed = run_line(typed, installed, path).strip()
    assert printed.startswith(begins)
    assert run_line(printed, installed, path) == "ran ['eval', 'runs/my run']\n"


@pytest.mark.skipif(sys.platform == "win32", reason="it starts a POSIX shell")
def test_python_with_m_is_repeated_as_such_where_no_script_is_on_the_path(tmp_path):
    line = f"{sys.executable} -c \"import sys; sys.argv = ['/x/__main__.py', 'a']; exec(sys.stdin.read())\""
    kept = {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(["sh", "-c", line], env=kept, input=NEXT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{sys.executable} -m thinktune eval a\n"


def test_the_command_on_the_page_is_one_that_can_be_typed():
    started_by_m = ["/home/me/src/thinktune/__main__.py", "train", "mine.yaml"]
    assert describe_environment(started_by_m)["command"] == "python -m thinktune train mine.yaml"
    assert describe_environment(["/x/bin/thinktune", "train", "a b.yaml"])["command"] == "thinktune train 'a b.yaml'"


SECRET = 'it\'s a "pass" wörd & $more'


@pytest.mark.parametrize(
    "words",
    [
        [f"data.name={SECRET}"],
        ["model.name=https://me:hunter22@hub.example/m"],
        ["--password", "hunter22"],
        ["track.host=https://hub/?token=hunter22"],
        ["name=ghp_" + "hunter22" * 5],
    ],
)
def test_the_recorded_command_holds_no_secret_however_a_shell_would_quote_it(monkeypatch, words):
    monkeypatch.setenv("DB_PASS", SECRET)
    command = describe_environment(["/bin/thinktune", "train", "mine.yaml", *words])["command"]
    assert command.startswith("thinktune train mine.yaml ")
    assert "***" in command
    for part in ("hunter22", "wörd", "more"):
        assert part not in command
