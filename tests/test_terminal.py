"""No control character of a stranger reaches a terminal, whichever way it is printed."""

import ast
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

import thinktune
from thinktune.terminal import GuardedStream, guard_console, print_json, say, say_to_stderr, show_controls

ROOT = Path(thinktune.__file__).parent
C0 = [chr(code) for code in range(32) if chr(code) not in "\n\t"]
CONTROLS = [*C0, "\x7f", *map(chr, range(0x80, 0xA0)), *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"]
HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\u202ee\x7ff\rg\x08h"


def controls(text):
    return sorted({character for character in text if character in CONTROLS})


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_character_is_shown_by_its_escape(control):
    shown = show_controls(f"a{control}b")
    assert controls(shown) == []
    assert shown.encode().decode("unicode_escape") == f"a{control}b"


def test_text_in_any_language_with_its_lines_and_tabs_is_left_as_it_is():
    text = "心脏\tпривет\nשלום \u200fمرحبا\u200d 👩‍🚀 é"
    assert show_controls(text) == text
    assert show_controls("one\r\ntwo") == "one\ntwo"


def test_lines_hold_neither_controls_nor_secrets(capsys):
    secret = "ghp_" + "aB3d" * 9
    say(f"{HOSTILE} {secret}")
    say_to_stderr(f"{HOSTILE} {secret}")
    for printed in capsys.readouterr():
        assert printed.endswith("***\n")
        assert controls(printed) == []


def test_json_escapes_them_so_that_the_value_is_the_same(capsys):
    print_json({"row": HOSTILE, "key": "hf_" + "a1B2" * 9})
    printed = capsys.readouterr().out
    assert controls(printed) == []
    assert json.loads(printed) == {"row": HOSTILE, "key": "***"}


@pytest.mark.parametrize("make", [str, Text, lambda text: Text(text, "bold red"), lambda text: in_table(text)])
@pytest.mark.parametrize("options", [{}, {"markup": False, "soft_wrap": True, "end": ""}, {"style": "dim"}])
def test_a_guarded_console_shows_them_and_keeps_its_own_colours(make, options):
    screen = io.StringIO()
    console = guard_console(Console(file=screen, force_terminal=True, color_system="standard", width=200))
    console.print(make(HOSTILE), **options)
    console.print("red", style="red")
    shown = screen.getvalue()
    assert "\x1b[31mred\x1b[0m" in shown
    plain = Text.from_ansi(shown.replace("\x1b[0m", "").replace("\x1b[31m", "").replace("\x1b[2m", "")).plain
    assert "\\x1b[2J" in plain
    for control in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\u202e", "\x7f", "\x08"):
        assert control not in shown


def in_table(text):
    table = Table(text)
    table.add_row(text)
    return table


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_a_guarded_stream_lets_no_escape_through_but_the_bars_of_libraries():
    screen = Screen()
    stream = GuardedStream(screen)
    print(HOSTILE, file=stream)
    assert set(controls(screen.getvalue())) <= {"\r"}
    assert stream.isatty()
    stream.write("\x1b[A")
    assert screen.getvalue().endswith("\n\x1b[A")
    stream.writelines(["\x1b[Aspoofed\n"])
    assert "\\x1b[Aspoofed" in screen.getvalue()
    piped = io.StringIO()
    GuardedStream(piped).write("\x1b[A")
    assert "\x1b" not in piped.getvalue()


def test_no_other_module_prints_or_makes_a_console_or_writes_to_the_streams():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and path.name != "terminal.py":
                called = ast.unparse(node.func)
                assert called not in ("print", "Console", "typer.echo", "sys.stdout.write"), f"{path}:{node.lineno}"
