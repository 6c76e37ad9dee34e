"""The list of chats in a real browser: each run's own, searched and named; and a server that is gone, named with a retry."""

import json
from collections.abc import Generator

import pytest
from support.api_server import ScriptedBackend, scripted_model, serving
from support.browser import CHAT
from support.chat_page import answered, answers, ask, finished, open_tabs, questions, regenerate, reload, titles

from thinktune.serve.models import Identity

MINE, OTHER = Identity("a" * 16, "mine"), Identity("b" * 16, "other")
SLOW = "Slowly it comes, word by word, and it takes its time."


def offered(identity=None, text="So it is.", delay=0.0):
    model = scripted_model(ScriptedBackend(text, delay))
    model.identity = identity
    return [model]


@pytest.fixture(scope="module")
def address():
    with serving(offered()) as address:
        yield address


@pytest.fixture
def page(browser, address) -> Generator:
    with open_tabs(browser, address) as tab:
        yield tab()


def port_of(address):
    return int(address.rpartition(":")[2])


def stored(page):
    script = (
        "(prefix) => Object.keys(localStorage).filter((key) => key.startsWith(prefix)).map((key) => localStorage[key])"
    )
    return {(chat["run"] or {}).get("name"): chat for chat in map(json.loads, page.evaluate(script, CHAT))}


@pytest.fixture
def served(browser) -> Generator:
    """Return a page at a fixed port, and functions that start another server there, and end it."""
    running = []

    def end():
        while running:
            running.pop().__exit__(None, None, None)

    def start(models):
        end()
        running.append(serving(models, port=port))
        return running[-1].__enter__()

    port = 0
    address = start(offered(MINE))
    port = port_of(address)
    with open_tabs(browser, address) as tab:
        yield tab(), start, end
    end()


def test_each_run_has_its_own_chats_and_one_that_goes_on_elsewhere_is_copied(served):
    page, start, _ = served
    answered(page, "A?")
    with page.expect_download() as download:
        page.click("#export-markdown")
    assert download.value.path().read_text(encoding="utf-8").startswith("# A?\n\n*mine*\n\n## A?")
    start(offered(OTHER, "Otherwise."))
    answered(page, "B?")  # the page stayed open meanwhile
    assert (questions(page), answers(page)) == (["A?", "B?"], ["So it is.", "Otherwise."])
    assert page.locator(".reply h3:not(.away)").all_inner_texts() == ["tuned · mine"]  # who wrote the first
    assert titles(page) == ["A?"]
    assert page.locator("#others-toggle").inner_text() == "Chats of other runs (1)"
    assert [len(stored(page)[name]["turns"]) for name in ("mine", "other")] == [1, 2]
    page.click("#others-toggle")
    assert page.locator("#others .run").all_inner_texts() == ["mine"]
    page.click("#others .title")
    assert questions(page) == ["A?"]
    assert (
        page.locator("#elsewhere").inner_text()
        == "This chat belongs to “mine”. If you continue, a copy is saved for “other”."
    )
    reload(page)
    assert (questions(page), titles(page)) == (["A?"], ["A?"])
    regenerate(page)
    assert (answers(page), page.locator("#elsewhere").is_hidden()) == (["Otherwise."], True)
    assert (len(titles(page)), len(titles(page, "#others"))) == (2, 1)
    start(offered(MINE))
    reload(page)
    assert titles(page) == ["A?"]
    page.click("#history .title")
    assert (questions(page), answers(page)) == (["A?"], ["So it is."])


@pytest.mark.slow
def test_chats_of_an_earlier_page_are_of_the_run_that_goes_on_with_them(served):
    page, _, _ = served
    reply = {"model": "tuned", "reasoning": "", "answer": "Old.", "finish": "stop"}
    chat = {"id": "f", "title": "old", "changed": 1, "turns": [{"question": "old?", "replies": [reply]}]}
    page.evaluate("([key, chat]) => localStorage.setItem(key, JSON.stringify(chat))", [f"{CHAT}f", chat])
    reload(page)
    assert titles(page) == ["old"]
    page.click("#history .title")
    answered(page, "and new?")
    assert list(stored(page)) == ["mine"]
    assert titles(page) == ["old"]


def test_a_server_that_is_gone_is_named_and_asked_again(served):
    page, start, end = served
    answered(page, "A?")
    end()
    ask(page, "B?")
    page.locator("#unreachable").wait_for()
    finished(page)
    address = page.url.rstrip("/")
    assert (
        page.locator("#unreachable").inner_text()
        == f"{address} does not answer. Is “thinktune serve” still running? Retry"
    )
    assert (page.input_value("#question"), questions(page)) == ("B?", ["A?"])
    page.get_by_role("button", name="Edit").click()
    page.locator(".question textarea").fill("C?")
    page.locator(".question .strong").click()
    finished(page)
    assert page.locator(".question textarea").input_value() == "C?"  # nothing of it is lost, either
    page.get_by_role("button", name="Cancel").click()
    page.click("#send")
    finished(page)
    page.get_by_role("button", name="Retry").focus()
    page.keyboard.press("Enter")
    finished(page)
    assert page.evaluate("document.activeElement.textContent") == "Retry"
    start(offered(MINE))
    page.keyboard.press("Enter")
    page.locator(".question .text", has_text="B?").wait_for()
    finished(page)
    assert (questions(page), page.input_value("#question")) == (["A?", "B?"], "")
    assert page.locator("#unreachable").count() == 0


@pytest.mark.slow
def test_a_server_that_goes_in_the_middle_of_a_reply_is_named_and_what_came_stays(served):
    page, start, end = served
    start(offered(MINE, SLOW, 0.6))
    ask(page, "A?")
    page.locator(".answer", has_text="Slowly").wait_for()
    end()
    page.locator(".mark.failed").wait_for()
    assert "Is “thinktune serve” still running?" in page.locator(".mark").inner_text()
    came = answers(page)[0]
    assert SLOW.startswith(came)
    assert came
    kept = page.evaluate("JSON.stringify({ ...localStorage })")
    assert came in kept
    start(offered(MINE))
    page.get_by_role("button", name="Retry").click()
    finished(page)
    assert (answers(page), page.locator(".turn > .versions span").inner_text()) == (["So it is."], "2/2")


@pytest.mark.slow
def test_a_reply_of_which_nothing_came_leaves_no_version(page):
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "A?")
    page.locator(".mark.failed").wait_for()
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Retry").click()
    finished(page)
    assert answers(page) == ["So it is."]
    assert page.locator(".turn > .versions").is_hidden()


@pytest.mark.slow
def test_a_proxy_that_finds_no_server_is_not_taken_for_one(page):
    page.route(
        "**/v1/models", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>", content_type="text/html")
    )
    ask(page, "A?")
    page.locator("#unreachable").wait_for()
    assert "does not answer" in page.locator("#unreachable").inner_text()


@pytest.mark.slow
def test_chats_are_searched_by_all_that_was_written(page):
    for question in ("Blood pressure", "Ｄｏｓｅ of aspirin", "血压多少正常"):
        page.click("#new")
        answered(page, question)
    for wanted, found in (
        ("PRESSURE", ["Blood pressure"]),
        ("aspirin dose", ["Ｄｏｓｅ of aspirin"]),  # any order, any width
        ("血压", ["血压多少正常"]),
        ("blood aspirin", []),
        ("it is", ["血压多少正常", "Ｄｏｓｅ of aspirin", "Blood pressure"]),  # in the answers
    ):
        page.fill("#search", wanted)
        assert titles(page) == found
    assert page.locator("#found").inner_text() == "3 chats found"
    page.fill("#search", "nowhere")
    assert (titles(page), page.locator("#found").inner_text()) == ([], "No chat found")
    page.keyboard.press("Escape")
    assert len(titles(page)) == 3
    assert page.locator("#found").is_hidden()


@pytest.mark.slow
def test_a_chat_is_renamed(page):
    for question in ("A?", "B?"):
        page.click("#new")
        answered(page, question)

    def rename(title, *keys):
        page.get_by_role("button", name="Rename the chat").last.click()
        page.locator("#history input").fill(title)
        for key in keys:
            page.keyboard.press(key)

    rename("Named", "Enter")
    assert titles(page) == ["B?", "Named"]  # in its place
    assert page.evaluate("document.activeElement.ariaLabel") == "Rename the chat “Named”"
    rename("Not this", "Escape")
    assert titles(page) == ["B?", "Named"]
    rename("By leaving", "Tab")
    assert titles(page) == ["B?", "By leaving"]
    page.locator("#history .title").last.click()
    answered(page, "More?")
    assert titles(page) == ["By leaving", "B?"]
    reload(page)
    assert titles(page) == ["By leaving", "B?"]
    rename("", "Enter")
    assert titles(page) == ["By leaving", "B?"]  # an empty name is the first question
    page.get_by_role("button", name="Rename the chat").first.click()
    page.locator("#history input").fill("pinyin")
    key = "it => it.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', keyCode: 229, bubbles: true }))"
    page.locator("#history input").evaluate(key)  # it picks characters
    assert page.locator("#history input").input_value() == "pinyin"
    page.keyboard.press("Enter")
    assert titles(page) == ["pinyin", "B?"]


@pytest.mark.slow
def test_a_name_that_is_being_written_survives_a_reply_that_ends(page, browser):
    with serving(offered(None, SLOW, 0.02)) as address, open_tabs(browser, address) as tab:
        page = tab()
        ask(page, "A?")
        page.locator(".answer:not(:empty)").wait_for()
        page.get_by_role("button", name="Rename the chat").click()
        page.locator("#history input").fill("While it")
        finished(page)
        page.locator("#history input").press("Enter")
        assert titles(page) == ["While it"]


@pytest.mark.slow
def test_a_chat_deleted_in_one_tab_does_not_come_back_from_another(browser, address):
    with open_tabs(browser, address) as tab:
        one = tab()
        answered(one, "A?")
        other = tab()
        other.click("#history .title")
        one.get_by_role("button", name="Delete the chat").click()
        reload(other)
        assert titles(other) == []
        reload(one)
        assert titles(one) == []


@pytest.mark.slow
def test_theme_and_language_are_chosen_and_kept(browser, address):
    ground = "getComputedStyle(document.body).backgroundColor"
    with open_tabs(browser, address, color_scheme="dark") as tab:
        page = tab()
        answered(page, "A?")
        page.fill("#question", "a draft")
        dark = page.evaluate(ground)
        page.get_by_label("Theme").select_option("light")
        light = page.evaluate(ground)
        assert light != dark
        regenerate(page)
        page.get_by_role("button", name="中文").click()
        assert page.locator("#undo").inner_text().split() == ["原来的内容已保留为另一个版本。", "撤销"]
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        assert page.get_by_role("button", name="发送").is_visible()
        assert page.locator(".regenerate").inner_text() == "重新生成"
        assert (questions(page), page.input_value("#question")) == (["A?"], "a draft")
        reload(page)
        assert page.evaluate(ground) == light
        assert page.get_by_role("button", name="发送").is_visible()
        page.get_by_label("外观").select_option("")
        assert page.evaluate(ground) == dark
        page.get_by_role("button", name="English").click()
        assert page.get_by_role("button", name="Send").is_visible()


@pytest.mark.slow
def test_on_a_phone_the_list_lies_over_the_chat_and_escape_closes_it(browser, address):
    with open_tabs(browser, address, viewport={"width": 390, "height": 700}) as tab:
        page = tab()
        answered(page, "A?")
        before = page.locator("#ask").bounding_box()
        page.click("#menu")
        assert page.locator("#search").is_visible()
        assert page.locator("#ask").bounding_box() == before
        page.keyboard.press("Escape")
        assert page.locator("#search").is_hidden()
        page.click("#menu")
        page.mouse.click(380, 300)  # beside it
        assert page.locator("#search").is_hidden()
        page.click("#menu")
        page.click("#menu")
        assert page.locator("#search").is_hidden()


@pytest.mark.slow
def test_the_boxes_grow_with_what_is_written_and_a_long_question_scrolls(page):
    height = "it => it.offsetHeight"
    box = page.locator("#question")
    small = box.evaluate(height)
    page.fill("#question", "a line\n" * 8)
    grown = box.evaluate(height)
    assert grown > 2 * small
    assert box.evaluate("it => it.scrollHeight <= it.clientHeight")
    page.fill("#question", "many words " * 1500)
    assert grown < box.evaluate(height) <= 0.41 * 760
    reload(page)
    assert box.evaluate(height) > grown
    page.keyboard.press("Enter")
    finished(page)
    assert box.evaluate(height) == small
    text = page.locator(".question .text")
    assert text.evaluate(height) <= 0.51 * 760
    assert text.evaluate("it => it.tabIndex") == 0  # the keyboard scrolls it
    page.get_by_role("button", name="Edit").click()
    assert page.locator(".question textarea").evaluate(height) > grown
