"""Fifty replies in a real browser: how each is drawn stands beside it as text, and streaming draws the same.

With THINKTUNE_GOLDEN=rewrite in the environment, the texts are written anew; read their difference before you commit it.
"""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from support.api_server import ScriptedBackend, scripted_model, serving
from support.browser import open_browser

FOLDER = Path(__file__).parent / "golden_replies"
NAMES = sorted(file.stem for file in FOLDER.glob("*.md"))
# A tree, one node a line, by indentation; a formula on one line. What is drawn from right to left says so.
HELPERS = """async () => {
  const { showMarkdown } = await import('/page/markdown.js');
  const answer = document.createElement('div');
  answer.className = 'answer markdown';
  document.querySelector('#log').replaceChildren(answer);
  const attributes = (node) => [...node.attributes].map((one) => ` ${one.name}=${JSON.stringify(one.value)}`).sort().join('');
  const lines = (node, depth) => {
    const indent = '  '.repeat(depth);
    if (node.nodeType === Node.TEXT_NODE)
      return node.data.trim() || node.parentElement.closest('pre, .written') ? [indent + JSON.stringify(node.data)] : [];
    if (node.localName === 'math') return [indent + node.outerHTML];
    const side = node.dir && getComputedStyle(node).direction === 'rtl' ? ' (rtl)' : '';
    return [`${indent}${node.localName}${attributes(node)}${side}`, ...[...node.childNodes].flatMap((one) => lines(one, depth + 1))];
  };
  window.show = (text) => (showMarkdown(text, answer), answer);
  window.drawn = (text) => [...window.show(text).childNodes].flatMap((node) => lines(node, 0)).join('\\n') + '\\n';
  window.afresh = (text) => (answer.replaceChildren(), showMarkdown('', answer), window.drawn(text));
  // What is read off the screen: a list's numbers, too, which are no text of the document.
  window.read = (text) => {
    const copy = window.show(text).cloneNode(true);
    for (const item of copy.querySelectorAll('ol > li')) item.prepend(`${item.value} `);
    for (const button of copy.querySelectorAll('button')) button.remove();
    return copy.textContent.replaceAll('☑', 'x');
  };
}"""


@pytest.fixture(scope="module")
def page():
    with serving([scripted_model(ScriptedBackend("yes"))]) as address, open_browser() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 700}, locale="en-US")
        page.goto(address)
        page.locator("#model option").first.wait_for(state="attached")
        page.evaluate(HELPERS)
        yield page


def written(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_is_drawn_as_it_was(page, name):
    found = page.evaluate("text => window.afresh(text)", written(name))
    golden = FOLDER / f"{name}.txt"
    if os.environ.get("THINKTUNE_GOLDEN") == "rewrite":
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8")


def test_the_set_is_whole():
    assert len(NAMES) >= 40
    assert {file.stem for file in FOLDER.glob("*.txt")} == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_reply_that_streams_in_is_drawn_as_one_that_is_there(page, name):
    """Each beginning of a reply, drawn over the one before, is what it is when drawn alone."""
    differing = """text => {
      const cuts = Array.from({ length: 24 }, (_, at) => text.slice(0, Math.ceil((text.length * (at + 1)) / 24)));
      const alone = cuts.map((cut) => window.afresh(cut));
      window.afresh('');
      return cuts.filter((cut, at) => window.drawn(cut) !== alone[at]);
    }"""
    assert page.evaluate(differing, written(name)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_reply_is_never_wider_than_a_phone(page, name):
    page.evaluate("text => window.show(text)", written(name))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    log = page.locator("#log")
    assert log.evaluate("it => it.scrollWidth <= it.clientWidth")


@pytest.mark.slow
def test_what_a_reader_does_in_a_block_outlives_those_that_follow(page):
    """A focused button, a selection and a scrolled table stay while the reply goes on."""
    text = written("code_with_a_language") + "\n" + written("table_wide")
    page.evaluate("text => window.afresh(text + '\\n\\nAnd', true)", text)
    page.locator(".answer .copy").focus()
    page.locator(".answer .table").evaluate("it => it.scrollTo(50, 0)")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.answer pre'))")
    page.evaluate("text => window.show(text + '\\n\\nAnd so on.\\n\\n1. one')", text)
    assert page.evaluate("document.activeElement.className") == "quiet copy"
    assert page.locator(".answer .table").evaluate("it => it.scrollLeft") == 50
    assert "def area" in page.evaluate("getSelection().toString()")


PIECES = ["\n", "\n\n", " ", "  ", "    ", "a", "b1", "3", "42", "中文", "。", "：", "“", "”", "（", "）", "é", "1. ", "7) ", "2026. ", "- ", "+ ", "* ",
          "*", "**", "***", "_", "__", "~", "~~", "`", "``", "```", "> ", ">", "# ", "### ", "|", " | ", "|---|---|\n", "---", "===", "-", "=",
          "[", "]", "](", "(", ")", "[x]: ", "[1]", "[ ] ", "[x] ", "!", "<b>", "</b>", "<", "<!--", "-->", "<div>", "x<y", "5*3", "3~5", "\\", ":", "^"]  # fmt: skip


@pytest.mark.slow
@examples(max_examples=25)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=24).map("".join), min_size=12, max_size=12))
def test_no_letter_and_no_digit_is_lost_or_moved(page, texts):
    for text, read in zip(texts, page.evaluate("texts => texts.map(window.read)", texts), strict=True):
        assert re.sub(r"\W|_", "", read) == re.sub(r"\W|_", "", text), text
