"""Versions of a question and of its replies in a real browser: each can be shown again, and goes on by itself."""

import json
from collections.abc import Generator

import pytest
from support.api_server import ScriptedBackend, scripted_model, serving
from support.browser import CHAT
from support.chat_page import answered, answers, edit, finished, open_tabs, questions, regenerate, reload, titles

# Two chats stand for two tabs: each takes over at random moments what the other has stored. What was asked is never
# lost, every turn has its place, and in the end both agree.
TWO_TABS = """async () => {
  const branches = await import('/page/branches.js');
  const chats = await import('/page/chat.js');
  const store = await import('/page/store.js');
  let state = 7;
  const random = (below) => (state = (state * 48271) % 2147483647) % below;
  const faults = [];
  for (let round = 0; round < 60; round++) {
    const one = chats.newChat();
    const tabs = [one];
    const asked = [];
    for (let act = 0; act < 14; act++) {
      if (act === 2) tabs.push(store.readChat(one.id) ?? one);
      const chat = tabs[random(tabs.length)];
      const shown = branches.shownTurns(chat);
      const turn = chats.newTurn(`${round} ${act}`);
      const kind = shown.length ? random(5) : 0;
      if (kind === 4) { store.takeOver(chat); continue; }
      if (kind === 3) {
        const { questions, replies } = branches.versionsOf(chat, shown[random(shown.length)]);
        const all = [...questions, ...replies];
        const chosen = all[random(all.length)];
        branches.showTurn(chat, chosen);
        if (!branches.shownTurns(chat).includes(chosen)) faults.push('a chosen version is not shown');
      } else if (kind) {
        const former = shown[random(shown.length)];
        if (kind === 1) turn.question = former.question;
        branches.addVersion(chat, turn, former);
      } else branches.addTurn(chat, turn);
      if (kind < 3) {
        asked.push(turn.id);
        if (!branches.shownTurns(chat).includes(turn)) faults.push('what was asked is not shown');
        turn.replies = [{ ...chats.newReply('tuned'), answer: turn.id, finish: 'stop' }];
      }
      store.keepChat(chat);
    }
    for (const chat of [...tabs, ...tabs]) { store.takeOver(chat); store.keepChat(chat); }
    const stored = store.readChat(one.id);
    const after = stored.turns.filter((turn) => !turn.again && !turn.edited).map(({ parent }) => parent);
    if (new Set(after).size < after.length) faults.push('two questions of two tabs do not follow each other');
    const parents = (chat) => JSON.stringify(chat.turns.map(({ id, parent, again }) => [id, parent, again]));
    for (const chat of [...tabs, stored]) {
      if (chat.turns.map(({ id }) => id).sort().join() !== [...asked].sort().join()) faults.push('a turn is lost');
      if (parents(chat) !== parents(stored)) faults.push('the tabs differ');
      for (const turn of chat.turns) {
        branches.showPath(chat, turn);
        const { questions, replies } = branches.versionsOf(chat, turn);
        if (!branches.shownTurns(chat).includes(turn) || !questions.includes(turn) || !replies.includes(turn)) faults.push('a turn cannot be shown');
      }
    }
    store.forgetChat(one);
  }
  return faults;
}"""


@pytest.fixture(scope="module")
def backend():
    return ScriptedBackend("So it is.")


@pytest.fixture(scope="module")
def address(backend):
    with serving([scripted_model(backend)]) as address:
        yield address


@pytest.fixture
def tab(browser, address, backend) -> Generator:
    backend.text = "So it is."
    with open_tabs(browser, address) as tab:
        yield tab


def reply_versions(page, turn=-1):
    return page.locator(".turn > .versions").nth(turn)


def count(versions):
    return versions.locator("span").inner_text()


def sent(backend):
    return [turn.content for turn in backend.requests[-1].turns]


def test_a_regenerated_reply_keeps_the_former_ones_and_what_came_after_them(tab, backend):
    page = tab()
    answered(page, "A?")
    answered(page, "B?")
    for text in ("Second.", "Third."):
        backend.text = text
        regenerate(page, 0)
    assert (questions(page), answers(page)) == (["A?"], ["Third."])
    assert count(reply_versions(page)) == "3/3"
    assert page.locator(".question .versions").is_hidden()  # the question has one version
    reply_versions(page).get_by_role("button", name="Previous version").click()
    assert (answers(page), count(reply_versions(page))) == (["Second."], "2/3")
    answered(page, "C?")
    assert sent(backend) == ["A?", "Second.", "C?"]
    reply_versions(page, 0).get_by_role("button", name="Previous version").click()
    assert (questions(page), answers(page)) == (["A?", "B?"], ["So it is."] * 2)
    reply_versions(page, 0).get_by_role("button", name="Next version").click()
    assert questions(page) == ["A?", "C?"]
    reload(page)
    assert questions(page) == ["A?", "C?"]
    assert count(reply_versions(page, 0)) == "2/3"


@pytest.mark.slow
def test_versions_of_a_question_and_of_its_replies_are_counted_apart(tab, backend):
    page = tab()
    answered(page, "A?")
    for text in ("Again.", "Third."):
        backend.text = text
        regenerate(page)
    reply_versions(page).get_by_role("button", name="Previous version").click()
    edit(page, "A?", "B?")
    answered(page, "Deep?")
    edit(page, "Deep?", "Deeper?")
    assert questions(page) == ["B?", "Deeper?"]
    asked = page.locator(".question .versions")
    assert [count(asked.nth(number)) for number in (0, 1)] == ["2/2", "2/2"]
    assert reply_versions(page, 0).is_hidden()
    asked.first.get_by_role("button", name="Previous version").click()
    assert (questions(page), answers(page)) == (["A?"], ["Again."])  # the reply that was shown before
    assert (count(asked.first), count(reply_versions(page))) == ("1/2", "2/3")
    asked.first.get_by_role("button", name="Next version").click()
    assert questions(page) == ["B?", "Deeper?"]
    assert sent(backend) == ["B?", "Third.", "Deeper?"]


@pytest.mark.slow
def test_versions_are_reached_and_told_without_a_mouse(tab, backend):
    page = tab()
    answered(page, "A?")
    for _ in range(2):
        regenerate(page)
    versions = reply_versions(page)
    assert versions.get_attribute("aria-label") == "Versions of the answer"
    versions.get_by_role("button", name="Previous version").focus()
    page.keyboard.press("Enter")
    assert page.locator("#status").inner_text() == "Version 2 of 3"
    focused = "document.activeElement.ariaLabel"
    assert page.evaluate(focused) == "Previous version"
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "Next version"  # there is no former one
    page.keyboard.press("Enter")
    assert count(reply_versions(page)) == "2/3"


@pytest.mark.slow
def test_a_version_that_is_left_while_it_is_written_is_written_on(tab, backend):
    page = tab()
    answered(page, "A?")
    backend.text, backend.delay = "Slowly it comes, word by word.", 0.1
    page.locator(".regenerate").click()
    page.locator(".answer", has_text="Slowly").wait_for()
    reply_versions(page).get_by_role("button", name="Previous version").click()
    assert answers(page) == ["So it is."]
    reply_versions(page).get_by_role("button", name="Next version").click()
    assert answers(page)[0].startswith("Slowly")
    reply_versions(page).get_by_role("button", name="Previous version").click()
    finished(page)
    backend.delay = 0
    assert answers(page) == ["So it is."]
    reply_versions(page).get_by_role("button", name="Next version").click()
    assert answers(page) == [backend.text]
    assert page.locator(".mark").is_hidden()


def test_markdown_holds_the_shown_versions_and_json_all(tab, backend):
    page = tab()
    answered(page, "What is a/b: 1?")
    answered(page, "B?")
    backend.text = "Other."
    regenerate(page, 0)
    with page.expect_download() as download:
        page.click("#export-markdown")
    assert download.value.suggested_filename == "What is a b 1.md"
    assert download.value.path().read_text(encoding="utf-8") == "# What is a/b: 1?\n\n## What is a/b: 1?\n\nOther.\n"
    with page.expect_download() as download:
        page.click("#export-json")
    assert download.value.suggested_filename == "What is a b 1.json"
    exported = json.loads(download.value.path().read_text(encoding="utf-8"))
    first, second, third = exported["turns"]
    assert [turn["replies"][0]["answer"] for turn in exported["turns"]] == ["So it is.", "So it is.", "Other."]
    assert (second["parent"], third["again"], exported["shown"]) == (first["id"], first["id"], [third["id"]])


@pytest.mark.slow
def test_a_title_becomes_the_name_of_a_file_on_any_system(tab):
    named = {
        "糖尿病？怎么办": "糖尿病？怎么办",
        "../../etc/passwd": "etc passwd",
        "...": "chat",
        "a\tb\x07 <c>|d*": "a b c d",
        "😀" * 70: "😀" * 60,
    }
    script = """async (titles) => {
      const { fileName } = await import('/page/chat.js');
      return titles.map((title) => fileName({ title }, 'md'));
    }"""
    found = tab().evaluate(script, list(named))
    assert found == [f"{name}.md" for name in named.values()]


@pytest.mark.slow
def test_a_chat_of_an_earlier_page_gets_versions(tab):
    page = tab()
    turns = [{"question": f"{number}?", "replies": []} for number in range(12)]
    for turn in turns:
        turn["replies"] = [{"model": "tuned", "reasoning": "", "answer": "Old.", "finish": "stop"}]
    chat = {"id": "f", "title": "old", "changed": 1, "turns": turns}
    page.evaluate("([key, chat]) => localStorage.setItem(key, JSON.stringify(chat))", [f"{CHAT}f", chat])
    reload(page)
    page.click("#history .title")
    assert questions(page) == [f"{number}?" for number in range(12)]
    regenerate(page, 10)
    assert questions(page) == [f"{number}?" for number in range(11)]
    reload(page)
    reply_versions(page, 10).get_by_role("button", name="Previous version").click()
    assert questions(page) == [f"{number}?" for number in range(12)]


@pytest.mark.slow
def test_another_tab_sees_a_new_version_and_keeps_the_former_one(tab, backend):
    one = tab()
    answered(one, "A?")
    other = tab()
    other.click("#history .title")
    backend.text = "Other."
    regenerate(one)
    other.locator(".answer", has_text="Other.").wait_for()
    assert count(reply_versions(other)) == "2/2"
    reply_versions(other).get_by_role("button", name="Previous version").click()
    answered(other, "B?")
    one.locator(".question .text", has_text="B?").wait_for()
    assert (questions(one), answers(one)) == (["A?", "B?"], ["So it is.", "Other."])


@pytest.mark.slow
def test_a_question_that_is_edited_survives_what_another_tab_asks(tab):
    one = tab()
    answered(one, "A?")
    other = tab()
    other.click("#history .title")
    one.get_by_role("button", name="Edit").click()
    one.locator(".question textarea").fill("Half a new quest")
    answered(other, "B?")
    one.locator(".question .text", has_text="B?").wait_for()
    assert one.locator(".question textarea").input_value() == "Half a new quest"


@pytest.mark.slow
def test_whatever_two_tabs_do_no_turn_is_lost(tab):
    page = tab()
    assert page.evaluate(TWO_TABS) == []
    assert titles(page) == []
