"""Tabs that nobody sees, and servers that do not answer, in a real browser."""

import json
import time
from contextlib import contextmanager

import pytest
from support.recorded_run import write_run
from support.silent_proxy import proxy_before
from support.studio import open_page, studio_of

from thinktune.run import RunFolder, lock_run
from thinktune.run.journal import append
from thinktune.run.status import RunStatus, record_ending

RECIPE = "model: {name: a/b}\ndata: {name: rows.jsonl}\n"
LOOK = """seen => {
  Object.defineProperty(document, 'visibilityState', { value: seen ? 'visible' : 'hidden', configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""
TELL = """window.told = [];
window.Notification = class extends window.Notification { constructor(title, options) { super(title, options); told.push(options.body); } };"""


@pytest.fixture
def folder(tmp_path):
    run = write_run(tmp_path / "runs" / "one", 1e-5)
    (run / "environment.json").write_text(json.dumps({"model": "a/b", "steps": 60, "data_fingerprint": "x"}))
    (run / "recipe.yaml").write_text(f"name: one\n{RECIPE}")
    (tmp_path / "one.yaml").write_text(RECIPE)
    return tmp_path


@contextmanager
def page_with_clock(browser, address):
    """Open a page whose timers can be wound on, that may notify, and that keeps what it notified of in `told`."""
    with open_page(browser, "about:blank") as page:
        page.context.grant_permissions(["notifications"], origin=address)
        page.clock.install()
        page.add_init_script(TELL)
        page.goto(address)
        yield page


def wind_until(page, shown, seconds=5, **state):
    """Wind the page's timers on until something is shown; fails after two minutes of its time."""
    for _ in range(120 // seconds):
        page.clock.fast_forward(seconds * 1000)
        page.wait_for_timeout(200)
        if shown.count() == (0 if state.get("gone") else 1):
            return
    raise AssertionError(f"not within two minutes: {shown}")


def step(run, number):
    append(RunFolder(run).metrics, [{"kind": "train", "step": number, "loss": 0.25}])


def test_a_server_that_takes_what_is_asked_and_never_answers_is_told_and_found_again(browser, folder):
    with studio_of(folder) as address, proxy_before(address) as proxy, page_with_clock(browser, proxy.address) as page:
        page.get_by_role("link", name="one.yaml").wait_for()
        unreachable = page.get_by_text("does not answer")
        proxy.is_silent = True
        wind_until(page, unreachable.first.and_(page.locator(":visible")))
        assert page.get_by_role("link", name="one.yaml").is_visible(), "what was last known stays"
        (folder / "two.yaml").write_text(RECIPE)
        proxy.is_silent = False
        wind_until(page, unreachable, gone=True)
        page.get_by_role("link", name="two.yaml").wait_for()


@pytest.mark.parametrize("screen", ["", "rows"])
def test_a_screen_of_no_name_tells_an_outage_at_its_top_and_when_it_is_over(browser, folder, screen):
    with (
        studio_of(folder) as address,
        proxy_before(address) as proxy,
        page_with_clock(browser, f"{proxy.address}/{screen}") as page,
    ):
        page.get_by_role("link", name="one.yaml").wait_for()
        page.evaluate("window.back = 0; addEventListener('studio-back', () => (back += 1))")
        proxy.is_silent = True
        wind_until(page, page.locator(".outage:visible"))
        page.clock.fast_forward(10_000)  # whatever was asked has had no answer now
        page.wait_for_timeout(200)
        assert page.get_by_text("does not answer").and_(page.locator(":visible")).count() == 1, "said once"
        proxy.is_silent = False
        wind_until(page, page.get_by_text("does not answer"), gone=True)
        assert page.evaluate("back"), "a refused button forgets its sentence"


def test_a_screen_that_asks_once_asks_again_after_no_answer(browser, folder):
    with (
        studio_of(folder) as address,
        proxy_before(address) as proxy,
        page_with_clock(browser, f"{proxy.address}/") as page,
    ):
        fetched = []
        page.on("requestfinished", lambda request: fetched.append(request.url.removeprefix(proxy.address)))
        page.clock.fast_forward(3_000)
        for _ in range(100):
            if "/page/screens/proof/rows.js" in fetched:
                break
            page.wait_for_timeout(100)
        page.wait_for_timeout(500)
        proxy.is_silent = True
        page.evaluate("history.pushState(null, '', '/proof/runs/one'); dispatchEvent(new PopStateEvent('popstate'))")
        wind_until(page, page.get_by_text("does not answer").and_(page.locator(":visible")))
        proxy.is_silent = False
        wind_until(page, page.get_by_role("heading", name="Row by row"))


def test_a_screen_that_does_not_come_is_told_and_fetched_again(browser, folder):
    with studio_of(folder) as address:
        page = browser.new_context().new_page()
        page.route("**/page/screens/proof.js", lambda route: route.abort())
        page.goto(f"{address}/proof/runs/one")
        page.get_by_text("does not answer").wait_for()
        page.unroute("**/page/screens/proof.js")
        page.get_by_role("heading", name="Row by row").wait_for()
        assert not page.get_by_text("does not answer").count()
        page.context.close()


def test_a_stream_that_falls_silent_is_followed_again(browser, folder):
    run = folder / "runs" / "one"
    with (
        studio_of(folder) as address,
        proxy_before(address) as proxy,
        lock_run(run),
        page_with_clock(browser, f"{proxy.address}/train/runs/one") as page,
    ):
        page.locator(".run-head .state.running").wait_for()
        proxy.is_silent = True
        wind_until(page, page.get_by_text("The connection is lost"))
        step(run, 44)
        proxy.is_silent = False
        wind_until(page, page.get_by_text("Step 44 of 60", exact=True))
        wind_until(page, page.get_by_text("The connection is lost"), gone=True)


def test_a_tab_that_is_not_seen_holds_no_stream_and_catches_up_when_it_is(browser, folder):
    run = folder / "runs" / "one"
    with studio_of(folder) as address, lock_run(run), page_with_clock(browser, f"{address}/train/runs/one") as page:
        page.locator(".run-head .state.running").wait_for()
        step(run, 41)
        page.get_by_text("Step 41 of 60", exact=True).wait_for()
        page.clock.fast_forward(4_000)  # the charts of this step come as well
        page.wait_for_timeout(500)
        asked, ended = [], []
        page.on("request", lambda request: asked.append(request.url.removeprefix(address)))
        page.on("requestfailed", lambda request: ended.append(request.url.removeprefix(address)))
        page.evaluate(LOOK, False)
        page.wait_for_timeout(200)
        assert ended == ["/studio/run-events/runs/one"], "the stream gives its connection back"
        step(run, 42)
        page.clock.fast_forward(9_000)
        page.wait_for_timeout(200)
        assert asked == [], "nothing polls"
        page.clock.fast_forward(2_000)
        page.get_by_text("Step 42 of 60", exact=True).wait_for()
        assert asked[0] == "/studio/run/runs/one", "it only looks whether the run has ended"
        assert set(asked[1:]) <= {"/studio/run-charts/runs/one"}
        step(run, 43)
        page.evaluate(LOOK, True)
        page.get_by_text("Step 43 of 60", exact=True).wait_for(timeout=5_000)
        step(run, 44)
        page.get_by_text("Step 44 of 60", exact=True).wait_for(timeout=5_000)
        assert asked.count("/studio/run-events/runs/one") == 1


def test_a_run_that_ends_is_told_in_a_tab_that_is_not_seen(browser, folder):
    run = folder / "runs" / "one"
    with studio_of(folder) as address, page_with_clock(browser, f"{address}/train/runs/one") as page:
        with lock_run(run):
            page.locator(".run-head .state.running").wait_for()
            assert page.evaluate("Notification.permission") == "granted"
            page.evaluate(LOOK, False)
        record_ending(run, RunStatus("stopped", 31, "SIGINT"))
        wind_until(page, page.locator(".run-head .state.stopped"))
        assert page.evaluate("told") == ["runs/one: stopped"]


def test_an_act_that_ends_is_told_in_a_tab_that_is_not_seen(browser, folder):
    act = folder / ".thinktune/acts/20260101-000000-eval-aaaaaa"
    act.mkdir(parents=True)
    record = {
        "verb": "eval",
        "about": {"run": "runs/one"},
        "command": "thinktune eval runs/one",
        "argv": [],
        "folder": ".",
    }
    (act / "act.json").write_text(json.dumps(record | {"started_at": time.time()}))
    with studio_of(folder) as address, page_with_clock(browser, f"{address}/proof/runs/one") as page:
        page.locator(".act .state").wait_for()
        assert page.locator(".act").get_attribute("data-state") in ("waiting", "running")
        page.evaluate(LOOK, False)
        (act / "exit.json").write_text(json.dumps({"code": 0, "ended_at": time.time()}))
        wind_until(page, page.locator(".act"), gone=True)
        assert page.evaluate("told") == ["thinktune eval: finished"]
