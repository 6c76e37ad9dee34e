"""What is forgotten and what a cure keeps: questions with exact keys, figures by seed, and the whole at a tiny size."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from thinktune.demo.tiny_model import ModelShape
from thinktune.eval.tasks import grade_answer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import keeping
from keeping_domain import draw_domain
from keeping_general import KINDS, draw_general
from keeping_pictures import draw_pictures
from keeping_table import BASE, NONE, Cell, add_cell, print_tables, read_cells, results

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
    assert not found["replay"].works(base, base)  # nothing was gained, so nothing is proved
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


@pytest.mark.slow
def test_every_condition_is_run_once_and_shown(tmp_path, capsys, monkeypatch):
    """At a size that learns its replies' form and little else: what cures keep is the experiment's own result."""
    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    counts = {"test": 2, "choice": 2, "replay": 4, "base": 20}
    shape = ModelShape(hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=128)
    bench = keeping.open_bench(tmp_path, keeping.Plan(counts, base_epochs=40, epochs=2, shape=shape))
    keeping.run_cells(bench, [*keeping.CURES], [1], [24])
    cells = read_cells(tmp_path)
    assert [cell.condition for cell in cells] == [BASE, *keeping.CURES]
    assert {(len(cell.domain), len(cell.general), len(cell.silent)) for cell in cells} == {(192, 32, 32)}
    by_name = {cell.condition: cell for cell in cells}
    assert [weight for weight, _, _ in by_name["averaging"].curve] == [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1]
    assert by_name["averaging"].weight in (0.1, 0.3, 0.5, 0.7, 0.9, 1)
    assert by_name["averaging"].seconds > by_name[NONE].seconds
    losses = {name: _last_loss(tmp_path / "runs" / f"{name}-24-1") for name in (NONE, "replay", "self-replay", "dft")}
    assert len(set(losses.values())) == len(losses)  # each cure changed what is trained
    capsys.readouterr()
    keeping.run_cells(keeping.open_bench(tmp_path, bench.plan), [*keeping.CURES], [1], [24])
    assert capsys.readouterr().out == ""  # nothing is done twice
    print_tables(cells, bench.general["test"])
    table = capsys.readouterr().out
    assert all(f"| {name} | 1 |" in table for name in keeping.CURES)
    draw_pictures([replace(cell, rows=480) if cell.rows else cell for cell in cells], tmp_path)
    for name in ("cures", "curve"):
        english, chinese = (
            ElementTree.parse(tmp_path / f"keeping-{name}.{each}.svg").getroot() for each in ("en", "zh")
        )
        assert len(list(english.iter())) == len(list(chinese.iter())) > 20


def _last_loss(run):
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record][-1]
