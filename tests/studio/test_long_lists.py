"""Lists of very many rows in a real browser: keys, focus and place while rows come and go."""

import os

import pytest
from support.studio import open_page, studio_of

RECIPE = "model: {name: a/b}\ndata: {name: rows.jsonl}\n"


def make_run(folder, number):
    run = folder / "runs" / f"run-{number:03d}"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(f"name: run-{number:03d}\n{RECIPE}")
    (run / "metrics.jsonl").write_text('{"kind": "eval", "step": 3, "loss": 1.5}\n')
    for path in (run / "recipe.yaml", run / "metrics.jsonl", run):
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))


@pytest.fixture
def runs(tmp_path):
    for number in range(60):
        make_run(tmp_path, number)
    with studio_of(tmp_path) as address:
        yield tmp_path, address


def place_of(link):
    return round(link.bounding_box()["y"])


def test_a_row_keeps_its_focus_and_its_place_while_others_come_above_it(browser, runs):
    folder, address = runs
    with open_page(browser, address) as page:
        box = page.locator(".long-list")
        link = page.get_by_role("link", name="run-030")
        page.get_by_role("link", name="run-059").focus()
        for _ in range(29):
            page.keyboard.press("ArrowDown")
        page.locator("a:focus", has_text="run-030").wait_for()
        before = place_of(link)
        make_run(folder, 100)
        make_run(folder, 101)
        page.get_by_text("62 runs").wait_for()
        page.wait_for_timeout(300)
        assert place_of(link) == before, "what is read stays where it is"
        assert link.evaluate("link => link === document.activeElement")
        assert page.locator("tr", has=link).get_attribute("aria-rowindex") == "33"
        page.keyboard.press("ArrowDown")
        page.locator("a:focus", has_text="run-029").wait_for()
        box.evaluate("box => { box.scrollTop = 0; }")  # by a wheel: the row that has the focus goes out of sight
        link.wait_for(state="detached")
        page.keyboard.press("ArrowDown")
        page.locator("a:focus", has_text="run-028").wait_for()
        page.keyboard.press("Home")
        page.keyboard.press("Home")
        page.locator("a:focus", has_text="run-101").wait_for()
        make_run(folder, 102)
        page.get_by_text("63 runs").wait_for()
        page.get_by_role("link", name="run-102").wait_for()
        assert box.evaluate("box => box.scrollTop") == 0, "at its beginning, the newest is seen"


def test_keys_go_through_a_table_row_by_row_and_leave_it_with_one(browser, runs):
    _, address = runs
    with open_page(browser, address) as page:
        page.get_by_role("link", name="run-059").wait_for()
        page.get_by_role("button", name="When").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.type") == "checkbox"
        page.keyboard.press("PageDown")
        page.keyboard.press("PageUp")
        page.keyboard.press("ArrowUp")
        page.locator("a:focus", has_text="run-059").wait_for()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Shift+Tab")
        page.locator("button:focus", has_text="When").wait_for()
        page.get_by_role("link", name="run-059").focus()
        page.keyboard.press("End")
        page.locator("a:focus", has_text="run-000").wait_for()
        page.get_by_role("button", name="Name").click()
        page.locator("th[aria-sort=ascending]").wait_for()
        page.locator("tr[aria-rowindex='2']", has_text="run-000").wait_for()
        assert page.locator(".long-list").evaluate("box => box.scrollTop") == 0, "another order begins at its beginning"
        page.get_by_role("button", name="Name").click()
        page.locator("tr[aria-rowindex='2']", has_text="run-059").wait_for()
        page.get_by_role("link", name="run-059").press("Enter")
        page.wait_for_url("**/train/runs/run-059")
