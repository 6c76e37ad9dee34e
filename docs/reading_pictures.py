"""Take the pictures of docs/reading-your-run.md from a made run: `python docs/reading_pictures.py runs/overfitting`.

Needs playwright and Chromium. `docs/overfitting_run.py` makes the run; `thinktune eval` on it adds the answers.
"""

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
WIDTH = 1000
LANGUAGES = {"en": "en-US", "zh": "zh-CN"}


def main(folder: Path) -> None:
    """Take the parts of the page that the docs show, in both languages, and the page of both runs."""
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for language, locale in LANGUAGES.items():
            view = browser.new_context(viewport={"width": WIDTH, "height": 1000}, locale=locale, offline=True)
            page = view.new_page()
            page.goto((folder / "overfitting" / "report.html").resolve().as_uri())
            page.screenshot(path=DOCS / f"reading-top.{language}.png", clip=_until(page, ".contents"))
            page.locator("#learning .chart svg.plot").first.focus()
            for _ in range(4):
                page.keyboard.press("ArrowLeft")
            page.locator("#learning > div > div").first.screenshot(path=DOCS / f"reading-curves.{language}.png")
            page.locator("#samples").screenshot(path=DOCS / f"reading-samples.{language}.png")
            page.goto((folder / "overfitting-beside-stopped.html").resolve().as_uri())
            page.screenshot(path=DOCS / f"reading-beside.{language}.png", clip=_until(page, "section .chart svg.plot"))
            view.close()
        browser.close()


def _until(page: Page, selector: str) -> dict[str, float]:
    """Return the area from the page's top to the end of the first element that a selector finds."""
    box = page.locator(selector).first.bounding_box()
    assert box
    return {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + 12}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
