"""The page of doubts: repairs are marked, and what is chosen in a browser becomes a file that the pipeline obeys."""

import json
import shutil
from pathlib import Path

import pytest
from support.prepared_rows import prose, rows_of, with_rows

from thinktune.data.doubts import find_doubts
from thinktune.data.faults.decisions import decisions_file
from thinktune.data.pipeline import prepare
from thinktune.report.doubts_page import write_doubts

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def doubtful(tree):
    rows = rows_of(6)
    rows[1]["think"] = "The provided answer is 1 </b><script>alert(1)</script>."
    rows[2]["answer"] = f"{prose(900)} First line.\\nSecond line. {prose(990)}"
    rows[3]["answer"] = "a\u200bb"
    rows[4]["answer"] = "It is 4,"
    return with_rows(tree, rows, validation=0.0)


def test_the_page_shows_rows_beside_their_repair(doubtful, tokenizer, tmp_path):
    lines = write_doubts(find_doubts(doubtful, tokenizer), tmp_path / "out")
    page = (tmp_path / "out" / "doubts.html").read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "out" / "doubts.json").read_text(encoding="utf-8"))
    assert {row["fault"] for row in facts["rows"]} == {
        "handed_answer",
        "literal_newline",
        "control_character",
        "fragment",
    }
    assert "4 of 4 doubtful rows" in lines[0]
    assert "<script>alert" not in page
    assert "<mark>\\n</mark>" in page  # what the repair takes away, with a little around it
    assert page.count("and another") < 2 * 90
    assert "<mark>\\u200b</mark>" in page
    assert "rows.jsonl.doubts.json" in page
    assert "http" not in page.replace("http-equiv", "")


def test_without_doubts_the_page_says_so(tree, tokenizer, tmp_path):
    recipe = with_rows(tree, rows_of(3), validation=0.0)
    assert "every doubtful row is already decided" in write_doubts(find_doubts(recipe, tokenizer), tmp_path / "out")[0]
    assert "Every doubtful row is already decided" in (tmp_path / "out" / "doubts.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_is_chosen_in_a_browser_is_obeyed(doubtful, tokenizer, tmp_path):
    tool = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine")
    write_doubts(find_doubts(doubtful, tokenizer), tmp_path / "out")
    wrong = []
    with tool.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_context(offline=True, viewport={"width": 390, "height": 800}).new_page()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.goto((tmp_path / "out" / "doubts.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.locator("fieldset[data-fault=handed_answer] input[value=keep]").check()
        tab.locator("fieldset[data-fault=fragment] input[value=keep]").check()
        tab.locator("fieldset[data-fault=literal_newline] input[value=drop]").check()
        shown = tab.locator("textarea").input_value()
        with tab.expect_download() as download:
            tab.locator("a.save").click()
        saved = tmp_path / download.value.suggested_filename
        download.value.save_as(saved)
        tab.reload()
        assert tab.locator("fieldset[data-fault=fragment] input[value=keep]").is_checked()
        browser.close()
    assert not wrong
    assert saved.read_text(encoding="utf-8") == shown
    target = decisions_file(Path(doubtful.data.name))
    assert saved.name == target.name
    shutil.move(saved, target)
    kept = {example.source for example in prepare(doubtful, tokenizer).train.examples()}
    assert kept == {f"rows.jsonl:{line}" for line in (1, 2, 4, 5, 6)}
    assert {row.fault for row in find_doubts(doubtful, tokenizer).rows} == {"control_character"}
