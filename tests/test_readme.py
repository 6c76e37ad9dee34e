"""The READMEs name commands, files and figures that exist."""

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from thinktune.config import load_recipe
from thinktune.demo.pipeline import read_bundled

ROOT = Path(__file__).parent.parent
DEMO = "python3 -m venv .venv && . .venv/bin/activate && pip install -e . && thinktune demo"
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -e"
READMES = ["README.md", "README.zh.md"]


@pytest.fixture(params=READMES)
def text(request):
    return (ROOT / request.param).read_text(encoding="utf-8")


def test_the_two_commands_are_there_and_ci_runs_the_same(text):
    assert f"{DEMO}\n" in text
    command = f"{INSTALL} '.[test]' && .venv/bin/pytest\n"
    assert command in text
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_link_leads_somewhere(text):
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert len(links) > 5
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_verb_exists(text):
    from typer.main import get_command

    from thinktune.cli import app

    verbs = set(re.findall(r"^thinktune (\w+)", text, flags=re.MULTILINE))
    assert verbs >= {"check", "train", "eval", "chat"}
    assert verbs <= set(get_command(app).commands)


def shell_blocks(text: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def clone(tmp_path):
    """Make a folder where `python3 -m venv` gives a real environment, whose commands only write down that they ran."""
    place = tmp_path / "my clone"
    made = tmp_path / "environment"
    venv.create(made, with_pip=False, symlinks=True)
    log = f'echo "${{0##*/}} $*" >> "{tmp_path}/ran"\n'
    for name in ("pip", "pytest", "thinktune"):
        write_script(made / "bin" / name, log)
    write_script(tmp_path / "bin" / "python3", log + f'cp -R "{made}" .venv && sed -i.old "s|{made}|$PWD/.venv|g" .venv/bin/activate')  # fmt: skip
    place.mkdir()
    return place


def write_script(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def run_in_fresh_shell(lines: str, folder: Path) -> list[str]:
    """Run lines as one who opens a shell in a folder does; return the commands that ran since the last time."""
    ran = folder.parent / "ran"
    ran.unlink(missing_ok=True)
    found = {"PATH": f"{folder.parent / 'bin'}:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(["sh", "-e", "-c", lines], cwd=folder, env=found, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), lines
    return ran.read_text(encoding="utf-8").splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for a POSIX shell")
def test_each_shell_block_runs_as_it_stands_each_in_a_fresh_shell(text, clone):
    demo, use, contribute = shell_blocks(text)
    assert run_in_fresh_shell(demo, clone) == ["python3 -m venv .venv", "pip install -e .", "thinktune demo"]
    verbs = [line for line in use.splitlines() if line.startswith("thinktune")]
    assert len(verbs) >= 5
    assert run_in_fresh_shell(use, clone) == verbs
    shutil.rmtree(clone / ".venv")
    assert run_in_fresh_shell(contribute, clone) == ["python3 -m venv .venv", "pip install -e .[test]", "pytest "]


@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for a POSIX shell")
def test_without_the_activation_no_command_is_found(text, clone):
    """The test above sees what it is for."""
    run_in_fresh_shell(shell_blocks(text)[0], clone)
    with pytest.raises(AssertionError, match="thinktune"):
        run_in_fresh_shell(shell_blocks(text)[1].replace(". .venv/bin/activate\n", ""), clone)


def test_no_block_has_a_comment_and_windows_is_told_its_activation(text):
    assert "#" not in "".join(shell_blocks(text)), "pasted into zsh or cmd.exe, a comment becomes arguments"
    assert r"`.venv\Scripts\activate`" in text
    assert r"`.venv\Scripts\`" in text


def test_the_recipe_shown_loads(text, tmp_path):
    [shown] = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(shown, encoding="utf-8")
    assert load_recipe(tmp_path / "mine.yaml").data.columns.reasoning == "think"


def test_the_number_of_facts_is_right(text):
    assert str(len(read_bundled("facts.jsonl"))) in text


def test_nothing_is_left_to_fill_in(text):
    assert "@@" not in text
