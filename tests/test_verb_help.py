"""Help that a newcomer can use: verbs in groups, examples that the program takes, whole words at any width."""

import json
import re
import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from thinktune.cli import app
from thinktune.config import load_recipe
from thinktune.planner.hardware import find_card
from thinktune.verb_help import EXAMPLES, VERB_GROUPS

GROUP = get_command(app)
VERBS = {
    name: GROUP.get_command(GROUP.make_context("thinktune", [], resilient_parsing=True), name)
    for name in GROUP.commands
}
LINES = [line for verb, lines in EXAMPLES.items() if not verb or verb in VERBS for line in lines]


def read_help(*words: str, columns: int) -> str:
    found = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": str(columns)}, terminal_width=columns)
    assert found.exit_code == 0
    return found.output


def test_every_verb_is_in_one_group_and_has_an_example():
    grouped = [name for names in VERB_GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert VERBS.keys() <= set(grouped)
    assert VERBS.keys() <= EXAMPLES.keys()
    assert all(line.split()[:2] == ["thinktune", verb] for verb, lines in EXAMPLES.items() if verb for line in lines)


def test_the_groups_come_in_their_order():
    text = read_help(columns=80)
    places = [text.index(f"\n{title}:\n") for title in VERB_GROUPS]
    assert places == sorted(places)
    assert "..." not in text.partition("First steps:")[2], "a sentence is cut"


@pytest.mark.parametrize("line", LINES)
def test_an_example_is_a_command_that_the_program_takes(line, tmp_path):
    _, name, *words = shlex.split(line)
    options = {option for each in VERBS[name].params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= options
    if "--help" not in words:
        VERBS[name].make_context(name, words)  # raises UsageError for a word that it does not take
    (tmp_path / "any.yaml").write_text(
        json.dumps({"model": {"name": "x"}, "data": {"name": "x.jsonl"}}), encoding="utf-8"
    )
    recipe = load_recipe(tmp_path / "any.yaml", [word for word in words if "=" in word])
    assert recipe.plan.card is None or find_card(recipe.plan.card)


def test_an_example_with_an_option_that_is_gone_would_be_found():
    with pytest.raises(Exception, match="No such option"):
        VERBS["eval"].make_context("eval", ["runs/rows", "--examination", "medical-zh"])


@pytest.mark.parametrize("name", VERBS)
def test_help_says_what_to_write_and_not_a_type_of_the_code(name):
    found = re.findall(r"<[^|>]*>|list\[|\b(?:int|str|float) range\b", read_help(name, columns=120))
    assert not found


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("name", ["", *VERBS])
def test_help_wraps_at_words(name, columns):
    text = read_help(*filter(None, [name]), columns=columns)
    assert max(map(len, text.splitlines())) <= columns
    words = {*text.split(), *re.sub(r"-\n\s+", "-", text).split()}  # a line may end at a word's own hyphen
    for each in VERBS[name].params if name else GROUP.params:
        assert set((each.help or "").split()) <= words, each.name
    for line in EXAMPLES[name]:
        assert f"{line}\n" in text
