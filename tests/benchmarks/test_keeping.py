"""What is forgotten and what a cure keeps: questions with exact keys, figures by seed, and the whole at a tiny size."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from thinktune.eval.tasks import grade_answer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from keeping_domain import draw_domain
from keeping_general import KINDS, draw_general
from keeping_table import BASE, NONE, Cell, add_cell, read_cells, results

COUNTS = {"test": 25, "choice": 13, "replay": 40, "base": 60}


def test_every_use_has_questions_of_its_own_of_all_kinds_in_both_languages():
    drawn = draw_general(COUNTS)
    prompts = [one.prompt for questions in drawn.values() for one in questions]
    assert len(prompts) == len(set(prompts))
    for use in ("test", "choice", "replay"):
        groups = Counter((one.kind, one.language) for one in drawn[use])
        assert groups == {(kind, language): COUNTS[use] for kind in KINDS for language in ("en", "zh")}
    assert len(drawn["test"]) == 400
    assert drawn == draw_general(COUNTS)


def test_every_question_is_answered_right_by_its_own_answer_alone():
    asked = [*draw_general(COUNTS)["test"], *draw_general(COUNTS)["choice"], *draw_domain()["test"]]
    for one in asked:
        task = one.task("set", 0)
        assert grade_answer(task, one.answer)["right"] == 1, one
        assert grade_answer(task, "Result: K K K K.")["right"] == 0, one
        assert grade_answer(task, f"{one.answer} {one.answer}?")["right"] in (0, task.grader in ("number", "refusal"))


def test_no_domain_question_is_asked_twice_and_sizes_change_only_the_rows():
    small, large = draw_domain(120), draw_domain(960)
    assert (small["test"], small["choice"]) == (large["test"], large["choice"])
    assert [len(sets["train"]) for sets in (small, large)] == [120, 960]
    asked = [entry.question for entries in large.values() for entry in entries]
    assert len(asked) == len(set(asked))


def test_a_cure_works_where_it_keeps_nine_tenths_and_loses_a_tenth_of_the_gain():
    def cell(condition, seed, domain, general):
        return Cell(condition, seed, 0 if condition == BASE else 480, domain, general, general, 1.0, 100)

    cells = [
        cell(BASE, 0, [0] * 10, [1] * 8 + [0] * 2),
        *(cell(NONE, seed, [1] * 10, [0] * 10) for seed in (1, 2)),
        *(cell("replay", seed, [1] * 9 + [0], [1] * 8 + [0] * 2) for seed in (1, 2)),
        cell("dft", 1, [1] * 10, [1] * 7 + [0] * 3),
    ]
    found = results(cells)
    base, none = found[BASE], found[NONE]
    assert (found["replay"].kept(base), found["replay"].lost(base, none)) == pytest.approx((1, 0.1))
    assert found["replay"].works(base, none)
    assert not found["dft"].works(base, none)  # 7 of 8 kept
    assert not none.works(base, none)
    assert none.figure("general").low == 0 < none.figure("general").high  # ten equal answers are not certain
    assert results([replace(each, rows=120) if each.rows else each for each in cells], 480).keys() == {BASE}


def test_a_cell_that_a_stop_cut_short_is_made_again(tmp_path):
    cell = Cell(NONE, 1, 480, [1.0], [0.0], [0.0], 1.5, 100, 0.5, [[0.5, 1.0, 0.0]])
    add_cell(tmp_path, cell)
    with (tmp_path / "cells.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"condition": "dft", "se')
    assert read_cells(tmp_path) == [cell]
    add_cell(tmp_path, replace(cell, seed=2))
    assert [each.seed for each in read_cells(tmp_path)] == [1, 2]
