"""Debian's Chromium for tests, or a skip that names what is missing."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager

import pytest

CHAT = "thinktune.chat."
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run"]  # fmt: skip


@contextmanager
def open_browser() -> Generator:
    """Open a headless browser; skip the test where Chromium or Playwright is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the tests of the page need playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("the tests of the page need Chromium: apt-get install chromium fonts-noto-cjk")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=SWITCHES)
        yield browser
        browser.close()
