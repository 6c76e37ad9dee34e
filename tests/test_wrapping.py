"""Lines on a terminal end between words; what is copied stays whole, and nothing is lost."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from thinktune.terminal import guard_console, say
from thinktune.wrapping import HANGING_INDENT, wrap_text, wrap_words

WORDS = st.lists(st.text("abcé:;`.-", min_size=1, max_size=30), min_size=1, max_size=30)


@given(WORDS, st.integers(8, 100), st.integers(0, 6))
def test_words_are_kept_in_their_order_and_only_a_single_word_is_too_wide(words, columns, indent):
    wrapped = wrap_words(" " * indent + " ".join(words), columns)
    assert wrapped.split() == words
    for line in wrapped.split("\n"):
        assert cell_len(line) <= columns or len(line.split()) == 1 or "`" in line


@given(st.text("心脏泵血，。（）ab 12", max_size=200), st.integers(12, 100))
@example("心脏泵血心脏 。泵血", 12)
def test_chinese_breaks_between_characters_but_not_before_a_mark_that_closes(text, columns):
    wrapped = wrap_words(text, columns)
    assert "".join(wrapped.split()) == "".join(text.split())
    assert not any(line.strip().startswith(("，", "。", "）")) for line in wrapped.split("\n")[1:])


@given(st.text("心脏泵血", max_size=200), st.integers(12, 100))
def test_every_line_of_chinese_fits(text, columns):
    assert all(cell_len(line) <= columns for line in wrap_words(text, columns).split("\n"))


@given(st.lists(st.text("ab 汉\n", max_size=40), max_size=4), st.integers(10, 40))
def test_lines_that_fit_stay_as_they_are(parts, columns):
    text = "\n".join(parts)
    if all(cell_len(line) <= columns for line in text.split("\n")):
        assert wrap_words(text, columns) == text


@pytest.mark.parametrize(
    "copied",
    [
        "thinktune init 'my own rows about the heart.jsonl' --card 4090 --yes",
        "pip install -U transformers and something that is long enough for a line",
    ],
)
def test_a_command_at_the_end_stays_on_one_line(copied):
    lines = wrap_words(f"rows.jsonl: is a file of rows, but a recipe is expected; write one first: {copied}", 60).split(
        "\n"
    )
    assert lines[-1] == " " * HANGING_INDENT + copied
    assert all(len(line) <= 60 for line in lines[:-1])


def test_the_next_command_is_never_broken():
    line = f"next:   thinktune train {'folder/' * 12}mine.yaml train.epochs=2 name=second"
    assert wrap_words(line, 60) == line
    assert "`thinktune train`" in wrap_words(
        "this run has no model yet; run `thinktune train` until its first evaluation", 45
    )


def test_styles_stay_on_their_words():
    text = Text("plain ") + Text("red words here", "red") + Text(" plain again")
    wrapped = wrap_text(text, 12)
    assert {wrapped.plain[span.start : span.end] for span in wrapped.spans if span.style == "red"} == {
        "red",
        "words here",
    }


def test_a_console_breaks_lines_on_a_terminal_alone():
    line = "one two three four five six seven eight nine ten"
    for terminal, expected in ((True, ["one two three four", "  five six seven", "  eight nine ten"]), (False, [line])):
        screen = io.StringIO()
        console = guard_console(Console(file=screen, force_terminal=terminal, color_system=None, width=20))
        console.print(line, soft_wrap=True)
        assert screen.getvalue().split("\n")[:-1] == expected
        console.print(line, end="", soft_wrap=True)  # a piece of a stream: where its line began is not known
        assert screen.getvalue().endswith(line)


def test_a_line_is_not_broken_where_output_is_no_terminal(capsys):
    say("word " * 60)
    assert capsys.readouterr().out == "word " * 60 + "\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
def test_an_error_on_a_terminal_of_eighty_columns_ends_its_lines_between_words(tmp_path):
    main, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-m", "thinktune", "train", "a-recipe-that-is-not-here-and-has-quite-a-long-name.yaml"]
    subprocess.run(command, cwd=tmp_path, stderr=terminal, env=environment, timeout=60)
    os.close(terminal)
    text = re.sub(r"\x1b\[[0-9;]*m", "", os.read(main, 10_000).decode())
    os.close(main)
    lines = text.splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 80 for line in lines)
    sentence = "cannot be read (No such file or directory); name a recipe file, such as one in recipes/"
    assert sentence in " ".join(" ".join(lines).split())
