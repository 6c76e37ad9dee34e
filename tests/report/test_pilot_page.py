"""The page of a pilot: its recommendation, chart, table and warnings, in both languages, for everybody."""

from dataclasses import replace

import pytest
from support.axe import EVERY_VIEW, violations

from thinktune.config.strict_yaml import parse_yaml
from thinktune.report.pilot_page import draw_losses, list_rows, write_pilot_page
from thinktune.report.pilot_text import cautions, headline, next_command, reasons, recommended_lines
from thinktune.run.pilot_folder import ComparedRun, LeftOut, PilotData, PilotFolder, PilotResult, PilotRun, Span

DATA = PilotData(0.25, 250, 1000, 120, 130, 40, 10_000, 40_000)


def compared(rate, epochs, loss, difference, *, level=False, keeps=True, right=30, **changes):
    answered = tuple(n < right for n in range(64))
    run = PilotRun(rate, epochs, 100, 100, 100, loss, "learning", 9, 1.0, 2.0, "", answered)
    span = Span(*difference) if difference else None
    return ComparedRun(replace(run, **changes), span, level, keeps)


RUNS = (
    compared(5e-6, 1, 1.30, (0.10, 0.05, 0.15)),
    compared(1e-5, 1, 1.21, (0.01, -0.01, 0.03), level=True),
    compared(2e-5, 1, 1.20, (0.0, 0.0, 0.0), level=True, keeps=False, right=11),
    compared(1e-5, 2, 1.25, (0.05, 0.02, 0.08), last_step=60, best_step=40, state="overfitting"),
    compared(8e-5, 1, 3.5, (2.3, 2.1, 2.5), state="worse"),
    compared(1e-4, 1, None, None, state="failed", failure="train.learning_rate: is 1e-4", right=0),
)
LEFT_OUT = (LeftOut(4e-5, 2, "time"), LeftOut(5e-6, 2, "worse"))
RESULT = PilotResult(
    *(
        "mine-pilot",
        "a<b>.yaml",
        ("data.seed=7",),
        1e-5,
        2,
        "cosine",
        DATA,
        (5e-6, 1e-5, 2e-5, 4e-5, 8e-5, 1e-4),
        (1, 2),
        RUNS,
        LEFT_OUT,
    ),
    *(1, 1.6, 64, 32, False, 60.0, 1234.0, True),
)


@pytest.fixture
def page(tmp_path):
    def write(result=RESULT):
        folder = PilotFolder(tmp_path)
        write_pilot_page(folder, result)
        return folder.report.read_text(encoding="utf-8")

    return write


def said(sentences):
    return " ".join(sentence.en for sentence in sentences)


def test_the_page_says_what_is_recommended_why_and_how_sure_it_is(page):
    html = page()
    for text in ("Recommended: learning_rate 1e-5 and epochs 1.", "推荐：learning_rate 1e-5，epochs 1。"):
        assert text in html
    assert "The lowest held-out loss is 1.2000, at rate 2e-5 and 1 epoch." in html
    assert "2 runs, of rates 1e-5 to 2e-5, are level with it" in html
    assert "1 is out, with clearly fewer general questions right" in html
    for warning in ("There was no time for all runs: 1 run was left out (rate × epochs: 4e-5 × 2)", "1 run was not made", "4.0 times as many steps", "250 of 1,000", "因时间不够"):  # fmt: skip
        assert warning in html
    assert "a&lt;b&gt;.yaml" in html
    assert "a<b>" not in html


def test_every_run_is_a_row_and_every_run_below_the_base_a_point(page):
    html, chart = page(), draw_losses(RESULT)
    assert html.count('href="rate-') == len(RUNS)
    assert html.count('class="chosen"') == 1
    assert chart.count('<circle class="marker') - 2 == 4, "of the runs; two are in the legend"
    assert chart.count('class="interval') == 4
    for rate in ("5e-6", "1e-5", "2e-5", "4e-5", "8e-5", "1e-4"):
        assert f">{rate}<" in chart
    assert "recommended" in chart
    assert "推荐" in chart
    by_name = {row.folder: row for row in list_rows(RESULT)}
    assert by_name["rate-1e-5-epochs-2"].best_epoch == pytest.approx(0.8)
    assert by_name["rate-1e-5-epochs-2"].ended.en == "overfitting"
    assert by_name["rate-1e-4-epochs-1"].ended.en == "no finite gradient"
    assert by_name["rate-1e-5-epochs-1"].ended is by_name["rate-1e-5-epochs-1"].best_epoch is None


def test_the_recommended_lines_are_yaml_that_a_recipe_takes():
    read = parse_yaml("\n".join(["train:", *(f"  {line}" for line in recommended_lines(RESULT))]))
    assert read.value == {"train": {"learning_rate": 1e-5, "epochs": 1}}
    assert not read.faults
    assert "1e-5 to 2e-5 are level at 95 %, 25 % of the rows" in recommended_lines(RESULT)[0]
    assert next_command(RESULT).endswith(" train 'a<b>.yaml' data.seed=7 train.learning_rate=1e-5 train.epochs=1")


def test_a_recommendation_at_the_edge_of_the_grid_says_where_to_look_next():
    assert "--rates" not in said(cautions(RESULT))
    upper = said(cautions(replace(RESULT, rates=(5e-6, 1e-5, 2e-5))))
    assert "a larger one may be even better: --rates 5e-6,1e-5,2e-5,4e-5" in upper
    lower = said(cautions(replace(RESULT, rates=(1e-5, 2e-5, 4e-5))))
    assert "a smaller one may be even better: --rates 5e-6,1e-5,2e-5,4e-5" in lower
    longer = [compared(1e-5, 1, 1.3, (0.1, 0.05, 0.2)), compared(1e-5, 2, 1.2, (0, 0, 0), level=True)]
    assert "--epochs 1,2,4" in said(cautions(replace(RESULT, runs=longer)))
    assert "--epochs" not in said(cautions(RESULT))


def test_nothing_is_recommended_where_nothing_is_better_than_the_base(page):
    none = replace(RESULT, chosen=None)
    html = page(none)
    assert "No run is clearly better than the base model" in html
    assert "learning_rate: " not in html
    assert (recommended_lines(none), next_command(none), reasons(none)) == ([], None, [])
    assert "Every run failed" in page(replace(none, runs=RUNS[-1:], base_loss=None))
    empty = page(replace(none, runs=(), base_loss=None, finished=False))
    assert "No run has been measured yet" in empty
    assert "not finished" in empty
    assert headline(replace(none, runs=())).zh


def test_all_rows_need_no_word_about_a_share_and_a_base_that_knows_nothing_no_chart(page):
    whole = replace(RESULT, data=replace(DATA, train_rows=1000, share=1.0))
    assert "times as many steps" not in said(cautions(whole))
    unasked = replace(RESULT, base_right=1, runs=tuple(replace(each, run=replace(each.run, right=())) for each in RUNS))
    html = page(unasked)
    assert "The base answers 1 of 64 general questions right" in html
    assert "% answered correctly" not in html
    assert "could not be asked" in page(replace(unasked, probe_questions=0, base_right=0))


@EVERY_VIEW
def test_the_page_leaves_nobody_out(page, tmp_path, browser, locale, scheme, width):
    page()
    context = browser.new_context(viewport={"width": width, "height": 800}, locale=locale, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(PilotFolder(tmp_path).report.resolve().as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(opened) == []
    context.close()
