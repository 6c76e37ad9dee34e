"""Pages in a real browser: from a file, offline, in both languages and themes, on a desktop and on a phone."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.runs import quiet, settings

from thinktune.report import run_page
from thinktune.report.comparison_page import write_comparison
from thinktune.run import RunFolder, journal
from thinktune.train.loop import train

VIEWS = [
    ("en-US", "light", 1280, "Still learning", "仍在学习"),
    ("zh-CN", "dark", 390, "仍在学习", "Still learning"),
]


@pytest.mark.parametrize(("locale", "scheme", "width", "shown", "hidden"), VIEWS)
def test_pages_open_without_a_network_and_without_an_error(tree, browser, locale, scheme, width, shown, hidden):
    one = train(settings(tree, name="one", data={"validation": 0.5}), quiet)
    other = train(settings(tree, name="other", data={"validation": 0.5}, train={"epochs": 2}), quiet)
    view = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, locale=locale, offline=True
    )
    tab, wrong, asked = view.new_page(), [], []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    for page in (one / "report.html", write_comparison([one, other])):
        asked.clear()
        tab.goto(page.resolve().as_uri())
        assert asked == [page.resolve().as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, "wider than the screen"
        assert tab.locator("svg.plot").first.is_visible()
    tab.goto((one / "report.html").resolve().as_uri())
    assert shown in tab.inner_text("main")
    assert hidden not in tab.inner_text("main")
    background = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, background.removeprefix("rgb(").rstrip(")").split(","))) < 384) == (scheme == "dark")
    tab.click("#language")
    assert hidden in tab.inner_text("main")
    fold = tab.locator("article details").first
    assert not fold.evaluate("fold => fold.open"), "reasoning is folded at first"
    assert wrong == []
    view.close()


def test_a_page_keeps_its_folds_when_it_reloads(tmp_path, browser):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("name: run\n")
    journal.append(RunFolder(run).metrics, [{"kind": "train", "step": 1, "loss": 2.0}])
    page = run_page.write_run_page(run, running=True)
    page.write_text(page.read_text(encoding="utf-8").replace('data-refresh="30"', 'data-refresh="1"'), encoding="utf-8")
    tab = browser.new_page()
    tab.goto(page.resolve().as_uri())
    tab.click("#recipe summary")
    with tab.expect_event("load"):
        pass
    assert tab.locator("#recipe").evaluate("fold => fold.open")
    tab.close()


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_a_whole_page_and_whole_metrics(tree, tmp_path):
    tree["train"] |= {"epochs": 4000}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    folder = Path(tree["runs_folder"]) / "small"
    running = subprocess.Popen(
        [sys.executable, "-m", "thinktune", "train", str(tmp_path / "small.yaml")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        while not (folder / "report.html").exists() or len(journal.read_metrics(folder)) < 12:
            assert running.poll() is None, "it ended before it was killed"
            time.sleep(0.05)
    finally:
        running.kill()
        running.wait()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert 'data-refresh="30"' in page, "nobody has written it since"
    assert 'class="marker eval"' in page
    lines = RunFolder(folder).metrics.read_bytes().split(b"\n")[:-1]
    assert [json.loads(line)["kind"] for line in lines[:1]] == ["eval"]
    assert all(json.loads(line) for line in lines)
    again = run_page.write_run_page(folder).read_text(encoding="utf-8")
    assert "without a message: it was killed, or the machine went down" in again
    assert "data-refresh" not in again


def test_a_page_that_nobody_rewrites_says_so_and_stops_reloading(tmp_path, browser):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("name: run\n")
    journal.append(RunFolder(run).metrics, [{"kind": "train", "step": 1, "loss": 2.0}])
    page = run_page.write_run_page(run, running=True)
    fresh = page.read_text(encoding="utf-8").replace('data-refresh="30"', 'data-refresh="1"')
    tab, loads = browser.new_page(), []
    tab.on("load", lambda _: loads.append(1))
    page.write_text(fresh, encoding="utf-8")
    tab.goto(page.resolve().as_uri())
    assert not tab.locator("#stale").is_visible()
    page.write_text(re.sub(r'data-stale-after="\d+"', f'data-stale-after="{1000 * (time.time() - 1):.0f}"', fresh))
    tab.locator("#stale").wait_for(state="visible")
    seen = len(loads)
    tab.wait_for_timeout(2500)
    assert len(loads) == seen, "it still reloads"
    tab.close()
