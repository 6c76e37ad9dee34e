"""The studio's server, or the work of a screen, is killed at every screen: the page says so, and everything goes on."""

import shutil

import pytest
from support.axe import violations
from support.scripted_teacher import teaching
from support.studio_process import StudioProcess, tab, wait_until
from support.trained_folder import make_trained_folder

from thinktune.files import read_json

pytestmark = pytest.mark.slow
DEAD = "The studio does not answer"
LOST = "The connection is lost"  # as Train says it, whose stream breaks


@pytest.fixture(scope="module")
def trained(browser, tmp_path_factory):
    return make_trained_folder(tmp_path_factory.mktemp("kills"))


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "folder", symlinks=True)


@pytest.fixture(scope="module")
def teacher():
    with teaching(pause_seconds=2.0) as (address, _):
        yield address


class Check:
    """A check of the rows, on the screens Rows and Plan."""

    verb = "check"

    def __init__(self, screen):
        self.place = f"{screen}/small.yaml"

    def begin(self, page, _teacher):
        page.get_by_role("button", name="Check the rows").click()

    def done(self, page):
        page.get_by_role("button", name="Check again").wait_for()


class Evaluation:
    """An evaluation on the screen Proof."""

    verb, place = "eval", "proof/runs/small"

    def begin(self, page, _teacher):
        page.get_by_role("checkbox", name="general questions").uncheck()
        page.get_by_role("button", name="Start the evaluation").click()

    def done(self, page):
        page.locator("table.measures").first.wait_for()


class Chat:
    """A model that is loaded on the screen Talk."""

    verb, place = "serve", "talk/runs/small"

    def begin(self, page, _teacher):
        page.get_by_role("button", name="Load the model").click()

    def done(self, page):
        page.frame_locator("iframe").locator("#model option").first.wait_for(state="attached")


class Export:
    """An export on the screen Take home."""

    verb, place = "export", "take-home/runs/small"

    def begin(self, page, _teacher):
        page.get_by_role("checkbox", name="transformers folder").check()
        page.get_by_role("button", name="Write the chosen forms").click()

    def done(self, page):
        page.get_by_text("✓").wait_for()


class Thinking:
    """A teacher that is asked on the screen Think."""

    verb, place = "think", "think/sums.yaml"

    def begin(self, page, teacher):
        page.locator("#address").wait_for(state="attached")
        if not page.locator("#address").is_visible():
            page.locator("details.card > summary").first.click()
        page.locator("#address").fill(teacher)
        page.locator("#tokens").fill("100000")
        page.get_by_role("button", name="Start thinking").click()

    def done(self, page):
        page.get_by_role("heading", name="Account", exact=True).wait_for()


WORK = {"rows": Check("rows"), "plan": Check("plan"), "proof": Evaluation(), "talk": Chat(), "take-home": Export(), "think": Thinking()}  # fmt: skip


def half_written(folder):
    return [path for path in folder.rglob("*") if path.name.endswith((".partial", ".tmp"))]


def outage(page, studio):
    """Kill the server, see that the page says so, start it again, and see that the page is whole without a reload."""
    page.evaluate("window.notReloaded = true")
    studio.kill()
    page.get_by_text(DEAD).locator("visible=true").wait_for()  # once
    if not page.locator("iframe").count():
        assert violations(page) == []
    studio.start()
    for said in (DEAD, LOST):
        wait_until(lambda said=said: not page.get_by_text(said).count())
    assert page.evaluate("window.notReloaded")


@pytest.mark.parametrize("screen", WORK)
def test_work_goes_on_while_the_server_is_dead_and_the_page_comes_back(browser, folder, teacher, screen):
    work = WORK[screen]
    with StudioProcess(folder) as studio, tab(browser, studio, work.place) as page:
        work.begin(page, teacher)
        act = studio.living(work.verb)
        page.locator(".act[data-state=running]").wait_for()
        outage(page, studio)
        work.done(page)
        assert len(studio.acts(work.verb)) == 1
        if work.verb != "serve":
            wait_until(act.exit.exists)
            assert read_json(act.exit)["code"] == 0
        assert half_written(folder) == []


@pytest.mark.parametrize("place", ["", "rows", *(work.place for work in WORK.values())])
def test_a_screen_without_work_tells_of_the_dead_server_too(browser, folder, place):
    with StudioProcess(folder) as studio, tab(browser, studio, place) as page:
        page.locator("main button").first.wait_for()
        outage(page, studio)


@pytest.mark.parametrize("screen", WORK)
def test_work_that_was_killed_has_died_and_is_begun_again(browser, folder, teacher, screen):
    work = WORK[screen]
    with StudioProcess(folder) as studio, tab(browser, studio, work.place) as page:
        work.begin(page, teacher)
        studio.kill_act(studio.living(work.verb))
        page.locator(".act[data-state=died]").wait_for()
        page.get_by_text("It was killed before it could say why").wait_for()
        work.begin(page, teacher)
        work.done(page)
        assert len(studio.acts(work.verb)) == 2
        assert not page.locator(".act[data-state=died]").count(), "what died is no longer shown once it was done again"
        assert half_written(folder) == []


def test_home_shows_what_runs_through_an_outage_and_what_died(browser, folder):
    with StudioProcess(folder) as studio, tab(browser, studio, "train/runs/long") as page:
        page.get_by_role("button", name="Start training").click()
        page.locator(".run-head .state.running").wait_for()
        outage(page, studio)
        page.locator(".run-head .state.running").wait_for()
        page.get_by_role("link", name="Home", exact=True).click()
        page.locator(".going .state.running").wait_for()
        outage(page, studio)
        assert page.locator(".going .state.running").is_visible()
        page.locator("tr.row .state.running").wait_for()
        studio.kill_act(studio.living("train"))
        page.locator(".going").wait_for(state="detached")
        page.locator("tr.row .state.died").wait_for()
        page.locator("tr.row", has=page.locator(".state.died")).get_by_role("link").click()
        page.get_by_role("button", name="Resume").click()
        page.locator(".run-head .state.running").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.locator(".run-head .state.stopped").wait_for()
        assert half_written(folder) == []


def test_a_comparison_that_was_killed_is_made_again(browser, folder):
    shutil.copytree(folder / "runs" / "small", folder / "runs" / "other")
    with StudioProcess(folder) as studio, tab(browser, studio) as page:
        for name in ("runs/small", "runs/other"):
            page.get_by_role("checkbox", name=name).check()
        page.get_by_role("button", name="Show side by side").click()
        studio.kill_act(studio.living("report"))
        page.locator(".runs .bar .state.died").wait_for()
        page.get_by_role("button", name="Show side by side").click()
        page.get_by_role("link", name="Open the page").wait_for()


def test_an_upload_that_the_server_did_not_outlive_leaves_nothing_and_is_sent_again(browser, folder):
    rows = folder.parent / "many.jsonl"
    rows.write_text(
        20_000
        * '{"question": "Where is the lake?", "answer": "It is in Orlam, behind the hill, in the valley of the Tivon."}\n'
    )
    with StudioProcess(folder) as studio, tab(browser, studio, "rows") as page:
        network = page.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 300_000}
        network.send("Network.emulateNetworkConditions", slow)
        picker = page.locator("input[type=file]")
        picker.set_input_files(rows)
        wait_until(lambda: half_written(folder))
        studio.kill()
        page.get_by_text("many.jsonl did not arrive whole").wait_for()
        page.get_by_text(DEAD).locator("visible=true").wait_for()
        assert half_written(folder), "the kill came amid the upload"
        studio.start()
        wait_until(lambda: not page.get_by_text(DEAD).count())
        assert half_written(folder) == []
        network.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
        picker.set_input_files(rows)
        page.get_by_role("heading", name="many.jsonl").wait_for()
        assert (folder / "many.jsonl").read_bytes() == rows.read_bytes()
        assert half_written(folder) == []


def test_a_reply_that_was_being_written_says_that_it_broke_off_whoever_died(browser, folder):
    recipe = folder / "runs/small/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("max_new_tokens: 6", "max_new_tokens: 2000"))
    with StudioProcess(folder) as studio, tab(browser, studio, Chat.place) as page:
        Chat().begin(page, "")
        Chat().done(page)
        chat = page.frame_locator("iframe")

        def ask():
            chat.locator("#question").fill("heart?")
            chat.locator("#question").press("Enter")
            chat.locator("#stop:visible").wait_for()
            chat.locator(".reply").last.wait_for()

        ask()
        outage(page, studio)
        chat.locator(".mark.failed").wait_for()
        ask()
        studio.kill_act(studio.living("serve"))
        page.locator(".act[data-state=died]").wait_for()
        Chat().begin(page, "")
        Chat().done(page)
        ask()
        assert chat.get_by_text("heart?").count() >= 3, "what was said stays"
