"""The chat page leaves nobody out: axe-core finds nothing, in both themes and languages, on a desktop and on a phone."""

from collections.abc import Generator

import pytest
from support.api_server import ScriptedBackend, scripted_model, serving
from support.axe import EVERY_VIEW, violations

RICH = """<think>
### Plan

1. Look at `x`.

##### Then

$$\\int_0^1 x\\,dx$$
</think>

##### Answer

| drug | dose |
|---|---:|
| aspirin | 100 mg |

```python
print(1)
```

- [x] done, see [site](https://example.org) and $a_1 + a_2 + a_3 + a_4 + a_5 + a_6 + a_7 + a_8 + a_9$

> quoted

هذا نص عربي.

# Last
"""


@pytest.fixture(scope="module")
def address():
    backends = {"tuned": ScriptedBackend(RICH), "base": ScriptedBackend("Who knows.", finish="length")}
    with serving([scripted_model(backend, name) for name, backend in backends.items()]) as address:
        yield address


@pytest.fixture(scope="module")
def locked():
    with serving([scripted_model(ScriptedBackend("yes"))], key="secret") as address:
        yield address


@pytest.fixture
def page(browser, locale, scheme, width) -> Generator:
    context = browser.new_context(viewport={"width": width, "height": 760}, locale=locale, color_scheme=scheme)
    page = context.new_page()
    yield page
    context.close()


def ask(page, question):
    page.fill("#question", question)
    page.click("#send")
    page.locator("#send").wait_for()
    page.locator(".question .text", has_text=question).wait_for()


@EVERY_VIEW
def test_chat_settings_and_side_by_side(page, address, width):
    page.goto(address)
    page.locator("#compare option").nth(1).wait_for(state="attached")
    assert violations(page) == [], "the empty page"
    ask(page, "Why?")
    page.select_option("#compare", "base")
    ask(page, "Why not?")
    for summary in page.locator("summary:visible").all():
        if not summary.evaluate("it => it.parentElement.open"):
            summary.click()
    if width < 720:
        page.click("#menu")
    assert violations(page) == [], "a chat, side by side"
    page.keyboard.press("Escape")  # the list lies over the chat
    page.locator(".question button").first.click()
    assert violations(page) == [], "a question that is edited"
    page.locator(".question textarea").press("Escape")
    if width < 720:
        page.click("#menu")
    page.locator("#history button.remove").first.click()
    assert violations(page) == [], "a chat that was deleted"
    page.keyboard.press("Escape")
    page.click("#settings-open")
    assert violations(page) == [], "the settings"


@EVERY_VIEW
def test_key_dialog_and_failure(page, locked):
    page.goto(locked)
    page.locator("#key[open]").wait_for()
    assert violations(page) == [], "the key is asked for"
    page.keyboard.press("Escape")
    page.route("**/v1/models", lambda route: route.abort())
    page.fill("#question", "Why?")
    page.click("#send")
    page.locator("#unreachable").wait_for()
    assert violations(page) == [], "a server that is gone"
