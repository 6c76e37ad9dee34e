"""Home and Train in a real browser: live, by keyboard, in both languages, and true after either side has died."""

import json
import os
import socket
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from support.axe import EVERY_VIEW, violations
from support.recorded_run import write_run
from support.studio import open_page, studio_of

from thinktune.run import RunFolder, lock_run
from thinktune.run.journal import append
from thinktune.run.status import RunStatus, record_ending

RECIPE = "model: {name: a/b}\ndata: {name: rows.jsonl}\n"
WORDS = sorted(Path(one.name).stem for one in (files("thinktune.studio") / "page" / "words").iterdir())
FIRST_PAINT_MS = 1000


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path / "runs" / "one", 1e-5)
    write_run(tmp_path / "runs" / "two", 2e-5)
    environment = json.dumps({"model": "a/b", "steps": 60, "data_fingerprint": "x"})
    for name in ("one", "two"):
        (tmp_path / "runs" / name / "environment.json").write_text(environment)
        (tmp_path / "runs" / name / "recipe.yaml").write_text(f"name: {name}\n{RECIPE}")
    (tmp_path / "one.yaml").write_text(RECIPE)
    (tmp_path / "rows.jsonl").write_text('{"question": "Why?", "answer": "So."}\n')
    return tmp_path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_both_languages_have_the_same_words_and_arguments(browser, folder):
    compare = """async (names) => {
      const shape = (words, place) => typeof words === 'object' ? Object.entries(words).flatMap(([key, one]) => shape(one, `${place}.${key}`)) : [`${place} ${typeof words} ${words.length * (typeof words === 'function')}`];
      const found = {};
      for (const name of names) { const file = await import(`/page/words/${name}.js`); found[name] = [shape(file.en, ''), shape(file.zh, '')]; }
      return found;
    }"""
    with studio_of(folder) as address, open_page(browser, address) as page:
        for name, (english, chinese) in page.evaluate(compare, WORDS).items():
            assert sorted(english) == sorted(chinese), name
            assert english, name


@EVERY_VIEW
def test_home_and_train_leave_nobody_out(browser, folder, locale, scheme, width):
    options = {"locale": locale, "color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with studio_of(folder) as address, open_page(browser, address, **options) as page:
        page.locator("tr.row").nth(1).wait_for()
        assert violations(page) == [], "home"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.goto(f"{address}/train/runs/one")
        page.locator(".report-charts svg.plot").first.wait_for()
        page.locator(".samples .pair").wait_for()
        assert violations(page) == [], "train"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    (folder / "empty").mkdir()
    with studio_of(folder / "empty") as address, open_page(browser, address, **options) as page:
        page.locator(".welcome").wait_for()
        assert violations(page) == [], "an empty folder"


def test_the_first_paint_comes_at_once_and_the_language_and_theme_stay(browser, folder):
    with studio_of(folder) as address, open_page(browser, address) as page:
        page.locator("h1", has_text="Studio").wait_for()
        page.reload()
        page.locator("h1", has_text="Studio").wait_for()
        assert page.evaluate("performance.getEntriesByType('paint')[0].startTime") < FIRST_PAINT_MS
        page.get_by_role("button", name="中文").click()
        page.locator("h1", has_text="工作台").wait_for()
        page.get_by_label("外观").select_option("dark")
        page.reload()
        page.locator("h1", has_text="工作台").wait_for()
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


def test_runs_are_found_and_compared_by_keyboard_alone(browser, folder):
    with studio_of(folder) as address, open_page(browser, address) as page:
        page.locator("tr.row").nth(1).wait_for()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # the skip link
        assert page.evaluate("document.activeElement.id") == "main"
        page.get_by_role("searchbox").focus()
        page.keyboard.type("two")
        page.get_by_text("1 run", exact=True).wait_for()
        page.keyboard.press("Control+a")
        page.keyboard.press("Delete")
        page.get_by_text("2 runs", exact=True).wait_for()
        page.get_by_role("button", name="Name").focus()
        page.keyboard.press("Enter")
        page.locator("th[aria-sort=ascending]").wait_for()
        page.locator("tr.row a", has_text="runs/one").first.wait_for()
        for name in ("runs/one", "runs/two"):
            page.get_by_role("checkbox", name=name).focus()
            page.keyboard.press("Space")
        page.get_by_role("button", name="Show side by side").focus()
        page.keyboard.press("Enter")
        with page.expect_popup() as opened:
            page.get_by_role("link", name="Open the page").click(timeout=60_000)
        opened.value.get_by_text("one").first.wait_for()
        assert opened.value.evaluate("origin") == "null"
        page.get_by_role("link", name="runs/one").focus()
        page.keyboard.press("Enter")
        page.locator("h1", has_text="runs/one").wait_for()
        assert page.url.endswith("/train/runs/one")
        page.go_back()
        page.locator("h1", has_text="Studio").wait_for()


def test_a_run_is_seen_as_it_goes_on_and_ends_in_two_tabs_alike(browser, folder):
    run = folder / "runs" / "one"
    with studio_of(folder) as address, open_page(browser, f"{address}/train/runs/one") as page:
        other = page.context.new_page()
        other.goto(f"{address}/")
        with lock_run(run):
            page.locator(".run-head .state.running").wait_for()
            append(RunFolder(run).metrics, [{"kind": "train", "step": 31, "loss": 0.25, "tokens_per_second": 1234.0}])
            page.get_by_text("Step 31 of 60", exact=True).wait_for()
            page.get_by_text("1,234 tokens/s").wait_for()
            other.locator("tr.row .state.running").wait_for()
            append(RunFolder(run).metrics, [{"kind": "event", "step": 31, "text": "the learning rate was cut"}])
            page.get_by_text("the learning rate was cut").wait_for()
        record_ending(run, RunStatus("stopped", 31, "SIGINT"))
        page.locator(".run-head .state.stopped").wait_for()
        page.get_by_text("Stopped at step 31").wait_for()
        page.get_by_role("button", name="Resume").wait_for()
        other.locator("tr.row .state.stopped").wait_for()


def test_a_resume_that_fails_before_the_run_goes_on_is_told(browser, folder):
    act = folder / ".thinktune/acts/20260101-000000-train-aaaaaa"
    act.mkdir(parents=True)
    record = {"verb": "train", "about": {"recipe": "one.yaml"}, "command": "thinktune train one.yaml"}
    (act / "act.json").write_text(json.dumps(record | {"started_at": time.time(), "argv": [], "folder": "."}))
    (act / "stderr").write_text("error: one.yaml: the card has no room; choose another\n")
    (act / "exit.json").write_text(json.dumps({"code": 2, "ended_at": time.time() + 1}))
    with studio_of(folder) as address, open_page(browser, f"{address}/train/runs/one") as page:
        page.get_by_text("the card has no room").wait_for()
        page.get_by_role("button", name="Resume").wait_for()
        append(RunFolder(folder / "runs" / "one").metrics, [{"kind": "train", "step": 44, "loss": 0.2}])
        os.utime(folder / "runs" / "one" / "metrics.jsonl", (time.time() + 9, time.time() + 9))
        page.get_by_text("the card has no room").wait_for(state="detached")  # the run has gone on since


def test_an_answer_slower_than_the_polls_is_shown_all_the_same(browser, folder):
    with studio_of(folder) as address:
        page = browser.new_context().new_page()
        slow = "const slow = fetch; fetch = async (...asked) => { if (String(asked[0]).includes('studio/home')) await new Promise((done) => setTimeout(done, 5000)); return slow(...asked); };"
        page.add_init_script(slow)
        page.goto(address)
        page.get_by_role("heading", name="Recipes").wait_for(timeout=20_000)
        page.context.close()


def test_more_tabs_than_a_browser_has_connections_show_a_run(browser, folder):
    with studio_of(folder) as address, open_page(browser, f"{address}/train/runs/one") as page:
        for _ in range(6):
            page.locator(".run-head").wait_for()
            page = page.context.new_page()
            page.goto(f"{address}/train/runs/one")
        page.locator(".report-charts svg.plot").first.wait_for()


def test_charts_take_newer_values_and_keep_what_the_reader_chose(browser, folder):
    run = folder / "runs" / "one"
    with studio_of(folder) as address, open_page(browser, f"{address}/train/runs/one") as page:
        page.locator(".report-charts svg.plot").first.wait_for()
        page.locator(".chart-tools [name=over]").select_option("epoch")
        plot = page.locator(".report-charts svg.plot").first
        plot.focus()
        page.keyboard.press("Home")
        page.locator(".readout b").first.wait_for()
        before = page.locator(".readout").first.inner_text()
        points = page.locator("svg.plot path.line.eval").first.get_attribute("d").count(" L")
        with lock_run(run):
            append(RunFolder(run).metrics, [{"kind": "eval", "step": 40, "epoch": 4.0, "loss": 1.1}])
            deadline = time.monotonic() + 20
            while page.locator("svg.plot path.line.eval").first.get_attribute("d").count(" L") == points:
                assert time.monotonic() < deadline
                page.wait_for_timeout(100)
            assert page.locator(".chart-tools [name=over]").input_value() == "epoch"
            assert page.locator(".readout").first.inner_text() == before
            assert page.evaluate("document.activeElement.closest('.chart') !== null")


def test_a_page_outlives_its_server_and_says_what_became_of_it(browser, folder):
    port = free_port()
    with studio_of(folder, port=port) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}/train/runs/one")
        page.locator(".report-charts svg.plot").first.wait_for()
    page.get_by_text("The connection is lost").wait_for()
    assert page.locator("h1", has_text="runs/one").is_visible(), "what was last known stays"
    append(RunFolder(folder / "runs" / "one").metrics, [{"kind": "train", "step": 44, "loss": 0.2}])
    with studio_of(folder, port=port):
        page.get_by_text("Step 44 of 60", exact=True).wait_for()
        page.get_by_text("The connection is lost").wait_for(state="detached")
    context.close()


def test_a_key_is_asked_for_once_and_kept_by_the_tab(browser, folder):
    with studio_of(folder, key="secret") as address, open_page(browser, address) as page:
        page.locator("dialog[open] input").fill("secret")
        page.keyboard.press("Enter")
        page.locator("tr.row").first.wait_for()
        page.goto(f"{address}/train/runs/one")
        page.locator(".report-charts svg.plot").first.wait_for()
        assert not page.locator("dialog[open]").count()


def test_a_wrong_key_is_told_and_the_question_can_be_left(browser, folder):
    with studio_of(folder, key="secret") as address, open_page(browser, address) as page:
        page.locator("dialog[open] input").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("This key is wrong").wait_for()
        page.keyboard.press("Escape")
        page.locator("dialog[open]").wait_for(state="detached")
        page.wait_for_timeout(4500)  # the next poll is refused as well, and asks nobody
        assert not page.locator("dialog[open]").count()
        page.get_by_role("button", name="Give the key").click()
        page.locator("dialog[open] input").fill("secret")
        page.keyboard.press("Enter")
        page.locator("tr.row").first.wait_for()
        assert not page.get_by_role("button", name="Give the key").count()


@pytest.mark.slow
def test_ten_thousand_runs_scroll_smoothly(browser, tmp_path):
    for number in range(10_000):
        run = tmp_path / "runs" / f"run-{number:05d}"
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(f"name: run-{number:05d}\n{RECIPE}")
        (run / "metrics.jsonl").write_text('{"kind": "eval", "step": 3, "loss": 1.5}\n')
    with studio_of(tmp_path) as address, open_page(browser, address) as page:
        page.get_by_text("10000 runs").wait_for()
        page.get_by_role("button", name="Name").click()
        page.get_by_role("link", name="run-00000").wait_for()
        assert page.locator("tr.row").count() < 100
        began = time.monotonic()
        page.locator(".long-list").evaluate("box => { box.scrollTop = box.scrollHeight; }")
        page.get_by_role("link", name="run-09999").wait_for()
        assert time.monotonic() - began < 2


@pytest.mark.slow
def test_a_small_model_is_trained_from_the_page_stopped_and_resumed_whoever_dies(browser, tmp_path, monkeypatch):
    from support.runs import small_tree

    monkeypatch.setenv("THINKTUNE_CACHE", str(tmp_path / "cache"))
    tree = small_tree(tmp_path / "folder") | {"runs_folder": "runs"}
    tree["train"] |= {"epochs": 400, "evaluate_every_steps": 150}
    folder = tmp_path / "folder"
    (folder / "small.yaml").write_text(yaml.safe_dump(tree))
    port = free_port()
    command = [sys.executable, "-m", "thinktune", "studio", str(folder), "--port", str(port)]
    studio = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    address = studio.stdout.readline().split()[-1]
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}train/runs/small")
    page.get_by_role("button", name="Start training").click()
    page.locator(".run-head .state.running").wait_for(timeout=120_000)
    studio.kill()
    studio.wait()
    page.get_by_text("The connection is lost").wait_for()
    studio = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    page.get_by_text("The connection is lost").wait_for(state="detached", timeout=60_000)
    page.get_by_role("button", name="Stop").click()
    page.locator(".run-head .state.stopped").wait_for(timeout=60_000)
    journal = folder / "runs" / "small" / "metrics.jsonl"
    stopped_at = json.loads(journal.read_text().splitlines()[-1])["step"]
    page.get_by_role("button", name="Resume").click()
    page.locator(".run-head .state.running").wait_for(timeout=120_000)
    while '"ending"' in journal.read_text():  # until the journal is rewound
        page.wait_for_timeout(100)
    [act] = [one for one in (folder / ".thinktune" / "acts").iterdir() if not (one / "exit.json").exists()]
    for number in json.loads((act / "process.json").read_text()).values():
        os.kill(number, 9)
    page.locator(".run-head .state.died").wait_for(timeout=60_000)
    page.get_by_role("button", name="Resume").click()
    page.locator(".run-head .state.finished").wait_for(timeout=240_000)
    assert stopped_at > 0
    context.close()
    studio.kill()
    studio.wait()


def test_a_browser_without_the_newest_functions_shows_the_screens(browser, folder):
    with studio_of(folder) as address, open_page(browser, "about:blank") as page:

        def older(route):
            reply = route.fetch()
            route.fulfill(response=reply, body=reply.text().replace("light-dark(", "of-no-browser("))

        page.add_init_script("delete AbortSignal.any")
        page.route("**/*.css", older)
        page.goto(address)
        page.get_by_role("link", name="one.yaml").click()
        page.get_by_role("link", name="Train").click()
        page.locator(".samples .pair").wait_for(timeout=10_000)
        grounds = page.locator("body, .report-charts").evaluate_all(
            "all => all.map((one) => [getComputedStyle(one).backgroundColor, getComputedStyle(one).getPropertyValue('--train')])"
        )
        assert grounds[0][0] == "rgb(247, 248, 250)"
        assert grounds[1][1].startswith("#")
        assert not page.get_by_role("alert").count()


def test_an_address_of_no_screen_says_so(browser, folder):
    with studio_of(folder) as address, open_page(browser, address) as page:
        page.get_by_role("link", name="one.yaml").wait_for()
        page.evaluate("history.pushState(null, '', '/constructor'); dispatchEvent(new PopStateEvent('popstate'))")
        page.get_by_text("There is no such screen.").wait_for(timeout=5_000)
        assert page.title() == "Home · thinktune"
