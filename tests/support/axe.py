"""axe-core in a page of the browser: what would leave someone out."""

import itertools

import pytest

VIEWS = list(itertools.product(("en-US", "zh-CN"), ("light", "dark"), (1280, 390)))
QUICK = {("zh-CN", "dark", 390)}
EVERY_VIEW = pytest.mark.parametrize(
    ("locale", "scheme", "width"),
    [pytest.param(*view, marks=() if view in QUICK else pytest.mark.slow) for view in VIEWS],
)


def violations(page) -> list[str]:
    """Return what axe-core finds wrong with a page as it is shown, its best practices included."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']} ({one['impact']}): {node['target']} {node['html'][:200]}" for one in found for node in one["nodes"]]  # fmt: skip
