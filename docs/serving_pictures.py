"""Take the pictures of docs/serving.md from a server that is running.

    thinktune serve runs/demo/expert
    python docs/serving_pictures.py http://127.0.0.1:8420/

Needs playwright and Chromium.
"""

import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

DOCS = Path(__file__).parent
QUESTION = "已知股价，还差哪个数才能得到市盈率？"
REPLY_MS = 300_000


def main(address: str) -> None:
    """Take base and tuned side by side on a desktop, and the tuned model alone on a dark phone in Chinese."""
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        _side_by_side(browser, address)
        _phone(browser, address)
        browser.close()


def _side_by_side(browser: Browser, address: str) -> None:
    """Ask both models in English, with the tuned one's reasoning expanded."""
    view = browser.new_context(viewport={"width": 1180, "height": 720}, locale="en-US")
    page = view.new_page()
    page.goto(address)
    page.select_option("#compare", "base")
    _ask(page, replies=2)
    page.locator("details").last.locator("summary").click()
    page.screenshot(path=DOCS / "talk.png")
    view.close()


def _phone(browser: Browser, address: str) -> None:
    """Ask the tuned model on a small dark screen."""
    view = browser.new_context(viewport={"width": 390, "height": 780}, locale="zh-CN", color_scheme="dark")
    page = view.new_page()
    page.goto(address)
    _ask(page, replies=1)
    page.screenshot(path=DOCS / "talk-phone.png")
    view.close()


def _ask(page: Page, replies: int) -> None:
    """Send the question and wait until every reply is whole."""
    page.fill("#question", QUESTION)
    page.click("#send")
    expect(page.locator("details")).to_have_count(replies, timeout=REPLY_MS)
    expect(page.locator("#stop")).to_be_hidden(timeout=REPLY_MS)


if __name__ == "__main__":
    main(sys.argv[1])
