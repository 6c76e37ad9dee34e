"""The chat page in a real browser: what a user sees, with the mouse, the keyboard alone, and on a phone."""

import json
import re
from collections.abc import Generator

import pytest
from support.api_server import ScriptedBackend, scripted_model, serving
from support.browser import CHAT

from thinktune.inference.chat_defaults import ChatDefaults
from thinktune.inference.requests import SamplingParams

MARKDOWN = """\
A **bold** word, `code`, and $x^2 + \\frac{1}{2}$ within a line; it costs $5 or $6.

| drug | dose |
|---|---:|
| aspirin | 100 mg |

$$\\int_0^1 x\\,dx = \\tfrac12$$

```python
print("<b>hello</b>")
```

<script>window.harmed = true</script><img src=x onerror="window.harmed = true">

[site](https://example.org) [bad](javascript:alert(1)) ![picture](https://example.org/x.png)
"""
SLOW = "<think>\nIt is a long thought.\n</think>\n\nAnd a long answer that takes its time to come, word by word."


@pytest.fixture(scope="module")
def backends():
    return {
        "tuned": ScriptedBackend("<think>\nFirst this,\n<b>then</b> that.\n</think>\n\nSo **it** is.", 0.03),
        "base": ScriptedBackend("Who knows.", 0.03, finish="length"),
        "slow": ScriptedBackend(SLOW, 0.15),
        "rich": ScriptedBackend(MARKDOWN),
    }


@pytest.fixture(scope="module")
def address(backends):
    defaults = ChatDefaults("Be kind.", SamplingParams(64, temperature=0.6), "Not medical advice.")
    with serving([scripted_model(backend, name, defaults) for name, backend in backends.items()]) as address:
        yield address


@pytest.fixture
def page(browser, address) -> Generator:
    """Open a fresh page; it must log no error to the console, and request nothing from other servers."""
    context = browser.new_context(viewport={"width": 1100, "height": 760}, locale="en-US")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    faults, elsewhere = [], []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith((address, "blob:")) else elsewhere.append(request.url)
    )
    page.goto(address)
    page.locator("#model option").first.wait_for(state="attached")
    yield page
    context.close()
    assert not faults
    assert not elsewhere


def ask(page, question="Why?", model="tuned"):
    page.select_option("#model", model)
    page.fill("#question", question)
    page.click("#send")


def finished(page):
    page.locator("#send").wait_for()


def test_a_chat_streams_and_the_reasoning_folds_when_the_answer_begins(page, backends):
    backends["tuned"].may_continue.clear()
    ask(page)
    page.locator(".thoughts", has_text="First").wait_for()
    assert page.locator("details.reasoning").evaluate("it => it.open")
    assert page.locator("summary").inner_text() == "Thinking…"
    assert page.locator(".answer").inner_text() == ""
    backends["tuned"].may_continue.set()
    finished(page)
    assert not page.locator("details.reasoning").evaluate("it => it.open")
    assert re.fullmatch(r"Thought for \d\.\d s", page.locator("summary").inner_text())
    page.locator("summary").click()
    assert page.locator(".thoughts").inner_text() == "First this,\n<b>then</b> that."
    page.locator("summary").click()
    assert page.locator(".answer strong").inner_text() == "it"
    assert re.fullmatch(r"20 tokens, 8 of them reasoning · ([\d.]+|–) tokens/s", page.locator(".facts").inner_text())
    assert page.locator("#notice").inner_text() == "Not medical advice."


def test_the_page_remembers_how_one_likes_the_reasoning(page):
    ask(page)
    finished(page)
    page.click("summary")
    page.reload()
    ask(page)
    page.locator(".answer:not(:empty)").nth(1).wait_for()
    finished(page)
    assert page.locator("details.reasoning").last.evaluate("it => it.open")


def test_stop_stops_and_frees_the_server(page, backends):
    backends["slow"].cancelled.clear()
    ask(page, model="slow")
    page.locator(".thoughts:not(:empty)").wait_for()
    page.keyboard.press("Escape")
    finished(page)
    page.locator(".mark", has_text="Stopped here.").wait_for()  # drawn by a frame, which a busy machine makes late
    assert backends["slow"].cancelled.wait(5)
    page.wait_for_timeout(300)
    assert "takes its time" not in page.locator(".reply").inner_text()


def test_side_by_side_both_stream_and_a_cut_reply_is_marked(page, backends):
    page.select_option("#compare", "base")
    ask(page)
    page.locator(".reply").nth(1).wait_for()
    finished(page)
    assert page.locator(".reply h3").all_inner_texts() == ["base", "tuned"]
    assert page.locator(".reply[data-model=base] .answer").inner_text() == "Who knows."
    assert page.locator(".reply[data-model=base] .mark").inner_text().startswith("Cut off here")
    assert page.locator(".reply[data-model=tuned] .mark").is_hidden()
    left, right = (page.locator(".reply").nth(number).bounding_box() for number in (0, 1))
    assert left["y"] == right["y"]
    ask(page, "And then?")
    finished(page)
    for name, answer in (("base", "Who knows."), ("tuned", "So **it** is.")):
        assert [turn.content for turn in backends[name].requests[-1].turns] == ["Be kind.", "Why?", answer, "And then?"]


def test_markdown_is_shown_and_nothing_in_a_reply_runs(page):
    ask(page, model="rich")
    finished(page)
    assert page.locator(".answer td").all_inner_texts() == ["aspirin", "100 mg"]
    assert page.locator(".answer math").count() == 2
    assert page.locator(".answer math mfrac").count() == 2
    assert "it costs $5 or $6" in page.locator(".answer").inner_text()
    assert page.locator(".answer pre").inner_text().strip() == 'print("<b>hello</b>")'
    assert "<script>window.harmed = true</script>" in page.locator(".answer").inner_text()
    assert page.locator(".answer script, .answer img").count() == 0
    assert page.evaluate("window.harmed") is None
    assert page.locator(".answer a").evaluate_all("all => all.map(it => it.getAttribute('href'))") == [
        "https://example.org"
    ]
    assert "[bad](javascript:alert(1))" in page.locator(".answer").inner_text()


def test_regenerate_asks_again_and_edit_sends_another_question(page, backends):
    ask(page, "One?")
    finished(page)
    ask(page, "Two?")
    finished(page)
    before = len(backends["tuned"].requests)
    page.locator(".regenerate").last.click()
    finished(page)
    assert len(backends["tuned"].requests) == before + 1
    assert page.locator(".turn").count() == 2
    page.locator(".question button").first.click()
    page.locator(".question textarea").fill("Three?")
    page.locator(".question .strong").click()
    finished(page)
    assert page.locator(".question .text").all_inner_texts() == ["Three?"]
    assert [turn.content for turn in backends["tuned"].requests[-1].turns] == ["Be kind.", "Three?"]


def test_answer_reasoning_and_both_can_be_copied(page):
    ask(page)
    finished(page)
    reasoning, answer = "First this,\n<b>then</b> that.", "So **it** is."
    for label, text in (("answer", answer), ("reasoning", reasoning), ("both", f"{reasoning}\n\n{answer}")):
        page.get_by_role("button", name=f"Copy {label}").click()
        page.get_by_role("button", name="Copied").first.wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == text


def test_chats_are_kept_in_the_browser_and_can_be_deleted(page, address):
    ask(page, "Kept?")
    finished(page)
    page.click("#new")
    assert page.locator(".turn").count() == 0
    ask(page, "Another?")
    finished(page)
    page.reload()
    assert page.locator("#history .title").all_inner_texts() == ["Another?", "Kept?"]
    page.get_by_role("button", name="Kept?", exact=True).click()
    assert page.locator(".answer").inner_text() == "So it is."
    page.get_by_role("button", name="Delete the chat “Kept?”").click()
    assert page.locator("#history .title").all_inner_texts() == ["Another?"]
    assert page.locator(".turn").count() == 0


def test_a_chat_is_exported_as_json_and_markdown(page):
    ask(page)
    finished(page)
    with page.expect_download() as download:
        page.click("#export-json")
    [reply] = json.loads(download.value.path().read_text(encoding="utf-8"))["turns"][0]["replies"]
    assert (reply["model"], reply["reasoning"], reply["answer"]) == (
        "tuned",
        "First this,\n<b>then</b> that.",
        "So **it** is.",
    )
    with page.expect_download() as download:
        page.click("#export-markdown")
    assert download.value.path().read_text(encoding="utf-8") == (
        "# Why?\n\n## Why?\n\n> **Reasoning**\n>\n> First this,\n> <b>then</b> that.\n\nSo **it** is.\n"
    )


def test_settings_reach_the_model(page, backends):
    page.click("#settings-open")
    assert page.input_value("#set-system") == "Be kind."
    page.fill("#set-system", "Be terse.")
    for name, value in (("temperature", "0.3"), ("top_p", "0.8"), ("top_k", "4"), ("max_tokens", "33"), ("seed", "5")):
        page.fill(f"#set-{name}", value)
    page.fill("#set-reasoning_budget", "7")
    page.uncheck("#set-thinking")
    page.click("#settings .actions .strong")
    page.reload()
    ask(page)
    finished(page)
    request = backends["tuned"].requests[-1]
    assert request.sampling == SamplingParams(33, 0.3, 0.8, 4, 5, (), 7)
    assert request.thinking is False
    assert request.turns[0].content == "Be terse."
    page.click("#settings-open")
    page.click("#set-reset")
    page.click("#settings .actions .strong")
    ask(page)
    finished(page)
    assert backends["tuned"].requests[-1].turns[0].content == "Be kind."
    assert backends["tuned"].requests[-1].sampling.max_new_tokens == 64


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone_in_chinese_by_the_keyboard_alone(browser, address, theme):
    context = browser.new_context(viewport={"width": 375, "height": 667}, locale="zh-CN", color_scheme=theme)
    page = context.new_page()
    page.goto(address)
    page.locator("#compare option").first.wait_for(state="attached")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("为什么？")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("请说明。")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"思考了 [\d.]+ 秒")).wait_for()
    page.locator("#send").wait_for()
    assert page.locator(".question .text").inner_text() == "为什么？\n请说明。"
    for _ in range(40):  # to the folded reasoning, by Tab alone
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    page.keyboard.press("Enter")
    assert page.locator("details.reasoning").evaluate("it => it.open")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    unlabelled = "[...document.querySelectorAll('button, input, select, textarea')].filter(it => it.offsetParent && !(it.ariaLabel || it.textContent.trim() || it.labels?.length)).length"
    assert page.evaluate(unlabelled) == 0  # everything that can be used has a name for screen readers
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 23, 28)") == (theme == "dark")
    assert CHAT in page.evaluate("Object.keys(localStorage).join()")
    context.close()
