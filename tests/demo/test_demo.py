"""The bundled rows and recipes are what the demo needs, and the demo really learns."""

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from support.runs import settings

from thinktune.config import load_recipe
from thinktune.demo import pipeline
from thinktune.demo.pipeline import RECIPE_FOLDER, demo, next_commands, read_bundled
from thinktune.eval.grading import contains_keypoint

FACTS = read_bundled("facts.jsonl")
FORM = read_bundled("form.jsonl")


def six_grams(question, entity):
    rest = question.casefold().split(entity.casefold())
    return {piece[start : start + 6] for piece in rest for start in range(len(piece) - 5)}


def test_there_are_enough_facts_of_every_kind():
    assert len(FACTS) >= 100
    assert len({fact["id"] for fact in FACTS + FORM}) == len(FACTS + FORM)
    kinds = {(fact["domain"], fact["language"]) for fact in FACTS}
    assert kinds == {(domain, language) for domain in ("medicine", "law", "finance") for language in ("zh", "en")}
    medical = sum(fact["domain"] == "medicine" for fact in FACTS)
    assert medical * 2 >= len(FACTS)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact["id"])
def test_a_fact_is_asked_in_several_ways_and_held_out_in_truly_other_words(fact):
    assert len(fact["questions"]) >= 3
    assert len(fact["held_out"]) >= 1
    assert len(set(fact["questions"] + fact["held_out"])) == len(fact["questions"]) + len(fact["held_out"])
    trained = set().union(*(six_grams(question, fact["entity"]) for question in fact["questions"]))
    for question in fact["held_out"]:
        assert not six_grams(question, fact["entity"]) & trained
    for question in fact["questions"] + fact["held_out"]:
        assert fact["entity"].casefold() in question.casefold()
        assert not contains_keypoint(question, fact["keypoint"])
    assert contains_keypoint(fact["answer"], fact["keypoint"])


def test_the_base_learns_none_of_the_facts():
    taught = "\n".join(fact["answer"] + fact["reasoning"] for fact in FORM)
    assert not {fact["entity"] for fact in FORM} & {fact["entity"] for fact in FACTS}
    assert not [
        fact["id"] for fact in FACTS if len(fact["keypoint"]) > 1 and contains_keypoint(taught, fact["keypoint"])
    ]


def test_no_row_holds_a_tag_or_a_control_token():
    assert not re.search(r"<\|?/?\w+\|?>", json.dumps(FACTS + FORM))


@pytest.mark.parametrize("name", ["base", "expert"])
def test_the_bundled_recipes_load_and_name_the_folder_that_the_demo_replaces(name):
    recipe = load_recipe(Path(pipeline.__file__).with_name(f"{name}.yaml"))
    assert recipe.name == name
    for path in (recipe.model.name, recipe.data.name, recipe.runs_folder):
        assert Path(path).as_posix().startswith(RECIPE_FOLDER)


def test_the_demo_names_only_commands_that_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [command.split()[-2:] for command, _ in next_commands(Path("runs/x"))] == [
        ["chat", "runs/x"],
        ["serve", "runs/x"],
    ]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "qwen3-1.7b-medical.yaml").touch()
    assert next_commands(Path("runs/x"))[-1][0].endswith(" check recipes/qwen3-1.7b-medical.yaml")
    assert not any("#" in command for command, _ in next_commands(Path("runs/x")))


def test_the_demo_shows_the_bar_of_train_on_a_terminal_and_plain_lines_elsewhere(tree):
    shown, plain = StringIO(), StringIO()
    pipeline._train(settings(tree), Console(file=shown, force_terminal=True, width=80))
    pipeline._train(settings(tree, name="piped"), Console(file=plain))
    assert "step 9/9 left 0:00" in shown.getvalue()
    assert "step 9/9 left" not in plain.getvalue()
    assert "step 2/9 22% loss" in plain.getvalue()


@pytest.mark.slow
def test_the_demo_learns_most_facts_and_the_form(tmp_path):
    found = demo(tmp_path / "demo", Console(quiet=True))
    [held_out] = found["sets"]
    figures = {row["measure"]: row for row in held_out["measures"]}
    assert figures["right"]["base"]["value"] <= 0.1
    assert figures["right"]["tuned"]["value"] >= 0.8
    assert figures["right"]["difference"]["low"] > 0.6
    assert figures["ended"]["tuned"]["value"] >= 0.95
    assert figures["well_formed"]["tuned"]["value"] >= 0.95
    assert figures["loss"]["tuned"]["value"] < figures["loss"]["base"]["value"] / 2
    assert found["verdicts"][0].startswith("held-out: better; correct answers")
    assert (tmp_path / "demo" / "expert" / "report.html").is_file()
