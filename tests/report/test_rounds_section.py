"""The report shows pass@n of each round that a run's rows came from, and only of such runs."""

import json

import pytest

from thinktune.errors import UserError
from thinktune.report.run_page import write_run_page
from thinktune.run import RunFolder

ROUNDS = [
    {
        "teacher": "start",
        "questions": 90,
        "graded_questions": 80,
        "pass_at": {"1": [0.355, 0.3, 0.4], "4": [0.6, 0.5, 0.7]},
    },
    {"teacher": "runs/<b>one", "graded_questions": 79, "pass_at": {"1": [0.66, 0.6, 0.7], "4": [0.8, 0.75, 0.9]}},
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: run\n", encoding="utf-8")
    return RunFolder(tmp_path)


def page(run, rounds=None):
    if rounds is not None:
        run.rounds.write_text(rounds if isinstance(rounds, str) else json.dumps(rounds), encoding="utf-8")
    return write_run_page(run.path).read_text(encoding="utf-8")


def test_each_round_has_its_figures_and_the_rounds_have_a_line(run):
    html = page(run, ROUNDS)
    for shown in ("pass@1", "pass@4", "35.5 %", "66.0 %", "60.0", "to", "70.0 %", "80", "79", "各轮的 pass@n"):
        assert shown in html
    assert html.count("<b>one") == 0
    assert "runs/&lt;b&gt;one" in html
    start = html.index("What the teacher of each round could do")
    section = html[start : html.index("</table>", start)]
    assert section.count("<circle") == 6  # pass@1 and pass@4 of two rounds, and their marks in the legend


def test_one_round_is_a_table_without_a_line(run):
    html = page(run, ROUNDS[:1])
    start = html.index("What the teacher of each round could do")
    section = html[start : html.index("</table>", start)]
    assert "<svg" not in section
    assert "35.5 %" in section


@pytest.mark.parametrize("rounds", [None, []])
def test_other_runs_have_no_such_section(run, rounds):
    assert "What the teacher of each round could do" not in page(run, rounds)


@pytest.mark.parametrize("damaged", ["{", [{"teacher": 1}], [ROUNDS[0] | {"pass_at": {"1": [0.9, 0.1, 0.2]}}]])
def test_a_damaged_file_is_named_and_the_page_written_without_it(run, damaged):
    with pytest.raises(UserError, match=r"rounds\.json.*report\.html was written without it"):
        page(run, damaged)
    assert "What the teacher of each round could do" not in run.report.read_text(encoding="utf-8")
