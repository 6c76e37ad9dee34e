"""The pages of questions quote messages that the tool has, the same in both languages."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OF_THE_SHELL = {"thinktune: command not found"}


def read_headings(page: str) -> list[str]:
    return re.findall(r"^### `(.+)`$", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.MULTILINE)


@cache
def read_messages() -> list[str]:
    """Read every text of the source with what is filled in left out."""
    texts: list[str] = []
    for path in sorted((ROOT / "src" / "thinktune").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def fits(message: str, text: str) -> bool:
    """Return True if a text has all that the page quotes of a message, in its order."""
    place = 0
    for part in message.split("…"):
        place = text.find(part.strip(), place)
        if place < 0:
            return False
        place += len(part.strip())
    return True


@pytest.mark.parametrize("message", read_headings("faq.md"))
def test_a_quoted_message_is_one_of_ours(message):
    assert message in OF_THE_SHELL or any(fits(message, text) for text in read_messages()), message


def test_a_message_that_is_not_ours_is_found_out():
    assert not any(fits("…: is a banana; peel it", text) for text in read_messages())


def test_both_languages_answer_the_same_messages():
    assert len(read_headings("faq.md")) > 20
    assert read_headings("faq.md") == read_headings("faq.zh.md")
