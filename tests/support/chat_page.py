"""The chat page in tabs of one browser, as tests use it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def open_tabs(browser: Any, address: str, **context_options: Any) -> Generator[Callable[[], Any]]:
    """Yield a function that opens the page in another tab with the same storage; no page may log an error of its own."""
    context = browser.new_context(**({"viewport": {"width": 1100, "height": 760}, "locale": "en-US"} | context_options))
    faults = []

    def open_tab():
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        ready(page)
        return page

    yield open_tab
    context.close()
    assert not faults


def ready(page):
    page.locator("#model option").first.wait_for(state="attached")


def reload(page):
    page.reload()
    ready(page)


def ask(page, question):
    page.fill("#question", question)
    page.click("#send")


def answered(page, question):
    ask(page, question)
    page.locator(".question .text", has_text=question).last.wait_for()
    finished(page)


def finished(page):
    page.locator("#send").wait_for()


def regenerate(page, turn=-1):
    page.locator(".regenerate").nth(turn).click()
    finished(page)


def edit(page, former, question):
    section = page.locator(".question", has_text=former)
    section.get_by_role("button", name="Edit").click()
    page.locator(".question textarea").fill(question)
    page.locator(".question .strong").click()
    finished(page)


def questions(page):
    return page.locator(".question .text").all_inner_texts()


def answers(page):
    return page.locator(".answer").all_inner_texts()


def titles(page, where="#history"):
    return page.locator(f"{where} .title").all_inner_texts()
