"""Blind votes: counted as they were cast, about the present model only, and no more certain than their interval."""

import json

import pytest
from rich.console import Console
from support.runs import settings

from thinktune.config.loading import dump_recipe
from thinktune.errors import UserError
from thinktune.eval import comparison_tables
from thinktune.eval.votes import count_votes, judge_votes
from thinktune.files import write_json
from thinktune.report import write_run_page
from thinktune.run import RunFolder


@pytest.fixture
def run(tmp_path):
    write_json(tmp_path / "final" / "state.json", {"step": 120})
    return tmp_path


def cast(run, step=120, **counts):
    votes = [
        {"id": f"{side}-{step}-{number:04}", "preferred": side, "question": f"{number % 5}?", "step": step}
        for side, count in counts.items()
        for number in range(count)
    ]
    with RunFolder(run).votes.open("a") as file:
        file.write("".join(json.dumps(vote) + "\n" for vote in votes))


def test_without_votes_there_is_nothing_to_say(run):
    assert count_votes(run) is None


@pytest.mark.parametrize(
    ("tuned", "base", "direction", "said"),
    [
        (14, 4, "better", "better; tuned preferred in 14 of 18 decided, 77.8 % (52.4 to 93.6)"),
        (4, 14, "worse", "worse; tuned preferred in 4 of 18 decided, 22.2 % (6.4 to 47.6)"),
        (13, 5, "", "no difference shown; tuned preferred in 13 of 18 decided, 72.2 % (46.5 to 90.3)"),
        (1, 0, "", "no difference shown; tuned preferred in 1 of 1 decided, 100.0 % (2.5 to 100.0)"),
    ],
)
def test_a_preference_is_named_only_where_the_interval_excludes_a_half(run, tuned, base, direction, said):
    cast(run, tuned=tuned, base=base, tie=3, neither=2)
    counted = count_votes(run)
    assert {side: counted[side] for side in ("tuned", "base", "tie", "neither")} == {
        "tuned": tuned,
        "base": base,
        "tie": 3,
        "neither": 2,
    }
    assert counted["votes"] == tuned + base + 5
    assert judge_votes(counted["share"]) == direction
    assert counted["verdict"].startswith(f"blind votes: {said}; 3 equally good, 2 both bad; ")


def test_votes_without_a_winner_have_no_share(run):
    cast(run, tie=2, neither=1)
    counted = count_votes(run)
    assert (counted["share"], counted["questions"]) == (None, 2)
    assert counted["verdict"] == "blind votes: none decided; 2 equally good, 1 both bad"


def test_votes_about_another_model_are_told_and_not_counted(run):
    cast(run, step=60, base=9)
    cast(run, tuned=2)
    counted = count_votes(run)
    assert (counted["votes"], counted["base"], counted["earlier"]) == (2, 0, 9)
    assert "9 about the model of another step, not counted" in counted["verdict"]


def test_the_model_of_a_run_that_is_not_finished_is_its_best_checkpoint(tmp_path):
    write_json(tmp_path / "checkpoints" / "step-000030" / "config.json", {})
    (tmp_path / "best").write_text("step-000030\n")
    cast(tmp_path, step=30, tuned=3)
    cast(tmp_path, step=60, tuned=1)
    assert count_votes(tmp_path)["votes"] == 3


def test_the_last_vote_of_an_id_counts_once(run):
    lines = [{"id": "vote-0001", "preferred": side, "step": 120} for side in ("tuned", "base")]
    RunFolder(run).votes.write_text("".join(json.dumps(line) + "\n" for line in lines))
    counted = count_votes(run)
    assert (counted["tuned"], counted["base"]) == (0, 1)


def test_the_terminal_and_the_page_show_the_votes_in_both_languages(run):
    cast(run, tuned=14, base=4, tie=1234)
    counted = count_votes(run)
    report = {"sets": [], "verdicts": [], "switches": [], "votes": counted}
    console = Console(width=200)
    with console.capture() as captured:
        console.print(comparison_tables(report))
    assert "Tuned preferred" in captured.get()
    assert counted["verdict"] in captured.get()
    recipe = settings({"model": {"name": "m"}, "data": {"name": "rows.jsonl"}, "train": {"rows_per_step": 1}})
    RunFolder(run).recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    page = write_run_page(run).read_text(encoding="utf-8")
    for text in ("The tuned model is preferred", "人们更喜欢训练后的模型", "77.8 % (52.4 to 93.6)", "1,234"):
        assert text in page


def test_damaged_votes_are_named_and_cost_the_page_nothing_else(run):
    recipe = settings({"model": {"name": "m"}, "data": {"name": "rows.jsonl"}, "train": {"rows_per_step": 1}})
    RunFolder(run).recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    RunFolder(run).votes.write_text('{"id": "vote-0001"}\n')
    with pytest.raises(UserError, match=r"votes\.jsonl:1: is damaged \(preferred"):
        count_votes(run)
    with pytest.raises(UserError, match=r"votes\.jsonl:1.*was written without it"):
        write_run_page(run)
    assert RunFolder(run).report.is_file()
