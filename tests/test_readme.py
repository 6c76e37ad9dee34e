"""The READMEs name commands, files and figures that exist."""

import re
from pathlib import Path

import pytest

from thinktune.config import load_recipe
from thinktune.demo.pipeline import read_bundled

ROOT = Path(__file__).parent.parent
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -e"
READMES = ["README.md", "README.zh.md"]


@pytest.fixture(params=READMES)
def text(request):
    return (ROOT / request.param).read_text(encoding="utf-8")


def test_the_two_commands_are_there_and_ci_runs_the_same(text):
    assert f"{INSTALL} . && .venv/bin/thinktune demo\n" in text
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


def test_the_recipe_shown_loads(text, tmp_path):
    [shown] = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(shown, encoding="utf-8")
    assert load_recipe(tmp_path / "mine.yaml").data.columns.reasoning == "think"


def test_the_number_of_facts_is_right(text):
    assert str(len(read_bundled("facts.jsonl"))) in text


def test_nothing_is_left_to_fill_in(text):
    assert "@@" not in text
