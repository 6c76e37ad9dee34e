"""The notebook: its cells compile, name what exists, and bring a better model when they are run."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_command

import thinktune
from thinktune.cli import app
from thinktune.config import load_recipe
from thinktune.config.schema import Hub
from thinktune.export.targets import TARGETS

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
TEXTS = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
AS_IT_STANDS = CODE[1]
[ON_A_CARD] = re.findall(r"```python\n(.*?)```", TEXTS[-1], flags=re.DOTALL)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
STARTED_BY_IPYTHON = re.compile(r"^( *)([!%])(.*)$", flags=re.MULTILINE)


def read_settings(cell: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    exec(cell, settings)
    return {name: value for name, value in settings.items() if name.isupper()}


def command_lines(settings: dict[str, str]) -> list[list[str]]:
    lines = [line for cell in CODE for _, sign, line in STARTED_BY_IPYTHON.findall(cell) if sign == "!"]
    return [shlex.split(line.format(**settings)) for line in lines]


def python_of(cell: str) -> ast.Module:
    return ast.parse(STARTED_BY_IPYTHON.sub(r"\1_exit_code = 0", cell))


def test_no_outputs_are_kept():
    assert not [cell for cell in CELLS if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.partition("\n")[0])
def test_each_text_is_in_both_languages(text):
    paragraphs = re.sub(r"```.*?```", "", text, flags=re.DOTALL).split("\n\n")
    chinese = sum(bool(re.search(r"[\u4e00-\u9fff]", part)) for part in paragraphs if not part.startswith("#"))
    assert chinese * 2 == sum(bool(part.strip()) for part in paragraphs if not part.startswith("#"))


@pytest.mark.parametrize("cell", CODE, ids=lambda cell: cell.partition("\n")[0])
def test_a_cell_compiles_and_what_it_takes_of_ours_exists(cell):
    tree = python_of(cell)
    compile(tree, "cell", "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("thinktune"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "thinktune":
            assert hasattr(thinktune, node.attr)


def test_a_failing_command_stops_the_notebook():
    for cell in CODE:
        lines = [line.strip() for line in cell.splitlines()]
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            assert not line.startswith("!") or following.startswith("assert not _exit_code"), line


@pytest.mark.parametrize("cell", [AS_IT_STANDS, ON_A_CARD], ids=["as it stands", "on a card"])
def test_the_commands_exist_with_their_options_and_settings(cell, tmp_path):
    settings = read_settings(cell)
    assert settings["HUB"] in get_args(Hub)
    assert settings["EXPORT"] in TARGETS
    verbs = get_command(app).commands
    called = command_lines(settings)
    assert {words[1] for words in called} == {"init", "check", "train", "eval", "export"}
    (tmp_path / "any.yaml").write_text('{"model": {"name": "x"}, "data": {"name": "x.jsonl"}}', encoding="utf-8")
    for program, verb, *words in called:
        assert program == "thinktune"
        options = {option for each in verbs[verb].params for option in (*each.opts, *each.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options
        load_recipe(tmp_path / "any.yaml", [word for word in words if "=" in word])


def test_the_one_cell_that_changes_has_the_same_settings_on_a_card():
    assert read_settings(ON_A_CARD).keys() == read_settings(AS_IT_STANDS).keys()


@pytest.mark.slow
def test_the_notebook_brings_a_better_model(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    before = set(NOTEBOOK.parent.iterdir())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=place).execute()
    shown = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    shown = COLOURS.sub("", shown)
    assert "ready: " in shown
    assert "药房在三楼。" in shown
    assert "Traceback" not in shown
    assert "Warning" not in shown
    assert "━" not in shown, "a bar's redraws"
    assert "\x1b" not in shown, "a notebook shows colours and moves no cursor"
    pages = [out for cell in notebook.cells for out in cell.get("outputs", ()) if "text/html" in out.get("data", {})]
    assert len(pages) == 2
    run = tmp_path / "runs" / "notebook" / "runs" / "clinic"
    [held_out] = json.loads((run / "eval" / "report.json").read_text(encoding="utf-8"))["sets"]
    figures = {row["measure"]: row for row in held_out["measures"]}
    assert figures["right"]["difference"]["low"] > 0
    assert (run / "export" / "hf" / "model.safetensors").is_file()
    assert set(NOTEBOOK.parent.iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "runs"}
