"""Chats in a real browser: no turn, draft or setting is lost, by reloads, second tabs, full storage or a wrong key."""

from collections.abc import Generator

import pytest
from support.api_server import ScriptedBackend, scripted_model, serving
from support.browser import CHAT
from support.chat_page import open_tabs, questions, ready, reload, titles

SLOW = "<think>\nIt is a long thought.\n</think>\n\nAnd a long answer that takes its time to come, word by word."
FULL = """() => { const set = Storage.prototype.setItem;
  Storage.prototype.setItem = function (key, value) {
    if (window.isFull && this === localStorage) throw new DOMException('full', 'QuotaExceededError');
    set.call(this, key, value);
  }; window.isFull = true; }"""


@pytest.fixture(scope="module")
def backends():
    return {"tuned": ScriptedBackend("So **it** is.", 0.01), "slow": ScriptedBackend(SLOW, 0.1)}


@pytest.fixture(scope="module")
def address(backends):
    with serving([scripted_model(backend, name) for name, backend in backends.items()]) as address:
        yield address


@pytest.fixture
def tab(browser, address) -> Generator:
    """Return a function that opens the page in another tab of the same browser; no page may log an error."""
    with open_tabs(browser, address) as tab:
        yield tab


def ask(page, question, model="tuned"):
    page.select_option("#model", model)
    page.fill("#question", question)
    page.click("#send")


def answered(page, question, model="tuned"):
    ask(page, question, model)
    page.locator(".question .text", has_text=question).wait_for()
    page.locator("#send").wait_for()


def test_loads_without_a_question_leave_no_chat(tab):
    page = tab()
    for _ in range(3):
        reload(page)
    page.click("#new")
    reload(page)
    assert titles(page) == []
    assert CHAT not in page.evaluate("Object.keys(localStorage).join()")


def test_nameless_and_damaged_chats_of_earlier_versions_are_not_listed(tab):
    page = tab()
    page.evaluate(
        """(prefix) => { for (const [key, text] of Object.entries({
      a: '{"id": "a", "turns": [], "title": "", "changed": 1}', b: 'null', c: '5', d: '{"id": "d"}', e: '{"id',
      f: '{"id": "f", "title": "old", "changed": 1, "turns": [{"question": "old?", "replies": []}]}' }))
        localStorage.setItem(prefix + key, text); }""",
        CHAT,
    )
    reload(page)
    assert titles(page) == ["old"]
    page.click("#history .title")
    answered(page, "and new?")
    assert questions(page) == ["old?", "and new?"]


def test_a_reload_keeps_the_open_chat_and_the_draft(tab):
    page = tab()
    answered(page, "First?")
    page.click("#new")
    answered(page, "Second?")
    page.click("#history .title >> text=First?")
    page.locator("#question").press_sequentially("half a quest")
    reload(page)
    assert questions(page) == ["First?"]
    assert page.input_value("#question") == "half a quest"
    page.keyboard.press("Enter")
    page.locator(".question .text", has_text="half").wait_for()
    page.locator("#send").wait_for()
    reload(page)
    assert page.input_value("#question") == ""
    assert questions(page) == ["First?", "half a quest"]


def test_an_offered_question_has_a_chat_of_its_own_and_no_draft_is_lost(tab, address):
    def offer(question):
        page.goto("about:blank")
        page.goto(f"{address}/#question={question}")
        ready(page)

    page = tab()
    answered(page, "First?")
    page.fill("#question", "half a quest")
    offer("Why")
    offer("Who")
    reload(page)
    assert page.input_value("#question") == "Who"
    assert questions(page) == []
    page.click("#send")
    page.locator(".question .text", has_text="Who").wait_for()
    page.locator("#send").wait_for()
    offer("When")
    page.click("#history .title >> text=First?")
    assert questions(page) == ["First?"]
    assert page.input_value("#question") == "half a quest"
    page.click("#new")
    page.fill("#question", "of no chat yet")
    offer("Where")
    page.fill("#question", "")
    page.click("#new")
    assert page.input_value("#question") == "of no chat yet"


def test_a_reload_in_the_middle_of_a_reply_keeps_what_came(tab):
    page = tab()
    ask(page, "Long?", "slow")
    page.locator(".answer", has_text="And").wait_for()
    reload(page)
    assert page.locator(".thoughts").text_content() == "It is a long thought."
    assert page.locator(".answer").inner_text().startswith("And")
    assert page.locator(".mark").inner_text() == "Stopped here."
    answered(page, "Go on?")
    assert questions(page) == ["Long?", "Go on?"]


def test_two_tabs_on_one_chat_keep_the_turns_of_both(tab):
    one = tab()
    answered(one, "Start?")
    other = tab()
    other.click("#history .title")
    assert questions(other) == ["Start?"]
    answered(one, "From one?")
    other.locator(".question .text", has_text="From one?").wait_for()  # seen without a reload
    answered(other, "From other?")
    one.locator(".question .text", has_text="From other?").wait_for()
    ask(one, "Slow of one?", "slow")
    ask(other, "Slow of other?", "slow")  # both at the same time
    for page in (one, other):
        page.locator("#send").wait_for()
    wanted = ["Start?", "From one?", "From other?", "Slow of one?", "Slow of other?"]
    for page in (one, other):
        page.locator(".question .text").nth(4).wait_for()
        assert questions(page) == wanted
        reload(page)
        assert questions(page) == wanted
        assert page.locator(".answer", has_text="word by word").count() == 2


def test_a_turn_that_one_tab_replaced_does_not_come_back_from_the_other(tab):
    one = tab()
    for question in ("A?", "B?"):
        answered(one, question)
    other = tab()
    other.click("#history .title")
    one.locator(".question button").first.click()
    one.locator(".question textarea").fill("C?")
    one.locator(".question .strong").click()
    one.locator("#send").wait_for()
    other.locator(".question .text", has_text="C?").wait_for()
    assert questions(other) == ["C?"]
    answered(other, "D?")
    reload(one)
    assert questions(one) == ["C?", "D?"]


def test_what_was_replaced_or_deleted_can_be_brought_back(tab):
    page = tab()
    for question in ("A?", "B?"):
        answered(page, question)
    page.locator(".regenerate").first.click()
    page.locator("#send").wait_for()
    assert questions(page) == ["A?"]
    page.click("#undo-button")
    assert questions(page) == ["A?", "B?"]
    assert page.locator(".answer").all_inner_texts() == ["So it is."] * 2
    page.locator(".question button").first.click()
    page.locator(".question textarea").fill("C?")
    page.locator(".question .strong").click()
    page.locator("#send").wait_for()
    page.click("#undo-button")
    reload(page)
    assert questions(page) == ["A?", "B?"]
    page.get_by_role("button", name="Delete the chat “A?”").click()
    assert titles(page) == []
    page.click("#undo-button")
    assert (titles(page), questions(page)) == (["A?"], ["A?", "B?"])
    answered(page, "E?")
    assert page.locator("#undo").is_hidden()  # it would take the new turn away


def test_a_chat_deleted_while_it_is_answered_stays_deleted(tab):
    page = tab()
    ask(page, "Long?", "slow")
    page.locator(".thoughts:not(:empty)").wait_for()
    page.get_by_role("button", name="Delete the chat").click()
    page.wait_for_timeout(500)
    assert titles(page) == []
    reload(page)
    assert titles(page) == []


def test_escape_leaves_the_settings_as_they_were(tab, backends):
    page = tab()
    page.click("#settings-open")
    page.fill("#set-temperature", "5")
    page.click("#settings .actions .strong")
    assert page.locator("#settings").evaluate("it => it.open")  # the browser says why
    page.fill("#set-top_k", "7")
    page.keyboard.press("Escape")
    answered(page, "Fine?")
    page.locator(".mark").wait_for(state="hidden")  # drawn by a frame, which a busy machine makes late
    assert backends["tuned"].requests[-1].sampling.temperature != 5
    assert backends["tuned"].requests[-1].sampling.top_k != 7
    page.click("#settings-open")
    page.click("#set-reset")
    page.keyboard.press("Escape")
    page.click("#settings-open")
    assert page.input_value("#set-temperature") == ""


def test_reset_counts_only_with_done(tab):
    page = tab()
    page.click("#settings-open")
    page.fill("#set-seed", "5")
    page.keyboard.press("Enter")
    page.click("#settings-open")
    page.click("#set-reset")
    assert page.input_value("#set-seed") == ""
    page.keyboard.press("Escape")
    page.click("#settings-open")
    assert page.input_value("#set-seed") == "5"
    page.click("#set-reset")
    page.click("#settings .actions .strong")
    reload(page)
    page.click("#settings-open")
    assert page.input_value("#set-seed") == ""


def test_settings_stored_by_an_earlier_version_that_are_refused_are_not_sent(tab):
    page = tab()
    page.evaluate("localStorage.setItem('thinktune.settings', '{\"temperature\": 5, \"seed\": 3}')")
    reload(page)
    answered(page, "Fine?")
    page.locator(".mark").wait_for(state="hidden")  # drawn by a frame, which a busy machine makes late


def test_a_full_storage_is_said_where_it_is_seen(tab):
    page = tab()
    page.evaluate(FULL)
    answered(page, "Kept?")
    assert page.locator("#problem").is_visible()
    assert "not saved" in page.locator("#problem").inner_text()
    assert page.locator(".answer").inner_text() == "So it is."
    page.evaluate("window.isFull = false")
    answered(page, "Now?")
    assert page.locator("#problem").is_hidden()
    assert titles(page) == ["Kept?"]


def test_enter_that_picks_characters_sends_nothing(tab):
    page = tab()
    page.fill("#question", "nihao")
    key = "it => it.dispatchEvent(new KeyboardEvent('keydown', {{ key: 'Enter', keyCode: {}, bubbles: true, cancelable: true }}))"
    page.locator("#question").evaluate(key.format(229))  # as Safari does after a composition
    assert questions(page) == []
    assert page.input_value("#question") == "nihao"
    page.locator("#question").evaluate(key.format(13))
    page.locator(".answer:not(:empty)").wait_for()
    page.locator("#send").wait_for()
    page.locator(".question button").first.click()
    page.locator(".question textarea").evaluate(key.format(229))
    assert page.locator(".question textarea").is_visible()


def test_a_question_asked_while_the_server_is_away_stays_in_its_box(tab, address):
    page = tab()
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    page.locator("#unreachable").wait_for()
    page.fill("#question", "Lost?")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert page.input_value("#question") == "Lost?"
    page.unroute("**/v1/models")
    page.keyboard.press("Enter")
    page.locator(".answer:not(:empty)").wait_for()
    assert questions(page) == ["Lost?"]
    assert page.locator("#unreachable").count() == 0


def test_escape_in_the_key_dialog_keeps_no_key(browser, backends):
    with serving([scripted_model(backends["tuned"])], key="a-long-secret-key") as address:
        page = browser.new_page(locale="en-US")
        page.goto(address)
        page.locator("#key[open]").wait_for()
        page.fill("#key-text", "half a key")
        page.keyboard.press("Escape")
        assert page.locator("#key").is_hidden()
        assert page.evaluate("sessionStorage.getItem('thinktune.key')") is None
        page.fill("#question", "Who?")
        page.keyboard.press("Enter")
        page.locator("#key[open]").wait_for()
        page.fill("#key-text", "a-long-secret-key")
        page.keyboard.press("Enter")
        ready(page)
        assert page.input_value("#question") == "Who?"
        page.close()
