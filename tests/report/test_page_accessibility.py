"""A run's page, the comparison of runs, and the page of doubts leave nobody out, says axe-core."""

import pytest
from support.axe import EVERY_VIEW, violations
from support.prepared_rows import prose, rows_of, with_rows
from support.recorded_run import write_run

from thinktune.data.doubts import find_doubts
from thinktune.report import write_comparison
from thinktune.report.doubts_page import write_doubts
from thinktune.report.run_page import write_run_page


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / "one", 1e-5), write_run(folder / "other", 2e-5)]


def check(browser, file, view):
    locale, scheme, width = view
    context = browser.new_context(viewport={"width": width, "height": 800}, locale=locale, color_scheme=scheme)
    page = context.new_page()
    page.goto(file.resolve().as_uri())
    page.locator("details").evaluate_all("all => all.forEach(it => it.open = true)")
    assert page.locator("svg, fieldset").count()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    context.close()


@EVERY_VIEW
def test_the_page_of_a_run(runs, browser, locale, scheme, width):
    page = write_run_page(runs[0])
    for part in ("Row by row", "Switches obeyed", "Hardest rows", "Memorized rows", "Lengths in tokens", "a slow step"):
        assert part in page.read_text(encoding="utf-8")
    check(browser, page, (locale, scheme, width))


@EVERY_VIEW
def test_the_comparison_of_runs(runs, browser, locale, scheme, width):
    check(browser, write_comparison(runs), (locale, scheme, width))


@EVERY_VIEW
def test_the_page_of_doubts(tree, tokenizer, tmp_path, browser, locale, scheme, width):
    rows = rows_of(6)
    rows[2]["answer"] = f"{prose(900)} First line.\\nSecond line. {prose(990)}"
    rows[4]["answer"] = "It is 4,"
    write_doubts(find_doubts(with_rows(tree, rows, validation=0.0), tokenizer), tmp_path / "out")
    check(browser, tmp_path / "out" / "doubts.html", (locale, scheme, width))
